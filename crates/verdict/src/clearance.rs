//! Clearance: what a client carries to show that it has solved a challenge.
//!
//! It holds for one host, for a few networks, each at its own rung and for a while, and for clients
//! that speak TLS the way its owner does. A visitor whose address changes (from Wi-Fi to mobile)
//! solves once more and then holds both networks, each until its own end. Time is Unix seconds, and
//! an argument. What was revoked, and who may hold a token for a network that is not in it, is the
//! caller's to know.

mod network;

pub(crate) use network::{PREFIX_BYTES, prefix_from_bytes, prefix_to_bytes};

use crate::{
    decision::Rung,
    prefix::Prefix,
    seal::{Keyring, MAX_BYTES, Purpose, Reader, Writer},
};
use arrayvec::ArrayVec;

/// How many networks one clearance can hold for.
pub const MAX_GRANTS: usize = 4;

/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// How far a grant may lie in the future, in seconds: replicas' clocks differ, and a visitor who is
/// sent from one to another must not be asked again. A grant from further ahead was made by a clock
/// that is wrong.
pub const CLOCK_SKEW: u64 = 60;

/// No clearance is longer, as text: longer ones are not even decoded.
pub const MAX_TOKEN: usize = 720;

const RUNG: u8 = 1;
const HOST: u8 = 2;
const GRANT: u8 = 3;
const ID: u8 = 4;
const FINGERPRINT: u8 = 5;

/// What stays of a client's JA4 from one connection to the next: its middle part, the hash of the
/// cipher suites.
///
/// The other two do not stay. The first names the ALPN protocol, which is `h2` for a page and
/// `http/1.1` for the WebSocket that the page opens, and counts the extensions; the last is the hash
/// of those, and a resumed session has one more (`pre_shared_key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 12]);

impl Fingerprint {
    /// Of a JA4, or of its cipher part alone; `None` of any other text.
    #[must_use]
    pub fn of(ja4: &str) -> Option<Self> {
        let mut parts = ja4.split('_');
        let part = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            (part, None, ..) => part,
            (first, Some(part), Some(last), None) if first.len() == 10 && last.len() == 12 => part,
            _ => return None,
        };
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        part.bytes().all(is_digit).then_some(())?;
        Some(Self(part.as_bytes().try_into().ok()?))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked when it was made.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What is known of the TLS of whoever shows a clearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Fingerprint(Fingerprint),
    /// A trusted proxy speaks for the client, so its TLS ended there.
    Proxied,
    /// The client's own connection, and none: it is in plaintext.
    Nothing,
}

/// Who shows a clearance, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    pub network: Prefix,
    pub shown: Shown,
    pub host: &'a str,
    /// Unix seconds.
    pub now: u64,
}

/// One network: since when, until when (Unix seconds), and how high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub rung: Rung,
    pub network: Prefix,
    pub issued: u64,
    pub expires: u64,
}

impl Grant {
    fn is_live(&self, now: u64) -> bool {
        self.issued <= self.expires
            && now < self.expires
            && self.issued <= now.saturating_add(CLOCK_SKEW)
    }
}

/// What stands in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clearance {
    /// Unlike any other.
    pub id: [u8; 16],
    /// `None`: whoever has the network holds it.
    pub fingerprint: Option<Fingerprint>,
    /// The newest last.
    pub grants: ArrayVec<Grant, MAX_GRANTS>,
}

/// What a clearance says of its bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It proves this rung.
    Holds(Rung),
    /// It does not hold here, but for networks of the other address family, and the bearer's TLS is
    /// its owner's: it may be a visitor with IPv4 and IPv6, who uses now the one and now the other
    /// (RFC 8305), or somebody who stole it. The caller may let it hold for one network more.
    Elsewhere {
        id: [u8; 16],
        /// The newest of its grants: what this token, with its id, was made for. The older ones came
        /// along from other tokens, and would be lent once more with each new one.
        grant: Grant,
    },
    Nothing(Fault),
}

