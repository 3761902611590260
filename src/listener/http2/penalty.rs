//! What an abused connection costs its client: a strike, and a ban when they are used up.

use crate::{
    bans::By,
    clock,
    connection::Connection,
    identify::TrustedProxies,
    listener::{Shared, log_limit::LogLimit},
};
use std::time::Duration;
use verdict::prefix::Prefix;

/// In which strikes are counted.
const PERIOD: Duration = Duration::from_secs(600);
static BANS: LogLimit = LogLimit::new();

/// Holds an abused connection against its client.
pub fn strike(kind: &'static str, connection: &Connection, shared: &Shared) {
    shared.metrics.h2_abuse(kind);
    tracing::debug!(peer = %connection.peer, kind, "an HTTP/2 connection was abused");
    let config = shared.config.load();
    let Some(limits) = &config.connections.http2.abuse else {
        return;
    };
    let peer = connection.peer.ip();
    if TrustedProxies::new(&config.clients.trusted_proxies).contains(peer) {
        // It carries many clients, of which one is to blame.
        return;
    }
    let client = Prefix::of(peer, config.clients.prefix);
    let now = clock::now();
    let used_up = shared.budget.strike(client, limits.strikes, PERIOD, now);
    shared.conduct.forget(client);
    let by = By {
        direct: !connection.proxied,
        ..By::H2_ABUSE
    };
    if let Some(ban) = limits.ban.filter(|_| used_up)
        && !shared.bans.ban(client, ban, by, now).is_zero()
    {
        shared.metrics.ban_placed(by.name);
        if let Some(left_out) = BANS.admit() {
            tracing::warn!(%client, kind, left_out, "banned a client for what it did to HTTP/2 connections");
        }
    }
}
