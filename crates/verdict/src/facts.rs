//! What is known of a request. Borrowed from where it was read: making facts allocates nothing.
//!
//! Texts that a client wrote are bytes, since they need not be UTF-8; an absent text is empty.

use crate::{
    decision::{Reason, Rung},
    prefix::Prefix,
    pressure::States,
};
use std::net::IpAddr;

/// Everything a guard may look at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub client: Client<'a>,
    pub request: Request<'a>,
    pub user: User<'a>,
    pub tls: Tls<'a>,
    /// Index of the route in the configuration, when one matched.
    pub route: Option<usize>,
    /// The route's name; empty when none matched.
    pub route_name: &'a str,
    /// The upstream's name; empty when no route matched.
    pub upstream: &'a str,
    /// What the network does to this host.
    pub pressure: States,
    /// The highest rung that the client has climbed, from its clearance cookie.
    pub clearance: Option<Rung>,
    /// Nobody is to be challenged here: the route can't have it, or a crawler was verified. What
    /// would challenge says nothing then, and a limit throttles.
    pub unchallenged: bool,
    /// Picks the rung where a `challenge` leaves it to the risk.
    pub ladder: &'a dyn Ladder,
}

/// What the risk of a request calls for. Asked only when somebody is to be challenged.
pub trait Ladder: Sync {
    /// The mildest rung that will do, for a challenge of this reason.
    fn rung(&self, reason: Reason) -> Rung;
}

/// Always the same rung; for trials and tests.
impl Ladder for Rung {
    fn rung(&self, _: Reason) -> Rung {
        *self
    }
}

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    pub ip: IpAddr,
    /// What counts as one client.
    pub prefix: Prefix,
    /// The /24 or /48 around it.
    pub network: Prefix,
    /// JA4 fingerprint of the `ClientHello`; empty when not known.
    pub ja4: &'a str,
    /// The configured name of a crawler that was verified by its address; empty for everybody else.
    pub crawler: &'a str,
}

/// The request line and headers, as received. `host` is lower case, without its port.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub host: &'a [u8],
    /// Path without the query, normalised: unreserved characters decoded, dot segments and doubled
    /// slashes removed (RFC 3986, 6.2.2), so that no spelling of a path escapes a rule.
    pub path: &'a [u8],
    /// Query without `?`.
    pub query: &'a [u8],
    pub headers: &'a dyn Headers,
    /// Declared body length in bytes; 0 when none is declared.
    pub size: u64,
}

/// Header access, whatever the server library keeps them in.
pub trait Headers: Sync {
    /// First value of the header `name` (lower case).
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// Value of the cookie `name` (case-sensitive), the first one sent.
    fn cookie(&self, name: &str) -> Option<&[u8]>;
}

/// No headers at all; for connections and tests.
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }
    fn cookie(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// The authenticated user; `id` is empty for anonymous requests.
#[derive(Clone, Copy, Default)]
pub struct User<'a> {
    pub id: &'a str,
    pub roles: &'a [String],
}

impl User<'_> {
    /// Whether some credential was verified.
    #[must_use]
    pub fn authenticated(&self) -> bool {
        !self.id.is_empty()
    }
}

/// How the connection is encrypted; all empty in plaintext.
#[derive(Clone, Copy, Default)]
pub struct Tls<'a> {
    /// `1.2` or `1.3`.
    pub version: &'a str,
    pub sni: &'a str,
    /// `h2` or `http/1.1`.
    pub alpn: &'a str,
}
