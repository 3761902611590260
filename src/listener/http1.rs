//! HTTP/1 sessions that exist only while there is a request. Between requests a connection is a
//! socket, its TLS state and this small loop; when a whole head has arrived it is handed to pingora,
//! for one request.
//!
//! The place where bytes become a session, [`serve_one`], is also where a path of our own for plain
//! requests would branch off.

use super::{
    Shared, answer,
    chunked::Chunked,
    close::close,
    deadline::body_grace,
    head::{self, Framing},
    stream::{Body, ClientStream, Home, Lent, Limits},
    term::{Term, within},
};
use crate::config::model::{ClientTimeouts, Connections, Http1Limits};
use http::StatusCode;
use pingora_core::{apps::HttpServerApp, protocols::http::ServerSession, server::ShutdownWatch};
use pingora_proxy::{HttpProxy, ProxyHttp};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

/// After the signal to leave, how long a connection may stay idle: a request that crosses the
/// signal on the wire is still answered, with `connection: close`.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// Bytes of empty lines that are skipped before a request: some clients leave one behind a body.
const EMPTY_LINES: usize = 16;

/// The limits of a request under these timeouts.
pub fn limits(timeouts: &ClientTimeouts) -> Limits {
    Limits {
        body_minimum_rate: timeouts.body_minimum_rate,
        body_grace: body_grace(timeouts),
        response_minimum_rate: timeouts.response_minimum_rate,
        response_grace: timeouts.idle,
        stream_idle: timeouts.stream_idle,
    }
}

/// Serves requests until the connection ends. Gives the stream back if it turns out to speak HTTP/2
/// with prior knowledge, and `http2` allows that.
pub async fn serve<SV>(
    mut stream: Box<ClientStream>,
    http2: bool,
    shared: &Shared,
    proxy: &Arc<HttpProxy<SV>>,
) -> Option<Box<ClientStream>>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let home = Home::default();
    let mut spare = None;
    let draining = &shared.draining;
    let mut watch = draining.clone();
    let settings = Settings::of(&shared.config.load().connections);
    let mut waiting = Waiting {
        leaving: pin!(async move {
            // An error means that the sender is gone, which is leaving as well.
            let _ = watch.wait_for(|leave| *leave).await;
        }),
        left: None,
        first: true,
        settings,
    };
    let connection = Arc::clone(stream.connection());
    loop {
        let (end, begun) = match waiting.head(&mut stream).await {
            Head::Complete { end, begun } => (end, begun),
            Head::Closed | Head::Idle => break,
            Head::Late => {
                shared.metrics.connection_refused("timeout");
                stream.timed_out = true;
                break;
            }
            Head::Unfit(status) => {
                shared.metrics.connection_refused(head::reason(status));
                refuse(&mut stream, status).await;
                break;
            }
        };
        let (head, rest) = stream.ahead().split_at_checked(end).unwrap_or_default();
        if http2 && waiting.first && head == head::HTTP2_PREFACE {
            return Some(stream);
        }
        waiting.settings = Settings::of(&shared.config.load().connections);
        let framing = match judge(head, rest, &waiting.settings.http1) {
            Ok(framing) => framing,
            Err(status) => {
                shared.metrics.connection_refused(head::reason(status));
                refuse(&mut stream, status).await;
                break;
            }
        };
        let timeouts = &waiting.settings.timeouts;
        stream.begin(&framing, limits(timeouts));
        let term = Term::new(&connection.progress, begun, timeouts);
        stream = match serve_one(stream, end, (&home, &mut spare), term, proxy, draining).await {
            Served::Again(stream) => stream,
            Served::Last(mut stream) => {
                if let Some(fault) = stream.fault {
                    shared.metrics.connection_refused(fault);
                    if fault == "malformed" && stream.is_unanswered() {
                        refuse(&mut stream, StatusCode::BAD_REQUEST).await;
                    }
                }
                close(stream).await;
                return None;
            }
            Served::Gone => return None,
        };
        stream.rest();
        waiting.first = false;
    }
    close(stream).await;
    None
}

enum Served {
    /// The connection waits for its next request.
    Again(Box<ClientStream>),
    /// That was the last one.
    Last(Box<ClientStream>),
    /// The stream did not come back.
    Gone,
}

