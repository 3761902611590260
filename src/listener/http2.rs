//! HTTP/2 connections: pingora's loop over the streams, with settings that bound what a client can
//! take, and the deadlines that the loop lacks.

use super::{
    Shared, close, head,
    http1::FAREWELL,
    stream::{ClientStream, Home, Lent},
};
use crate::{config::model::ClientTimeouts, connection::Connection, record::metrics::Metrics};
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::http::{
        ServerSession,
        v2::server::{H2Options, default_h2_options},
    },
    server::ShutdownWatch,
};
use pingora_proxy::{HttpProxy, ProxyHttp};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Streams that a client may have open at once.
const CONCURRENT_STREAMS: u32 = 128;
/// Bytes that a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Streams reset for the client's own errors before the connection ends.
const LOCAL_RESETS: usize = 64;
/// Bytes of answers that wait for the client, a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Serves one connection to its end.
pub async fn serve<SV>(
    mut stream: Box<ClientStream>,
    shared: &Shared,
    proxy: &Arc<HttpProxy<SV>>,
    alive: &Arc<super::accept::Alive>,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    stream.speak_http2();
    let timeouts = shared.config.load().connections.timeouts.clone();
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(timeouts.idle);
    let app = Arc::new(App {
        proxy: Arc::clone(proxy),
        options,
        connection: Arc::clone(stream.connection()),
        metrics: Arc::clone(&shared.metrics),
        timeouts: timeouts.clone(),
        requests: AtomicU64::new(0),
        active: AtomicU32::new(0),
        dropped: Notify::new(),
        _alive: Arc::clone(alive),
    });
    let home = Home::default();
    let lent = Box::new(Lent::new(stream, &home));
    let mut late = false;
    tokio::select! {
        biased;
        () = app.dropped.notified() => {}
        _ = app.process_new(lent, &shared.draining) => {}
        () = silence(&app, timeouts.headers) => late = true,
        () = farewell(&app, shared.draining.clone()) => {}
    }
    if late {
        shared.metrics.connection_refused("timeout");
    }
    let came_home = home.lock().take();
    if let Some(mut stream) = came_home {
        stream.timed_out |= late;
        close::close(stream).await;
    }
}

/// Ends when no request has begun within `limit`.
async fn silence<SV>(app: &App<SV>, limit: Duration) {
    sleep(limit).await;
    if app.requests.load(Relaxed) > 0 {
        std::future::pending::<()>().await;
    }
}

/// Ends when the process leaves and the client asks for nothing any more. Pingora says GOAWAY and
/// waits; a client that does not answer would hold the process up.
async fn farewell<SV>(app: &App<SV>, mut draining: ShutdownWatch) {
    // An error means that the sender is gone, which is leaving as well.
    let _ = draining.wait_for(|leave| *leave).await;
    loop {
        let before = app.requests.load(Relaxed);
        sleep(FAREWELL).await;
        if app.active.load(Relaxed) == 0 && app.requests.load(Relaxed) == before {
            return;
        }
    }
}

struct App<SV> {
    proxy: Arc<HttpProxy<SV>>,
    options: HttpServerOptions,
    connection: Arc<Connection>,
    metrics: Arc<Metrics>,
    timeouts: ClientTimeouts,
    /// Requests begun.
    requests: AtomicU64,
    /// Requests in service.
    active: AtomicU32,
    /// The connection is to end without a word.
    dropped: Notify,
    /// Requests outlive the connection by their logging: the worker waits for them too.
    _alive: Arc<super::accept::Alive>,
}

/// Counts a request as active while it lives.
struct Active<'a>(&'a AtomicU32, &'a Metrics);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
        super::accept::count_panic(self.1);
    }
}

#[async_trait::async_trait]
impl<SV> HttpServerApp for App<SV>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.requests.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        let _active = Active(&self.active, &self.metrics);
        // How long an answer may wait for the client to take more of it.
        session.set_write_timeout(Some(self.timeouts.idle));
        let lasting = session
            .req_header()
            .headers
            .iter()
            .any(|(name, value)| head::is_lasting(name.as_str(), value.as_bytes()));
        let serving = self.proxy.process_new_http(session, shutdown);
        if lasting {
            serving.await;
        } else if timeout(self.timeouts.request, serving).await.is_err() {
            // Dropping the request has reset its stream.
            self.metrics.connection_refused("timeout");
        }
        if self.connection.drop.load(Relaxed) {
            self.dropped.notify_one();
        }
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(CONCURRENT_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_local_error_reset_streams(Some(LOCAL_RESETS))
            .max_send_buffer_size(SEND_BUFFER);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
