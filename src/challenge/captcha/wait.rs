//! The word that a visitor has to wait, in its language: 429, with the time to wait, and no captcha.

use super::Captcha;
use crate::{
    challenge::{
        Visit, local_target,
        page::{
            ACTION, Sheet, escape,
            language::{self, LANGUAGES},
        },
    },
    reply::Reply,
};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use std::time::Duration;

pub const SHEET: Sheet<'static> = Sheet {
    title: "wait.title",
    body: include_str!("wait.html"),
    script: "",
    policy: "",
};

/// Until some more pictures are drawn.
const BUSY: Duration = Duration::from_secs(10);

/// From here on minutes are told.
const MINUTES: u64 = 120;

impl Captcha {
    /// For who was wrong too often, or asked for too many.
    pub(super) fn too_many(&self, visit: &Visit<'_>, wait: Duration) -> Reply {
        self.wait(visit, wait, "wait.wrong")
    }

    /// When there are neither pictures nor questions.
    pub(super) fn busy(&self, visit: &Visit<'_>) -> Reply {
        self.wait(visit, BUSY, "wait.busy")
    }

    fn wait(&self, visit: &Visit<'_>, wait: Duration, why: &str) -> Reply {
        if !visit.html {
            return Reply::throttled(visit.request_id, false, wait, None);
        }
        let whole = Duration::from_secs(wait.as_secs());
        let seconds = wait
            .as_secs()
            .saturating_add(u64::from(wait > whole))
            .max(1);
        let language = LANGUAGES.get(language::negotiate(visit.headers));
        let text = |key| language.map_or("", |language| language.text(key));
        let time = if seconds > MINUTES {
            format!("{}\u{a0}{}", seconds.div_ceil(60), text("wait.minutes"))
        } else {
            format!("{seconds}\u{a0}{}", text("wait.seconds"))
        };
        // There is no form here that what was posted could go along with: it is said to be lost.
        let visit = &Visit {
            replay: "",
            ..*visit
        };
        let next = escape(local_target(visit.target));
        let values = [
            ("why", &*escape(text(why))),
            ("time", &time),
            ("next", &next),
        ];
        let mut reply = self.wait.render(visit, &values);
        reply.status = StatusCode::TOO_MANY_REQUESTS;
        reply.headers.retain(|(name, _)| name != ACTION);
        reply.with(RETRY_AFTER, HeaderValue::from(seconds))
    }
}
