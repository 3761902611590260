//! Tickets: what a visitor carries from a challenge to its answer.
//!
//! A ticket says which puzzle was given, what solving it is worth, to whom, where and when; it is
//! sealed, so nothing of it is kept here. Whether it is good at this time and place, and that it is
//! answered once, is the caller's to ask; whether the answer is right is the rung's.

use crate::{
    clearance::{PREFIX_BYTES, prefix_from_bytes, prefix_to_bytes},
    decision::Rung,
    prefix::Prefix,
    seal::{Keyring, Purpose, Writer},
};
use arrayvec::ArrayVec;

/// The longest path and query to return to.
pub const MAX_TARGET: usize = 4096;

/// The longest of what a puzzle needs to know when it is answered.
pub const MAX_DETAIL: usize = 64;

/// The longest token, before base64url.
const MAX_BYTES: usize = MAX_TARGET + 512;

const KIND: u8 = 1;
const WORTH: u8 = 2;
const ID: u8 = 3;
const HOST: u8 = 4;
const NETWORK: u8 = 5;
const ISSUED: u8 = 6;
const EXPIRES: u8 = 7;
const TARGET: u8 = 8;
const DETAIL: u8 = 9;

/// Which puzzle a ticket is for. The numbers stand in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// To come back with a cookie.
    Silent = 1,
    ProofOfWork = 2,
    /// To read an image.
    Image = 3,
    /// To answer a question in words.
    Question = 4,
    ThirdParty = 5,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Silent,
        Self::ProofOfWork,
        Self::Image,
        Self::Question,
        Self::ThirdParty,
    ];

    /// The label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::ProofOfWork => "proof_of_work",
            Self::Image => "image",
            Self::Question => "question",
            Self::ThirdParty => "third_party",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// What a puzzle needs to know when it is answered: an effort, a keyed hash of a word.
pub type Detail = ArrayVec<u8, MAX_DETAIL>;

/// A challenge, as it stands sealed in its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub kind: Kind,
    /// The rung of the clearance that solving it brings. One puzzle may stand in for another.
    pub worth: Rung,
    /// Unlike any other: what makes each challenge solvable once.
    pub id: [u8; 16],
    pub host: String,
    pub network: Prefix,
    /// Unix milliseconds.
    pub issued: u64,
    /// Unix milliseconds.
    pub expires: u64,
    /// Path and query of the request that was challenged.
    pub target: String,
    pub detail: Detail,
}

/// A ticket that was sealed here, and its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub ticket: Ticket,
    /// The seal: nobody knew it before the ticket was made, and it depends on all of it.
    pub seed: [u8; 32],
}

impl Ticket {
    /// The token; `None` when a field is too long.
    #[must_use]
    pub fn seal(&self, keys: &Keyring) -> Option<String> {
        if self.target.len() > MAX_TARGET || self.host.len() > 253 {
            return None;
        }
        let fields = Writer::new(Purpose::Ticket)
            .field(KIND, &[self.kind as u8])
            .field(WORTH, &[self.worth.code()])
            .field(ID, &self.id)
            .field(HOST, self.host.as_bytes())
            .field(NETWORK, &prefix_to_bytes(self.network))
            .field(ISSUED, &self.issued.to_be_bytes())
            .field(EXPIRES, &self.expires.to_be_bytes())
            .field(TARGET, self.target.as_bytes())
            .field(DETAIL, &self.detail);
        keys.seal_up_to(fields, MAX_BYTES)
    }

    /// Opens a token that one of these keys sealed.
    #[must_use]
    pub fn open(token: &[u8], keys: &Keyring) -> Option<Opened> {
        let mut buffer = [0; MAX_BYTES];
        let mut fields = keys.open_in(token, Purpose::Ticket, &mut buffer)?;
        let seed = fields.tag();
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let [kind] = fields.array(KIND)?;
        let [worth] = fields.array(WORTH)?;
        let ticket = Self {
            kind: Kind::from_code(kind)?,
            worth: Rung::from_code(worth)?,
            id: fields.array(ID)?,
            host: text(fields.field(HOST)?)?,
            network: prefix_from_bytes(fields.array::<PREFIX_BYTES>(NETWORK)?)?,
            issued: fields.number(ISSUED)?,
            expires: fields.number(EXPIRES)?,
            target: text(fields.field(TARGET)?)?,
            detail: Detail::try_from(fields.field(DETAIL)?).ok()?,
        };
        fields.is_at_end().then_some(Opened { ticket, seed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixLengths;
    use proptest::prelude::*;

    fn key() -> Keyring {
        Keyring::new(b"a secret of the tests, long enough", [])
    }

    fn ticket() -> Ticket {
        Ticket {
            kind: Kind::Image,
            worth: Rung::ThirdParty,
            id: [7; 16],
            host: "app.example.com".to_owned(),
            network: Prefix::of("192.0.2.7".parse().unwrap(), PrefixLengths::NETWORK),
            issued: 1_700_000_000_123,
            expires: 1_700_000_300_123,
            target: "/a?b=c".to_owned(),
            detail: Detail::try_from(&[1, 2, 3][..]).unwrap(),
        }
    }

    fn open(ticket: &Ticket) -> Opened {
        Ticket::open(ticket.seal(&key()).unwrap().as_bytes(), &key()).unwrap()
    }

    #[test]
    fn what_was_sealed_comes_out() {
        for kind in Kind::ALL {
            let ticket = Ticket { kind, ..ticket() };
            assert_eq!(open(&ticket).ticket, ticket);
        }
    }

    #[test]
    fn every_ticket_has_a_seed_of_its_own() {
        let other = Ticket {
            id: [8; 16],
            ..ticket()
        };
        assert_ne!(open(&ticket()).seed, open(&other).seed);
    }

    #[test]
    fn what_is_too_long_has_no_token() {
        let mut long = ticket();
        long.target = "a".repeat(MAX_TARGET + 1);
        assert_eq!(long.seal(&key()), None);
        long.target.pop();
        long.host = "h".repeat(253);
        long.detail = [9; MAX_DETAIL].into();
        assert_eq!(open(&long).ticket, long);
        long.host = "h".repeat(254);
        assert_eq!(long.seal(&key()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_ticket(token in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Ticket::open(&token, &key()), None);
        }
    }
}