/// Why a clearance proves nothing. Of several, the last one is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// No key of ours has sealed it as a clearance, or not all of it is there.
    Invalid,
    ForeignHost,
    /// Its owner speaks TLS in another way.
    ForeignClient,
    ForeignNetwork,
    /// Its time is over, or has not come.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Fault {
    /// The label for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::ForeignHost => "foreign_host",
            Self::ForeignClient => "foreign_client",
            Self::ForeignNetwork => "foreign_network",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Clearance {
    /// A clearance for one network.
    #[must_use]
    pub fn new(id: [u8; 16], fingerprint: Option<Fingerprint>, grant: Grant) -> Self {
        Self {
            id,
            fingerprint,
            grants: std::iter::once(grant).collect(),
        }
    }

    /// This clearance, with what is still good of an older one of the same client. The newest come
    /// first when there are too many networks.
    #[must_use]
    pub fn after(mut self, older: &Self, now: u64) -> Self {
        if older.fingerprint != self.fingerprint {
            return self;
        }
        for grant in older.grants.iter().rev() {
            let covers = |own: &Grant| own.network == grant.network && own.rung >= grant.rung;
            let known = self.grants.iter().any(covers);
            if !known && grant.is_live(now) && !self.grants.is_full() {
                self.grants.insert(0, *grant);
            }
        }
        self
    }

    /// The token, for `host` alone; `None` when the host is no host.
    #[must_use]
    pub fn seal(&self, keys: &Keyring, host: &str) -> Option<String> {
        if host.len() > MAX_HOST {
            return None;
        }
        let fingerprint = self.fingerprint.as_ref().map(|known| known.0.as_slice());
        let mut fields = Writer::new(Purpose::Clearance)
            .field(ID, &self.id)
            .field(HOST, host.as_bytes())
            .field(FINGERPRINT, fingerprint.unwrap_or_default());
        for grant in &self.grants {
            fields = fields
                .field(RUNG, &[grant.rung.code()])
                .field(GRANT, &grant.to_bytes());
        }
        keys.seal(fields)
    }

    /// Opens a token that was sealed for `host`. Says nothing of networks and times yet.
    ///
    /// # Errors
    /// It is no such token, or was sealed for another host.
    pub fn open(token: &[u8], keys: &Keyring, host: &str) -> Result<Self, Fault> {
        if token.len() > MAX_TOKEN {
            return Err(Fault::Invalid);
        }
        let mut buffer = [0; MAX_BYTES];
        let fields = keys.open(token, Purpose::Clearance, &mut buffer);
        let (clearance, sealed_for) = fields.and_then(Self::read).ok_or(Fault::Invalid)?;
        if sealed_for == host.as_bytes() {
            Ok(clearance)
        } else {
            Err(Fault::ForeignHost)
        }
    }

    /// With the host.
    fn read(mut fields: Reader<'_>) -> Option<(Self, &[u8])> {
        let id = fields.array(ID)?;
        let host = fields.field(HOST)?;
        let fingerprint = match fields.field(FINGERPRINT)? {
            [] => None,
            bytes => Some(Fingerprint::of(std::str::from_utf8(bytes).ok()?)?),
        };
        let mut grants = ArrayVec::new();
        while !fields.is_at_end() {
            grants.try_push(Grant::read(&mut fields)?).ok()?;
        }
        let clearance = Self {
            id,
            fingerprint,
            grants,
        };
        (!clearance.grants.is_empty()).then_some((clearance, host))
    }

    /// What this proves of its bearer, apart from the grants that are `revoked`.
    #[must_use]
    pub fn standing(&self, bearer: &Bearer<'_>, revoked: impl Fn(&Grant) -> bool) -> Standing {
        let bound = match (self.fingerprint, bearer.shown) {
            // Who had no fingerprint when it solved is known by the network alone. So is who comes
            // by way of a proxy: that is the operator's own, and its word for the network is taken.
            (None, _) | (Some(_), Shown::Proxied) => true,
            (Some(owner), Shown::Fingerprint(shown)) => owner == shown,
            // Its owner speaks TLS; a thief could leave it out.
            (Some(_), Shown::Nothing) => false,
        };
        if !bound {
            return Standing::Nothing(Fault::ForeignClient);
        }
        let judge = |grant: &Grant| {
            if !grant.is_live(bearer.now) {
                Err(Fault::Expired)
            } else if revoked(grant) {
                Err(Fault::Revoked)
            } else {
                Ok(grant.rung)
            }
        };
        let here = |grant: &&Grant| grant.network == bearer.network;
        let judged = self.grants.iter().filter(here).map(judge);
        match judged.max_by_key(|judged| (judged.ok(), judged.err())) {
            Some(Ok(rung)) => return Standing::Holds(rung),
            Some(Err(fault)) => return Standing::Nothing(fault),
            None => {}
        }
        let is_ipv4 = |network: Prefix| network.address().is_ipv4();
        let family = is_ipv4(bearer.network);
        let mut networks = self.grants.iter().map(|grant| grant.network);
        let shows = matches!(bearer.shown, Shown::Fingerprint(_)) && self.fingerprint.is_some();
        let newest = self.grants.last().filter(|_| shows);
        match newest {
            Some(grant) if networks.all(|network| is_ipv4(network) != family) => judge(grant)
                .map_or_else(Standing::Nothing, |_| Standing::Elsewhere {
                    id: self.id,
                    grant: *grant,
                }),
            _ => Standing::Nothing(Fault::ForeignNetwork),
        }
    }

    /// What a token proves of its bearer; see [`Self::standing`]. Allocates nothing.
    #[must_use]
    pub fn verify(
        token: &[u8],
        keys: &Keyring,
        bearer: &Bearer<'_>,
        revoked: impl Fn(&Self, &Grant) -> bool,
    ) -> Standing {
        Self::open(token, keys, bearer.host).map_or_else(Standing::Nothing, |clearance| {
            clearance.standing(bearer, |grant| revoked(&clearance, grant))
        })
    }
}

const GRANT_BYTES: usize = 8 + 8 + PREFIX_BYTES;

impl Grant {
    fn to_bytes(self) -> [u8; GRANT_BYTES] {
        let mut bytes = [0; GRANT_BYTES];
        let parts = self
            .issued
            .to_be_bytes()
            .into_iter()
            .chain(self.expires.to_be_bytes())
            .chain(prefix_to_bytes(self.network));
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        let [rung] = fields.array(RUNG)?;
        let bytes: [u8; GRANT_BYTES] = fields.array(GRANT)?;
        let (issued, rest) = bytes.split_first_chunk()?;
        let (expires, network) = rest.split_first_chunk()?;
        Some(Self {
            rung: Rung::from_code(rung)?,
            issued: u64::from_be_bytes(*issued),
            expires: u64::from_be_bytes(*expires),
            network: prefix_from_bytes(network.try_into().ok()?)?,
        })
    }
}

#[cfg(test)]
mod tests;
