//! The life of a connection that was let in: proxied address and handshake where they apply, then its
//! protocol. Deadlines of requests are left to the protocols.

use super::{
    Kind, Settings,
    accept::{Alive, Own, canonical, judge},
    conduct::Standing,
    handshake::{self, Failure, Secured, Terms},
    http1, http2,
    proxy_protocol::{self, Proxied},
    redirect, socket,
    stream::{ClientStream, Transport},
};
use crate::{
    connection::{Connection, Progress, TlsInfo},
    identify::TrustedProxies,
};
use pingora_proxy::{HttpProxy, ProxyHttp};
use rustls::ServerConfig;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use verdict::prefix::Prefix;

/// One connection, from its first byte to its last.
pub(super) async fn serve<SV>(
    tcp: TcpStream,
    from: SocketAddr,
    (settings, trusted): (Arc<Settings>, Arc<TrustedProxies>),
    mut own: Own,
    proxy: Arc<HttpProxy<SV>>,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    // Boxed, so that an idle connection does not carry the room that the handshake needed.
    let established = Box::pin(establish(tcp, from, (settings, trusted), &mut own.0)).await;
    let Some((stream, http2)) = established else {
        return;
    };
    let alive = &own.0;
    let shared = &alive.shared;
    match http2 {
        Http2::Agreed => {
            Box::pin(http2::serve(stream, shared, &proxy, alive)).await;
        }
        Http2::Possible | Http2::No => {
            let possible = http2 == Http2::Possible;
            let http2 = Box::pin(http1::serve(stream, possible, shared, &proxy)).await;
            if let Some(stream) = http2 {
                Box::pin(http2::serve(stream, shared, &proxy, alive)).await;
            }
        }
    }
}

/// Whether a connection speaks HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Http2 {
    /// By ALPN.
    Agreed,
    /// In plaintext, if its first bytes say so (RFC 9113, section 3.3).
    Possible,
    No,
}

/// PROXY header and handshake: everything before the first request.
async fn establish(
    mut tcp: TcpStream,
    from: SocketAddr,
    (settings, trusted): (Arc<Settings>, Arc<TrustedProxies>),
    alive: &mut Arc<Alive>,
) -> Option<(Box<ClientStream>, Http2)> {
    let shared = Arc::clone(&alive.shared);
    let local = canonical(tcp.local_addr().ok()?);
    let (timeouts, handshake) = {
        let config = shared.config.load();
        let timeouts = config.connections.timeouts.clone();
        let pressed = config.connections.under(shared.pressure.states());
        let shorter = pressed.and_then(|pressed| pressed.handshake);
        let usual = timeouts.handshake;
        (
            timeouts,
            shorter.map_or(usual, |shorter| shorter.min(usual)),
        )
    };
    // One deadline for both: the PROXY header and the handshake behind it.
    let deadline = Instant::now() + handshake;
    let mut ends = (from, local);
    let mut proxied = false;
    if settings.proxy_protocol {
        match timeout_at(deadline, proxy_protocol::read(&mut tcp)).await {
            Ok(Ok(Proxied::Local)) => {}
            Ok(Ok(Proxied::For {
                source,
                destination,
            })) => {
                ends = (canonical(source), canonical(destination));
                proxied = true;
                let config = shared.config.load_full();
                // The only holder so far: nothing else was begun with it.
                let place = &mut Arc::get_mut(alive)?.place;
                // A trusted proxy behind a balancer is no more a client than one in front of none.
                if !trusted.contains(ends.0.ip())
                    && let Err(reason) = judge(ends.0.ip(), &config, &shared, place)
                {
                    shared.metrics.connection_refused(reason);
                    socket::reset(tcp);
                    return None;
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "no valid PROXY header");
                shared.metrics.connection_refused("proxy_header");
                socket::reset(tcp);
                return None;
            }
            Err(_) => {
                shared.metrics.connection_refused("timeout");
                socket::reset(tcp);
                return None;
            }
        }
    }
    let connection = |tls: Option<TlsInfo>| {
        Arc::new(Connection {
            listener: Arc::clone(&alive.endpoint.name),
            peer: ends.0,
            proxied,
            local: ends.1,
            tls,
            standing: Standing::default(),
            drop: AtomicBool::new(false),
            progress: Progress::default(),
        })
    };
    let limits = http1::limits(&timeouts);
    match &settings.kind {
        Kind::Redirect => {
            redirect::serve(tcp, &shared).await;
            None
        }
        Kind::Plain => {
            let http2 = if settings.protocols.h2 {
                Http2::Possible
            } else {
                Http2::No
            };
            let stream = ClientStream::new(Transport::Plain(tcp), connection(None), None, limits);
            Some((Box::new(stream), http2))
        }
        Kind::Tls(config) => {
            let secured = secure(tcp, config, ends.0.ip(), deadline, alive).await?;
            let http2 = secured.info.alpn == "h2";
            let stream = ClientStream::new(
                Transport::Tls(secured.stream),
                connection(Some(secured.info)),
                Some(secured.digest),
                limits,
            );
            if !http2 && !settings.protocols.http1 {
                // No ALPN, on a listener that speaks HTTP/2 alone.
                shared.metrics.connection_refused("handshake");
                return None;
            }
            let http2 = if http2 { Http2::Agreed } else { Http2::No };
            Some((Box::new(stream), http2))
        }
    }
}

/// The handshake with this client, counted by how it ended.
async fn secure(
    tcp: TcpStream,
    config: &Arc<ServerConfig>,
    client: IpAddr,
    deadline: Instant,
    alive: &Alive,
) -> Option<Secured> {
    let shared = &*alive.shared;
    let terms = {
        let current = shared.config.load();
        let pressed = current.connections.under(shared.pressure.states());
        Terms {
            client: Prefix::of(client, current.clients.prefix),
            limits: current.connections.handshakes.clone(),
            admission: &alive.worker.admission,
            conduct: &shared.conduct,
            known_first: pressed.is_some_and(|pressed| pressed.known_first),
            deadline,
        }
    };
    let metrics = &shared.metrics;
    match handshake::shake(tcp, Arc::clone(config), terms).await {
        Ok(secured) => {
            metrics.handshake(if secured.resumed { "resumed" } else { "full" });
            return Some(secured);
        }
        Err(Failure::Timeout) => {
            metrics.handshake("timeout");
            metrics.connection_refused("timeout");
        }
        // None was begun, or ended.
        Err(Failure::Budget) => metrics.connection_refused("handshake_budget"),
        Err(Failure::Failed(error)) => {
            tracing::debug!(%client, %error, "handshake failed");
            metrics.handshake("failed");
            metrics.connection_refused("handshake");
        }
    }
    None
}
