//! The program's own log, on stderr: pretty on a terminal, JSON otherwise. `REMPART_LOG` sets what
//! is shown (`info` when unset). Panics are lines of it as well.

use crate::listener::log_limit::LogLimit;
use std::{backtrace::Backtrace, io::IsTerminal, panic, thread};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is shown unless the environment says otherwise. Pingora logs each malformed request and
/// failed handshake at `error`, rustls odd greetings at `warn`: attackers could fill the log, so they
/// are off; we record ourselves.
const DEFAULT: &str = "info,rustls=off,notify=off,pingora_core=off,pingora_proxy=off,h2=off,hickory_proto=off,hickory_net=off,hickory_resolver=off";

/// Starts logging; called once, first of all.
pub fn start() {
    let filter = EnvFilter::try_from_env("REMPART_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry
            .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
            .init();
    } else {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .init();
    }
    panic::set_hook(Box::new(report));
}

/// A panic. Whoever can cause one can cause it often: one line in a while, with the number left out.
fn report(panic: &panic::PanicHookInfo<'_>) {
    static PANICS: LogLimit = LogLimit::new();
    let Some(left_out) = PANICS.admit() else {
        return;
    };
    let thread = thread::current();
    let place = panic.location().map(ToString::to_string);
    tracing::error!(
        thread = thread.name(),
        place,
        left_out,
        "a panic, which is a bug (please report it): {}",
        said(panic)
    );
    // If RUST_BACKTRACE asks for it.
    let trace = Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!("{trace}");
    }
}

fn said<'a>(panic: &'a panic::PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or_default()
}
