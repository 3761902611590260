//! Token buckets by composite key.

use super::{Case, Guard, Judgement, Level};
use crate::{
    bucket::{Bucket, Rate},
    decision::{Action, Reason},
    key,
    key_table::KeyTable,
    policy::KeyPart,
};
use std::{sync::Arc, time::Duration};

/// The longest that a request over its rate is held back by [`Action::Delay`] until its token is
/// there; one that would have to wait longer is throttled.
pub const LONGEST_QUEUE: Duration = Duration::from_secs(5);

/// A rate limit. Over it, `Delay(None)` takes the next token in advance and waits for it; any other
/// action takes none.
#[derive(Debug)]
pub(crate) struct RateLimit {
    key: Vec<KeyPart>,
    bucket: Bucket,
    over: Action,
}

impl RateLimit {
    pub(crate) fn new(key: Vec<KeyPart>, rate: Rate, over: Action, table: Arc<KeyTable>) -> Self {
        let queue = match over {
            Action::Delay(None) => LONGEST_QUEUE,
            _ => Duration::ZERO,
        };
        Self {
            key,
            bucket: Bucket::new(rate, queue, table),
            over,
        }
    }

    pub(crate) fn table(&self) -> &Arc<KeyTable> {
        self.bucket.table()
    }
}

impl Guard for RateLimit {
    fn judge(&self, case: &Case<'_>) -> Judgement {
        let Some(key) = key::hash(&self.key, case.facts, self.table().seed()) else {
            return Judgement::default();
        };
        let taken = self.bucket.take(key, case.now);
        let found = if !taken.admitted {
            Some(match self.over {
                Action::Delay(None) => Action::Throttle,
                over => over,
            })
        } else if taken.wait > Duration::ZERO {
            Some(Action::Delay(Some(taken.wait)))
        } else {
            None
        };
        Judgement {
            found: found.map(|action| (action, Reason::OverRate { wait: taken.wait })),
            level: Some(Level {
                remaining: taken.remaining,
                reset: taken.reset,
            }),
            slot: None,
        }
    }
}
