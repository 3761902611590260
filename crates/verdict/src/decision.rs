//! The ladder of actions, mildest first, and the reason for the rung that was picked.

use crate::guard::concurrency::Slot;
use std::{sync::Arc, time::Duration};

/// What happens to a request. Ordered from mildest to hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Ends the evaluation: nothing further judges this client. Bulkheads still hold.
    Allow,
    /// Wait, then go on. `None` on a limit: exactly until the bucket has a token.
    Delay(Option<Duration>),
    /// Solve something first, unless a clearance of at least this rung is held. `None` leaves the rung
    /// to the risk; a decision always names one.
    Challenge(Option<Rung>),
    /// 429 with the true wait.
    Throttle,
    /// Hold the connection this long, then 403.
    Tarpit(Duration),
    /// 403.
    Deny,
    /// Close without a word.
    Drop,
    /// Drop all of this client's connections for this long; repeated bans grow.
    Ban(Duration),
}

impl Action {
    /// Whether the request goes no further, whatever the client does about it.
    #[must_use]
    pub fn refuses(self) -> bool {
        self >= Self::Throttle
    }

    /// The label for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Delay(_) => "delay",
            Self::Challenge(_) => "challenge",
            Self::Throttle => "throttle",
            Self::Tarpit(_) => "tarpit",
            Self::Deny => "deny",
            Self::Drop => "drop",
            Self::Ban(_) => "ban",
        }
    }
}

/// A rung of the challenge ladder, mildest first. Verification by e-mail and a second factor have
/// their places above these, once there is somebody to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// A cookie is kept and sent back.
    Silent,
    /// A while of computing.
    ProofOfWork,
    /// Somebody reads and types.
    Captcha,
    /// A provider vouches for the visitor.
    ThirdParty,
}

impl Rung {
    pub const ALL: [Self; 4] = [
        Self::Silent,
        Self::ProofOfWork,
        Self::Captcha,
        Self::ThirdParty,
    ];

    /// The word in the configuration, in logs and as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::ProofOfWork => "proof_of_work",
            Self::Captcha => "captcha",
            Self::ThirdParty => "third_party",
        }
    }

    /// The number in tokens; never to be given another meaning. 40 and up are kept for e-mail and a
    /// second factor.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Silent => 5,
            Self::ProofOfWork => 10,
            Self::Captcha => 20,
            Self::ThirdParty => 30,
        }
    }

    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.code() == code)
    }
}

/// Whether a finding bites, or is only logged and counted as if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

impl Mode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// Which kind of guard found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    List,
    Rule,
    Limit,
}

impl Source {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Rule => "rule",
            Self::Limit => "limit",
        }
    }
}

/// Why, in structure: every log line, metric and reply is written from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client's address stands in a list.
    Listed,
    /// A rule's condition held.
    Matched,
    /// A rule's condition failed to evaluate; it counts as not held, and is counted.
    Failed,
    /// A token bucket is empty for this long.
    OverRate { wait: Duration },
    /// This many requests of the key are in flight already.
    OverConcurrency { in_flight: u32 },
}

impl Reason {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Matched => "matched",
            Self::Failed => "failed",
            Self::OverRate { .. } => "over_rate",
            Self::OverConcurrency { .. } => "over_concurrency",
        }
    }
}

/// What one guard has to say about a request.
#[derive(Clone, Debug)]
pub struct Finding {
    pub source: Source,
    /// The guard's name in the configuration.
    pub name: Arc<str>,
    pub action: Action,
    pub mode: Mode,
    pub reason: Reason,
}

/// The state of the tightest token bucket that the request passed through, for `ratelimit` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Index of the limit in the configuration.
    pub limit: usize,
    /// Whole requests left now.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// Whether it is the bucket of clients with a clearance: [`crate::policy::LimitSpec::cleared_kind`].
    pub cleared: bool,
}

/// How many findings and slots one decision can carry without allocating.
pub const CARRIED: usize = 8;

/// What to do with a request, and why. Dropping it gives its concurrency slots back.
#[derive(Debug)]
pub struct Decision {
    pub action: Action,
    /// The enforced finding that picked `action`; `None` when nothing was found.
    pub finding: Option<Finding>,
    /// Shadow findings and failures, to be logged and counted; at most [`CARRIED`].
    pub observed: arrayvec::ArrayVec<Finding, CARRIED>,
    /// The tightest bucket, when a token bucket applied.
    pub quota: Option<Quota>,
    /// In-flight slots, given back on drop.
    pub slots: arrayvec::ArrayVec<Slot, CARRIED>,
}
