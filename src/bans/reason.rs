//! Why somebody is banned, and the small table that bans point into instead of each having a name of
//! its own.

use parking_lot::RwLock;
use std::{fmt, sync::Arc};
use verdict::decision::Source;

/// Names of guards in the life of a process. They come from configurations and from operators'
/// imports; bans by further ones say `other`.
const MOST: usize = 4096;

/// What kind of guard, or who, placed a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Rule,
    Limit,
    List,
    H2Abuse,
    /// An operator.
    Admin,
    /// Too many names were seen to keep this one.
    Other,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Rule,
        Self::Limit,
        Self::List,
        Self::H2Abuse,
        Self::Admin,
        Self::Other,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Limit => "limit",
            Self::List => "list",
            Self::H2Abuse => "h2_abuse",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether guards of this kind have names of the operator's.
    fn is_named(self) -> bool {
        matches!(self, Self::Rule | Self::Limit | Self::List)
    }
}

impl From<Source> for Kind {
    fn from(source: Source) -> Self {
        match source {
            Source::Rule => Self::Rule,
            Source::Limit => Self::Limit,
            Source::List => Self::List,
        }
    }
}

/// Who placed a ban: `limit:per-login`, `h2_abuse`, `admin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    pub kind: Kind,
    /// The guard's name; that of the kind where there is one such guard only.
    pub name: Arc<str>,
}

impl Reason {
    #[must_use]
    pub fn new(kind: Kind, name: &str) -> Self {
        let name = if kind.is_named() { name } else { kind.name() };
        Self {
            kind,
            name: name.into(),
        }
    }

    /// Reads what [`fmt::Display`] wrote. Names are those that a configuration may have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let kind = Kind::of(kind)?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = (1..=64).contains(&name.len()) && name.chars().all(good);
        (fits && kind.is_named() || name.is_empty() && !kind.is_named())
            .then(|| Self::new(kind, name))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.kind.is_named() {
            write!(f, ":{}", self.name)?;
        }
        Ok(())
    }
}

/// Reasons by number.
#[derive(Debug)]
pub(super) struct Reasons(RwLock<Vec<Reason>>);

impl Default for Reasons {
    fn default() -> Self {
        Self(RwLock::new(vec![Reason::new(Kind::Other, "")]))
    }
}

impl Reasons {
    pub(super) fn number(&self, kind: Kind, name: &str) -> u16 {
        let find = |known: &[Reason]| {
            let same = |reason: &Reason| {
                reason.kind == kind && (!kind.is_named() || *reason.name == *name)
            };
            known.iter().position(same)
        };
        if let Some(at) = find(&self.0.read()) {
            return u16::try_from(at).unwrap_or(0);
        }
        let mut known = self.0.write();
        if let Some(at) = find(&known) {
            return u16::try_from(at).unwrap_or(0);
        }
        if known.len() >= MOST {
            return 0;
        }
        known.push(Reason::new(kind, name));
        u16::try_from(known.len() - 1).unwrap_or(0)
    }

    pub(super) fn get(&self, number: u16) -> Reason {
        let known = self.0.read();
        let reason = known.get(usize::from(number)).cloned();
        reason.unwrap_or_else(|| Reason::new(Kind::Other, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for text in [
            "rule:a.b-c_d",
            "limit:x",
            "list:y",
            "h2_abuse",
            "admin",
            "other",
        ] {
            assert_eq!(Reason::parse(text).unwrap().to_string(), text);
        }
        let long = format!("limit:{}", "x".repeat(65));
        for text in [
            "",
            "rule",
            "rule:",
            "admin:x",
            "limit:a b",
            "bad:x",
            "limit:ä",
            &long,
        ] {
            assert_eq!(Reason::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_kept_once_and_their_number_is_bounded() {
        let reasons = Reasons::default();
        let first = reasons.number(Kind::Limit, "a");
        assert_eq!(reasons.number(Kind::Limit, "a"), first);
        assert_ne!(reasons.number(Kind::Rule, "a"), first);
        for number in 0..2 * MOST {
            reasons.number(Kind::Rule, &number.to_string());
        }
        assert_eq!(reasons.0.read().len(), MOST);
        assert_eq!(reasons.get(first).to_string(), "limit:a");
        let beyond = reasons.number(Kind::Rule, "one more");
        assert_eq!(reasons.get(beyond).to_string(), "other");
    }
}
