//! The limit of open files: raised as far as it goes, and a word when that is too little for the
//! connections that the configuration allows.

use crate::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// For the rest: listening sockets, files, idle connections to upstreams.
const APART: u64 = 2048;

/// Raises the soft limit to the hard one, and warns when `connections.total` does not fit.
pub fn provide(config: &Config) {
    let total = u64::from(config.connections.total.get());
    let limit = raise();
    if let Some(limit) = limit.filter(|limit| *limit < needed(total)) {
        warn!(
            limit,
            needed = needed(total),
            "connections.total is {total}, and this process may not open enough files for it: \
             raise the limit (LimitNOFILE in systemd, ulimit -Hn in a shell), or lower the total"
        );
    }
}

/// A client's connection, and one to an upstream for it.
#[must_use]
pub fn needed(total: u64) -> u64 {
    total.saturating_mul(2).saturating_add(APART)
}

/// The limit from now on; `None` is none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the limit of open files can't be raised");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, limit), (maximum, maximum));
        assert_eq!(needed(20_000), 42_048);
    }
}
