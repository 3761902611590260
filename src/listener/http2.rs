//! HTTP/2 connections: our own loop over the h2 crate's, so that a connection can be told to go. It
//! hands each stream to pingora in a task, ends what is too late, and what is abused.
//!
//! What is too late or too much is found out by the [`ledger`] from the frames that pass below the h2
//! crate; this file acts on it.

mod account;
mod frame;
pub mod fuzzing;
mod lasting;
mod ledger;
mod penalty;
mod streams;
#[cfg(test)]
mod tests;
mod watch;

pub use lasting::Lasting;
pub use watch::Watch;

use super::{
    Shared, close,
    deadline::Alarm,
    http1::FAREWELL,
    stream::{ClientStream, Home, Lent},
};
use crate::{config::model::Http2Limits, connection::Connection, record::metrics::Metrics};
use bytes::Bytes;
use h2::{Reason, server::Connection as H2};
use ledger::{Ledger, Limits, Slow};
use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        Digest, GetProxyDigest, Ssl, Stream,
        http::{
            ServerSession,
            v2::server::{self, H2Accept, H2Options, HttpSession, default_h2_options},
        },
    },
    server::ShutdownWatch,
};
use pingora_proxy::{HttpProxy, ProxyHttp};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Bytes that a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Streams reset for the client's own errors, over the connection's life, before the h2 crate ends it.
/// How many in what time is for the score.
const LOCAL_RESETS: usize = 1024;
/// What small DATA frames that wait for a slow upstream may take of our memory: each counts as what it
/// is short of 256 bytes. So some thousands of small messages of gRPC may wait.
const SMALL_FRAMES: usize = 512 * 1024;
/// Bytes of answers that wait for the client, a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client may take to take its GOAWAY.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(super) async fn serve<SV>(
    mut stream: Box<ClientStream>,
    shared: &Shared,
    proxy: &Arc<HttpProxy<SV>>,
    alive: &Arc<super::accept::Alive>,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let config = shared.config.load_full();
    let limits = Limits::new(&config.connections.http2, &config.connections.timeouts);
    let watch = Arc::new(Watch::new(|now| Ledger::new(limits, now)));
    stream.speak_http2(Arc::clone(&watch));
    let connection = Arc::clone(stream.connection());
    let serving = Serving {
        app: Arc::new(App {
            proxy: Arc::clone(proxy),
            connection: Arc::clone(&connection),
            metrics: Arc::clone(&shared.metrics),
            draining: shared.draining.clone(),
            requests: AtomicU64::new(0),
            active: AtomicU32::new(0),
            dropped: Notify::new(),
            _alive: Arc::clone(alive),
        }),
        watch,
        alarm: Alarm::default(),
        metrics: &shared.metrics,
    };
    let home = Home::default();
    let lent = Box::new(Lent::new(stream, &home));
    let options = options(&config.connections.http2);
    // Nothing of the configuration is held while the connection is.
    drop(config);
    let end = serving.run(lent, options).await;
    let came_home = home.lock().take();
    let refused = match end {
        End::Late => Some("timeout"),
        End::SlowReader => Some("slow_reader"),
        End::Malformed => Some("malformed"),
        // The peer said nothing wrong if it has merely left.
        End::Unspoken => came_home
            .as_ref()
            .is_some_and(|stream| !stream.ended)
            .then_some("malformed"),
        // It may have been honest, and our upstream slow: that is no strike.
        End::TooMuch => {
            shared.metrics.h2_abuse("library");
            Some("h2_abuse")
        }
        End::Abused(kind) => {
            penalty::strike(kind, &connection, shared);
            Some("h2_abuse")
        }
        End::Closed | End::Dropped | End::Idle | End::Left => None,
    };
    // What ran into a deadline of the stream's own ended for that.
    let fault = came_home.as_ref().and_then(|stream| stream.fault);
    if let Some(reason) = fault.or(refused) {
        shared.metrics.connection_refused(reason);
    }
    if let Some(mut stream) = came_home {
        stream.timed_out |= matches!(end, End::Late);
        close::close(stream).await;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As connections end.
    Closed,
    /// Without a word, as a request asked for.
    Dropped,
    /// Before it spoke HTTP/2.
    Unspoken,
    /// The process leaves.
    Left,
    /// Nothing was asked for, or not any more.
    Idle,
    /// No request began, or something begun did not end.
    Late,
    /// Answers could not be sent.
    SlowReader,
    /// The client broke the protocol.
    Malformed,
    /// It was too much for the h2 crate, out of the blue.
    TooMuch,
    /// The client did what only an attack does, of this kind.
    Abused(&'static str),
}

/// A connection in service.
struct Serving<'a, SV> {
    app: Arc<App<SV>>,
    watch: Arc<Watch>,
    alarm: Alarm,
    metrics: &'a Metrics,
}

