//! The program's own log, on stderr: pretty on a terminal, JSON otherwise. `REMPART_LOG` sets what
//! is shown (`info` when unset).

use std::io::IsTerminal;
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
}
