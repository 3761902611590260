//! The `ratelimit` and `ratelimit-policy` headers, as in draft-ietf-httpapi-ratelimit-headers-10.
//! The policy is called `default` whatever the operator calls the limit.

use super::whole_seconds;
use http::{HeaderName, HeaderValue};
use std::time::Duration;
use verdict::policy::LimitKind;

/// A token bucket as its client may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that a full bucket lets through at once.
    pub quota: u32,
    /// Seconds in which an empty bucket fills.
    pub window: u64,
    /// Requests left.
    pub remaining: u32,
    /// Seconds until there is more.
    pub reset: u64,
}

impl RateLimit {
    /// The state of a limit of this kind; `None` for one that has no bucket.
    #[must_use]
    pub fn new(kind: &LimitKind, remaining: u32, reset: Duration) -> Option<Self> {
        let LimitKind::Rate {
            amount,
            period,
            burst,
        } = kind
        else {
            return None;
        };
        let fill = period
            .checked_mul(burst.get())
            .and_then(|time| time.checked_div(amount.get()))
            .unwrap_or(Duration::MAX);
        Some(Self {
            quota: burst.get(),
            window: whole_seconds(fill),
            remaining,
            reset: whole_seconds(reset),
        })
    }

    /// Both headers.
    #[must_use]
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        let value = |text: String| {
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        let Self {
            quota,
            window,
            remaining,
            reset,
        } = self;
        [
            (
                HeaderName::from_static("ratelimit"),
                value(format!("\"default\";r={remaining};t={reset}")),
            ),
            (
                HeaderName::from_static("ratelimit-policy"),
                value(format!("\"default\";q={quota};w={window}")),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn rate(amount: u32, period: u64, burst: u32) -> LimitKind {
        LimitKind::Rate {
            amount: NonZeroU32::new(amount).unwrap(),
            period: Duration::from_secs(period),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn headers_are_structured_fields() {
        let limit = RateLimit::new(&rate(5, 60, 5), 0, Duration::from_millis(11_200)).unwrap();
        let [(_, state), (_, policy)] = limit.headers();
        assert_eq!(state, "\"default\";r=0;t=12");
        assert_eq!(policy, "\"default\";q=5;w=60");
    }

    #[test]
    fn a_window_is_what_the_bucket_takes_to_fill() {
        let of = |kind| RateLimit::new(&kind, 1, Duration::ZERO).unwrap();
        assert_eq!(of(rate(50, 1, 100)).window, 2);
        assert_eq!(of(rate(1000, 1, 1)).window, 1);
        assert_eq!(of(rate(1, u64::MAX, u32::MAX)).quota, u32::MAX);
    }

    #[test]
    fn a_concurrency_limit_has_no_bucket() {
        let max = NonZeroU32::MIN;
        let kind = LimitKind::Concurrent { max };
        assert_eq!(RateLimit::new(&kind, 1, Duration::ZERO), None);
    }
}