/// How the request of this head is framed, if that and what has come of its body are sound.
fn judge(head: &[u8], rest: &[u8], limits: &Http1Limits) -> Result<Framing, StatusCode> {
    let framing = head::framing(head, limits)?;
    if framing.body == Body::Chunked && Chunked::new().advance(rest).is_err() {
        // Before the upstream hears of it.
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(framing)
}

/// One request, whose head of `end` bytes was read ahead.
async fn serve_one<SV>(
    mut stream: Box<ClientStream>,
    end: usize,
    (home, spare): (&Home, &mut Option<Box<Lent>>),
    mut term: Term<'_>,
    proxy: &Arc<HttpProxy<SV>>,
    draining: &ShutdownWatch,
) -> Served
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let head = stream.take_ahead(end);
    let events = stream.wants_events();
    let mut alarm = stream.take_alarm();
    let lent = match spare.take() {
        Some(mut spare) => {
            spare.lend(stream);
            spare
        }
        None => Box::new(Lent::new(stream, home)),
    };
    let mut session = ServerSession::new_http1(lent);
    session.set_pipelined_prefix(head);
    // The stream has deadlines of its own.
    session.set_read_timeout(None);
    // A client that has closed its side may still want its answer. Whoever waits for events with no
    // end has left.
    session.set_abort_on_close(events);
    let serving = proxy.process_new_http(session, draining);
    let served = within(serving, &mut alarm, &mut term).await;
    let late = served.is_none();
    let reused = served.flatten();
    let again = reused.is_some();
    // Handed back, it serves the next request as well. Whatever else is dropped sends the stream home.
    let mut back = None;
    if let Some(reused) = reused
        && let Ok(mut lent) = reused.consume().0.into_any().downcast::<Lent>()
    {
        back = lent.take_back();
        *spare = Some(lent);
    }
    let Some(mut stream) = back.or_else(|| home.lock().take()) else {
        return Served::Gone;
    };
    stream.set_alarm(alarm);
    if late {
        stream.timed_out = true;
        stream.fault.get_or_insert("timeout");
    }
    let more = !stream.ended || !stream.ahead().is_empty();
    if again && more && !stream.timed_out && !stream.connection().drop.load(Relaxed) {
        Served::Again(stream)
    } else {
        Served::Last(stream)
    }
}

/// Answers a request that can't be served.
async fn refuse(stream: &mut ClientStream, status: StatusCode) {
    let sending = async {
        stream.write_all(&answer::refusal(status)).await?;
        stream.flush().await
    };
    // If it can't be sent, closing is all that is left.
    let _ = timeout(FAREWELL, sending).await;
}

enum Head {
    /// A whole head of `end` bytes was read ahead; the first of them came at `begun`.
    Complete { end: usize, begun: Instant },
    /// The client closed.
    Closed,
    /// No request began in time.
    Idle,
    /// A request began and its head did not end in time.
    Late,
    /// It is to be refused before it is whole.
    Unfit(StatusCode),
}

/// Waits for requests.
struct Waiting<'a, F> {
    leaving: Pin<&'a mut F>,
    /// When the process began to leave, as far as it was noticed.
    left: Option<Instant>,
    /// No request was served yet.
    first: bool,
    settings: Settings,
}

/// What the configuration says of requests.
struct Settings {
    timeouts: ClientTimeouts,
    http1: Http1Limits,
}

impl Settings {
    fn of(connections: &Connections) -> Self {
        Self {
            timeouts: connections.timeouts.clone(),
            http1: connections.http1.clone(),
        }
    }
}

impl<F: Future<Output = ()>> Waiting<'_, F> {
    async fn head(&mut self, stream: &mut ClientStream) -> Head {
        let mut scanned = 0;
        let mut since = None;
        let mut begun = None;
        let mut skipped = 0_usize;
        poll_fn(|cx| {
            // It ends: no read is without a byte, and both sorts of them are bounded.
            loop {
                let empty_lines = head::leading_empty_lines(stream.ahead());
                if empty_lines > 0 {
                    drop(stream.take_ahead(empty_lines));
                    scanned = 0;
                    skipped = skipped.saturating_add(empty_lines);
                    if skipped > EMPTY_LINES {
                        return Poll::Ready(Head::Unfit(StatusCode::BAD_REQUEST));
                    }
                }
                if !stream.ahead().is_empty() {
                    // It may have come behind the request before.
                    let begun = *begun.get_or_insert_with(Instant::now);
                    if let Some(end) = head::end(stream.ahead(), &mut scanned) {
                        return Poll::Ready(Head::Complete { end, begun });
                    }
                }
                if let Err(status) = head::size(stream.ahead(), &self.settings.http1) {
                    return Poll::Ready(Head::Unfit(status));
                }
                match stream.poll_ahead(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Closed),
                    Poll::Pending => return self.wait(stream, &mut since, begun, cx),
                }
            }
        })
        .await
    }

    fn wait(
        &mut self,
        stream: &mut ClientStream,
        since: &mut Option<Instant>,
        begun: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Head> {
        if self.left.is_none() && self.leaving.as_mut().poll(cx).is_ready() {
            self.left = Some(Instant::now());
        }
        let since = *since.get_or_insert_with(Instant::now);
        let timeouts = &self.settings.timeouts;
        let deadline = match (begun, self.left) {
            (Some(begun), _) => begun + timeouts.headers,
            // However long it has been idle: what crosses the signal on the wire is served.
            (None, Some(left)) => left.max(since) + FAREWELL.min(timeouts.idle),
            (None, None) if self.first => since + timeouts.headers,
            (None, None) => since + timeouts.idle,
        };
        stream.poll_deadline(deadline, cx).map(|()| {
            // Nothing began, on a first connection as well: browsers open some that they may not need.
            if begun.is_some() {
                Head::Late
            } else {
                Head::Idle
            }
        })
    }
}
