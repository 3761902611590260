//! The worker threads: each with a runtime, sockets, and upstream connections of its own.

use crate::{
    edge::Edge,
    listener::{self, Shared, WorkerSockets},
    proxy::Proxy,
};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use std::{io, sync::Arc, thread};
use tokio::sync::{mpsc, watch};

/// Idle upstream connections that each worker keeps.
const UPSTREAM_POOL: usize = 512;
/// Tries of one request at the most, whatever `retries.attempts` says.
const MOST_TRIES: usize = 16;

/// The threads that serve.
#[derive(Debug)]
pub struct Workers {
    left: usize,
    ended: mpsc::Receiver<String>,
}

impl Workers {
    /// Starts one thread for each set of sockets.
    ///
    /// # Errors
    /// When a thread or its runtime can't be made.
    pub fn start(
        sockets: Vec<WorkerSockets>,
        shared: &Arc<Shared>,
        edge: &Arc<Edge>,
        stopping: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let (sender, ended) = mpsc::channel(sockets.len().max(1));
        let left = sockets.len();
        for (number, sockets) in sockets.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let shared = Arc::clone(shared);
            let proxy = proxy(edge);
            let stopping = stopping.clone();
            let obituary = Obituary(sender.clone(), format!("worker {number} has panicked"));
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let mut obituary = obituary;
                    let served =
                        runtime.block_on(listener::run_worker(sockets, shared, proxy, stopping));
                    obituary.1 = match served {
                        Ok(()) => format!("worker {number} has ended"),
                        Err(error) => format!("worker {number}: {error}"),
                    };
                })?;
        }
        Ok(Self { left, ended })
    }

    /// Waits for one worker to end, and says how it did.
    pub async fn ended(&mut self) -> String {
        let how = self.ended.recv().await;
        self.left = self.left.saturating_sub(1);
        how.unwrap_or_default()
    }

    /// Waits for all to end: their last connections are gone.
    pub async fn finish(&mut self) {
        while self.left > 0 {
            self.ended().await;
        }
    }
}

/// Tells of a worker's end, however it comes.
struct Obituary(mpsc::Sender<String>, String);

impl Drop for Obituary {
    fn drop(&mut self) {
        // One place a worker: never full. Closed only when nobody waits any more.
        let _ = self.0.try_send(std::mem::take(&mut self.1));
    }
}

fn proxy(edge: &Arc<Edge>) -> Arc<HttpProxy<Proxy>> {
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        max_retries: MOST_TRIES,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Proxy::new(Arc::clone(edge)), Arc::new(conf));
    proxy.handle_init_modules();
    Arc::new(proxy)
}