impl<SV> Serving<'_, SV>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    async fn run(mut self, lent: Box<Lent>, options: H2Options) -> End {
        let digest = Arc::new(Digest {
            ssl_digest: lent.get_ssl_digest(),
            timing_digest: Vec::new(),
            proxy_digest: lent.get_proxy_digest(),
            socket_digest: None,
        });
        let handshake = Box::pin(server::handshake(lent, Some(options)));
        // On the heap, where it takes no more room than it needs beside the future.
        let mut h2 = match self.watched(handshake).await {
            Ok(Ok(h2)) => Box::new(h2),
            Ok(Err(_)) => return End::Unspoken,
            Err(end) => return end,
        };
        let end = self.streams(&mut h2, &digest).await;
        let reason = match end {
            End::Abused(_) => Reason::ENHANCE_YOUR_CALM,
            End::Idle | End::SlowReader | End::Late => Reason::NO_ERROR,
            _ => return end,
        };
        h2.abrupt_shutdown(reason);
        // It is sent if it can be; the rest is closing.
        let _ = timeout(GOODBYE, poll_fn(|cx| h2.poll_closed(cx))).await;
        end
    }

    /// Serves stream after stream.
    async fn streams(&mut self, h2: &mut H2<Stream, Bytes>, digest: &Arc<Digest>) -> End {
        let app = Arc::clone(&self.app);
        let mut draining = app.draining.clone();
        let mut dropped = pin!(app.dropped.notified());
        let mut leaving = pin!(draining.wait_for(|leave| *leave));
        let mut farewell = pin!(farewell(&app, Arc::clone(&self.watch)));
        let mut left = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut dropped => return End::Dropped,
                // An error means that the sender is gone, which is leaving as well.
                _ = &mut leaving, if !left => {
                    left = true;
                    h2.graceful_shutdown();
                    continue;
                }
                () = &mut farewell, if left => return End::Left,
                accepted = self.watched(HttpSession::from_h2_conn(h2, Arc::clone(digest))) => accepted,
            };
            match accepted {
                Ok(Ok(Some(H2Accept::Session(session)))) => self.begin(session),
                Ok(Ok(Some(H2Accept::Rejected))) => {
                    self.metrics.connection_refused("malformed");
                    self.watch.ledger().malformed(self.watch.now());
                }
                // Whether it was the h2 crate that ended it shows in what it sent.
                Ok(Ok(None) | Err(_)) => {
                    let ledger = self.watch.ledger();
                    return match ledger.is_condemned() {
                        Some(true) if ledger.is_suspicious() => End::Abused("library"),
                        Some(true) => End::TooMuch,
                        Some(false) => End::Malformed,
                        None => End::Closed,
                    };
                }
                Err(end) => return end,
            }
        }
    }

    /// Hands a stream to pingora, in a task of its own.
    fn begin(&self, mut session: HttpSession) {
        let id = {
            let mut ledger = self.watch.ledger();
            let id = ledger.handed_out();
            if id.is_some_and(|id| !ledger.is_open(id)) {
                // Taken back already: nothing is begun for it.
                return;
            }
            id
        };
        if let Some(id) = id {
            Lasting::note(session.req_header_mut(), &self.watch, id);
        }
        let active = Active::of(&self.app);
        let task = tokio::spawn(async move {
            let app = &active.0;
            let session = ServerSession::new_http2(session);
            app.proxy.process_new_http(session, &app.draining).await;
            if app.connection.drop.load(Relaxed) {
                app.dropped.notify_one();
            }
        });
        if let Some(id) = id {
            self.watch.ledger().served_by(id, task.abort_handle());
        }
    }

    /// Runs what drives the connection, unless the ledger ends it. Streams that are too late are ended
    /// meanwhile.
    async fn watched<F: Future>(&mut self, driving: F) -> Result<F::Output, End> {
        let mut driving = pin!(driving);
        poll_fn(|cx| {
            loop {
                let polled = driving.as_mut().poll(cx);
                let deadline = {
                    let mut ledger = self.watch.ledger();
                    for _ in 0..ledger.take_unseen() {
                        self.metrics.connection_refused("malformed");
                    }
                    if let Some(kind) = ledger.abuse() {
                        return Poll::Ready(Err(End::Abused(kind)));
                    }
                    if let Poll::Ready(output) = polled {
                        return Poll::Ready(Ok(output));
                    }
                    ledger.all_accepted();
                    self.watch.instant(ledger.deadline())
                };
                match deadline.map(|deadline| self.alarm.poll(deadline, cx)) {
                    None | Some(Poll::Pending) => return Poll::Pending,
                    Some(Poll::Ready(())) => {
                        if let Some(end) = self.expire() {
                            return Poll::Ready(Err(end));
                        }
                    }
                }
            }
        })
        .await
    }

    /// Ends what is too late: streams, or the connection.
    fn expire(&self) -> Option<End> {
        let mut lost = false;
        let late = self
            .watch
            .ledger()
            .expire(self.watch.now(), |slow, handle| {
                self.metrics.connection_refused(match slow {
                    Slow::Body => "slow_body",
                    Slow::Reader => "slow_reader",
                    Slow::Stuck => "timeout",
                });
                match handle {
                    // Dropping the request resets its stream.
                    Some(task) => task.abort(),
                    None => lost = true,
                }
            });
        match late {
            Some(ledger::Late::Silent | ledger::Late::Unfinished) => Some(End::Late),
            Some(ledger::Late::Idle) => Some(End::Idle),
            Some(ledger::Late::Reader) => Some(End::SlowReader),
            // What can't be ended alone takes the connection with it.
            None => lost.then_some(End::Idle),
        }
    }
}

