//! Token buckets by composite key.

use super::{Case, Guard, Judgement, Level};
use crate::{
    bucket::{Bucket, Rate},
    decision::{Action, Reason, Rung},
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
    /// Of clients with a clearance of this rung or a higher one, where they have more. Their keys are
    /// others in the same table.
    cleared: Option<(Rung, Bucket)>,
    over: Action,
}

impl RateLimit {
    pub(crate) fn new(
        key: Vec<KeyPart>,
        rate: Rate,
        cleared: Option<(Rung, Rate)>,
        over: Action,
        table: Arc<KeyTable>,
    ) -> Self {
        let queue = match over {
            Action::Delay(None) => LONGEST_QUEUE,
            _ => Duration::ZERO,
        };
        Self {
            key,
            cleared: cleared
                .map(|(rung, rate)| (rung, Bucket::new(rate, queue, Arc::clone(&table)))),
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
        let seed = self.table().seed();
        let cleared = self
            .cleared
            .as_ref()
            .filter(|(rung, _)| case.facts.clearance >= Some(*rung));
        let (bucket, key) = match cleared {
            None => (&self.bucket, key::hash(&self.key, case.facts, seed)),
            Some((_, bucket)) => (bucket, key::hash_cleared(&self.key, case.facts, seed)),
        };
        let Some(key) = key else {
            return Judgement::default();
        };
        let taken = bucket.take(key, case.now);
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
                cleared: cleared.is_some(),
            }),
            slot: None,
        }
    }
}
