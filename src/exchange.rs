//! One request and its answer, as far as they got: what the stages hand on to each other, and what
//! the record is written from. It lives as long as the request does; dropping it gives back the
//! slots it holds.

use crate::{
    challenge::clearance::Bearer,
    connection::Connection,
    forward::{Picked, Tries, body::ReadAhead, bulkhead::Permit},
    generation::Generation,
    identify::{CredentialError, User},
    report,
};
use http::{HeaderMap, HeaderValue};
use std::{borrow::Cow, net::IpAddr, sync::Arc, time::SystemTime};
use verdict::{
    Nanos,
    decision::Decision,
    prefix::{Prefix, PrefixLengths},
};

/// The state of one request.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Set by the first stage.
    pub arrival: Option<Arrival>,
    pub user: Option<Arc<User>>,
    /// Why a credential was not accepted; the request goes on as anonymous.
    pub credential_error: Option<CredentialError>,
    /// Index of the route that matched.
    pub route: Option<usize>,
    pub decision: Option<Decision>,
    /// Slots of bulkheads, held until the upstream has answered.
    pub permits: Vec<Permit>,
    /// What was read of the body before the request was sent on.
    pub read_ahead: ReadAhead,
    pub tries: Tries,
    /// The endpoint for the next try, where it was picked ahead of it.
    pub picked: Option<Picked>,
    pub attempt: Option<Attempt>,
    /// When the first try began; what the record calls the upstream's time.
    pub forwarded: Option<Nanos>,
    /// The request, or a part of it, may have reached an upstream.
    pub sent: bool,
    /// Why the request failed, for the record.
    pub failure: Option<Failure>,
    /// Close the connection without a word.
    pub close: bool,
    /// Its record was written.
    pub recorded: bool,
}

/// What the first stage found out.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub began: Nanos,
    pub time: SystemTime,
    /// Seen from start to end by this request, whatever is reloaded meanwhile.
    pub generation: Arc<Generation>,
    pub connection: Arc<Connection>,
    /// `x-request-id`.
    pub id: HeaderValue,
    pub client: Client,
}

impl Arrival {
    /// Whether a trusted proxy speaks for the client: the connection is not the client's own, and
    /// others share it.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.connection.peer.ip() != self.client.ip
    }

    /// Whether the client has a connection of its own here: nobody speaks for it, neither by
    /// `x-forwarded-for` nor by a PROXY header.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        !self.is_proxied() && !self.connection.proxied
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_milliseconds(&self) -> u64 {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// The fingerprint of the client's own TLS; empty when it is that of a proxy in front, or none.
    #[must_use]
    pub fn ja4(&self) -> &str {
        let tls = self.connection.tls.as_ref().filter(|_| !self.is_proxied());
        tls.map_or("", |tls| tls.ja4.as_str())
    }

    /// Who asks to be let through on what its cookies prove.
    #[must_use]
    pub fn bearer<'a>(&'a self, headers: &'a HeaderMap, host: &'a str) -> Bearer<'a> {
        Bearer {
            headers,
            network: self.client.network,
            ja4: self.ja4(),
            proxied: self.is_proxied(),
            host,
            now: self.unix_seconds(),
        }
    }

    /// The request's id as text.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

/// The address that counts as the client's, and what it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub ip: IpAddr,
    /// What counts as one client.
    pub prefix: Prefix,
    /// The /24 or /48 around it.
    pub network: Prefix,
}

impl Client {
    #[must_use]
    pub fn new(ip: IpAddr, lengths: PrefixLengths) -> Self {
        let ip = ip.to_canonical();
        Self {
            ip,
            prefix: Prefix::of(ip, lengths),
            network: Prefix::of(ip, PrefixLengths::NETWORK),
        }
    }
}

/// The try at an upstream that is under way, or was the last one.
#[derive(Debug)]
pub struct Attempt {
    pub picked: Picked,
    /// The status it answered with.
    pub status: Option<u16>,
    /// Its outcome was counted.
    pub counted: bool,
}

/// Why a request failed: a stable code and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: &'static str,
    pub text: Cow<'static, str>,
}

impl Exchange {
    /// Notes why the request failed. The latest reason counts: it is what the answer says.
    pub fn fail(&mut self, code: &'static str, text: impl Into<Cow<'static, str>>) {
        self.failure = Some(Failure {
            code,
            text: text.into(),
        });
    }
}

/// A request that was given up half-way (its deadline passed, or something panicked) is recorded
/// all the same.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.recorded {
            report::write_abandoned(self);
        }
    }
}