/// What a client may take.
fn options(limits: &Http2Limits) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(limits.streams.get())
        .max_header_list_size(limits.header_bytes)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .data_frame_budget(SMALL_FRAMES)
        // Many may be taken back at once, by either side: the score says when it is too often.
        .max_concurrent_reset_streams(limits.streams.get() as usize)
        .max_pending_accept_reset_streams(limits.streams.get() as usize)
        .max_send_buffer_size(SEND_BUFFER);
    options
}

/// Ends when the process leaves, the client asks for nothing any more, and has got what it asked for:
/// that of a request that was served may still wait for the client. The h2 crate has said GOAWAY and
/// waits; a client that does not answer would hold the process up.
async fn farewell<SV>(app: &App<SV>, watch: Arc<Watch>) {
    loop {
        let before = app.requests.load(Relaxed);
        sleep(FAREWELL).await;
        let served = app.active.load(Relaxed) == 0 && app.requests.load(Relaxed) == before;
        if served && !watch.ledger().has_streams() {
            return;
        }
    }
}

/// What the requests of a connection share.
struct App<SV> {
    proxy: Arc<HttpProxy<SV>>,
    connection: Arc<Connection>,
    metrics: Arc<Metrics>,
    draining: ShutdownWatch,
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
struct Active<SV>(Arc<App<SV>>);

impl<SV> Active<SV> {
    fn of(app: &Arc<App<SV>>) -> Self {
        app.requests.fetch_add(1, Relaxed);
        app.active.fetch_add(1, Relaxed);
        Self(Arc::clone(app))
    }
}

impl<SV> Drop for Active<SV> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
        super::accept::count_panic(&self.0.metrics);
    }
}
