//! The worker threads: each with a runtime, sockets, and upstream connections of its own.

use super::pulse::Pulse;
use crate::{
    edge::Edge,
    listener::{self, Shared, WorkerSockets},
    proxy::Proxy,
};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use std::{future::Future, io, sync::Arc, thread, time::Duration};
use tokio::sync::{mpsc, watch};

/// Idle upstream connections that each worker keeps.
const UPSTREAM_POOL: usize = 512;
/// Tries of one request at the most, whatever `retries.attempts` says.
const MOST_TRIES: usize = 16;
/// Ends that may wait to be told of: more than there are workers.
const ENDS: usize = 4096;

/// The threads that serve.
#[derive(Debug)]
pub struct Workers {
    left: usize,
    sender: mpsc::Sender<End>,
    ended: mpsc::Receiver<End>,
    pulse: Pulse,
    /// How often it is asked whether they beat.
    beat: Option<Duration>,
}

/// How a worker ended: well, when it was asked to, or in words.
type End = Result<(), String>;

impl Workers {
    /// None so far. `beat`: how often [`all_beat`](Self::all_beat) will be asked, if at all.
    pub fn new(beat: Option<Duration>) -> Self {
        let (sender, ended) = mpsc::channel(ENDS);
        Self {
            left: 0,
            sender,
            ended,
            pulse: Pulse::default(),
            beat,
        }
    }

    /// Starts one thread for each set of sockets.
    ///
    /// # Errors
    /// When a thread or its runtime can't be made.
    pub fn start(
        &mut self,
        sockets: Vec<WorkerSockets>,
        shared: &Arc<Shared>,
        edge: &Arc<Edge>,
        stopping: &watch::Receiver<bool>,
    ) -> io::Result<()> {
        for sockets in sockets {
            let shared = Arc::clone(shared);
            let proxy = proxy(edge);
            let stopping = stopping.clone();
            self.spawn(move || listener::run_worker(sockets, shared, proxy, stopping))?;
        }
        Ok(())
    }

    /// Starts a thread that runs this, on a runtime of its own.
    fn spawn<F>(&mut self, serve: impl FnOnce() -> F + Send + 'static) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let number = self.left;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let beat = self.beat.map(|every| self.pulse.add().go_on(every));
        let obituary = Obituary {
            to: self.sender.clone(),
            end: Err(format!("worker {number} has panicked")),
        };
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let mut obituary = obituary;
                if let Some(beat) = beat {
                    runtime.spawn(beat);
                }
                let served = runtime.block_on(async { serve().await });
                obituary.end = served.map_err(|error| format!("worker {number}: {error}"));
            })?;
        self.left += 1;
        Ok(())
    }

    /// Waits for one worker to end, and says how it did. Without workers it waits for ever.
    pub async fn ended(&mut self) -> End {
        let how = self.ended.recv().await;
        self.left = self.left.saturating_sub(1);
        how.unwrap_or(Ok(()))
    }

    /// Waits for all to end: their last connections are gone.
    ///
    /// # Errors
    /// Says how the first one ended that did not end well; others may go on.
    pub async fn finish(&mut self) -> End {
        while self.left > 0 {
            self.ended().await?;
        }
        Ok(())
    }

    /// Whether every worker still turns: has ticked since this was asked the last time.
    pub fn all_beat(&mut self) -> bool {
        self.pulse.all_beat()
    }
}

/// Tells of a worker's end, however it comes.
struct Obituary {
    to: mpsc::Sender<End>,
    end: End,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        // Full or closed only when nobody waits any more.
        let _ = self.to.try_send(std::mem::replace(&mut self.end, Ok(())));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_or_fails_is_told_of() {
        let mut workers = Workers::new(None);
        workers
            .spawn(async || panic!("as the test asked for"))
            .unwrap();
        let told = workers.finish().await.unwrap_err();
        assert_eq!(told, "worker 0 has panicked");
        workers
            .spawn(async || Err(io::Error::other("no sockets")))
            .unwrap();
        assert_eq!(workers.ended().await.unwrap_err(), "worker 0: no sockets");
        workers.spawn(async || Ok(())).unwrap();
        workers.spawn(async || Ok(())).unwrap();
        assert_eq!(workers.finish().await, Ok(()));
    }

    #[tokio::test]
    async fn a_worker_that_blocks_does_not_beat() {
        let every = Duration::from_millis(30);
        let mut workers = Workers::new(Some(every));
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (done, go_on) = tokio::sync::oneshot::channel::<()>();
        let (inside, is_inside) = std::sync::mpsc::channel();
        workers
            .spawn(async move || {
                // Not a thing to do on a runtime: that is the point.
                inside.send(()).unwrap();
                blocked.recv().unwrap();
                let _ = go_on.await;
                Ok(())
            })
            .unwrap();
        is_inside.recv().unwrap();
        workers.all_beat();
        assert!(!workers.all_beat(), "it can't have ticked");
        release.send(()).unwrap();
        while !workers.all_beat() {
            tokio::time::sleep(every).await;
        }
        done.send(()).unwrap();
        assert_eq!(workers.finish().await, Ok(()));
    }
}
