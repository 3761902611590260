//! Replay: what a challenged visitor posted reaches its page after the climb. The body is sealed into
//! the challenge's page, comes back from there as a form's field, and is unwrapped on its way to the
//! application. Nothing of it is kept here, so any replica can unwrap it.
//!
//! Only what an HTML form can send is kept, only of a browser's navigation from this very site (a
//! page of another site must not gain by the detour what `SameSite` cookies deny it), and only as
//! much as the [budget] has room for. Reading bodies and sending them on is `proxy`'s.

mod budget;

use super::{
    Visit,
    page::{self, Sheet},
};
use crate::config::model;
use budget::Budget;
pub use budget::Share;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, ORIGIN, REFERER, TRANSFER_ENCODING,
    },
};
use std::sync::Arc;
use verdict::{
    replay::{MAX_OVERHEAD, MAX_TARGET, MAX_VALUE, Replay},
    seal::Keyring,
};

/// The form's field that carries a body.
pub const FIELD: &str = "rempart-replay";

/// How a form begins that does.
pub const START: &[u8] = b"rempart-replay=";

/// How long a body may be carried, in milliseconds: several captchas, and some reloads after that.
const KEPT: u64 = 30 * 60 * 1000;

/// The page between a right answer and the page that was posted to.
pub const SHEET: Sheet<'static> = Sheet {
    title: "replay.title",
    body: r#"<h1>[[replay.title]]</h1><p>[[replay.intro]]</p><p><button form="replay">[[replay.continue]]</button></p>"#,
    script: "document.getElementById('replay').submit();",
    policy: "",
};

/// Seals bodies, and opens them again.
#[derive(Debug)]
pub struct Replays {
    /// The largest body, in bytes; 0: none is kept.
    most: usize,
    /// Name of the cookie that says where to look for a body.
    cookie: String,
    budget: Arc<Budget>,
}

/// What a posted form turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// The application's own.
    Foreign,
    /// A body that was kept for this visitor and target.
    Kept(Replay),
    /// One of ours, but not here, not now or not for this visitor.
    Stale,
}

impl Replays {
    /// Shares the budget of `previous`: it is the process's.
    #[must_use]
    pub fn new(spec: &model::Challenge, previous: Option<&Self>) -> Self {
        Self {
            most: usize::try_from(spec.replay).unwrap_or_default(),
            cookie: format!("{}-replay", spec.cookie),
            budget: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.budget)),
        }
    }

    /// The longest token, in bytes.
    #[must_use]
    pub fn longest_token(&self) -> usize {
        if self.most == 0 {
            return 0;
        }
        let bytes = self.most.saturating_add(MAX_OVERHEAD);
        bytes.div_ceil(3).saturating_mul(4)
    }

    /// The longest form that carries a body.
    #[must_use]
    pub fn longest_form(&self) -> usize {
        self.longest_token().saturating_add(START.len())
    }

    /// The declared length of the body of a request that is to be challenged, if it may be kept.
    #[must_use]
    pub fn wants(&self, visit: &Visit<'_>) -> Option<usize> {
        let headers = visit.headers;
        let posts = self.most > 0 && visit.method == Method::POST && visit.html;
        if !posts
            || !is_form(headers)
            || !is_same_origin(visit)
            || super::local_target(visit.target) != visit.target
            || visit.target.len() > MAX_TARGET
            || value(headers, &CONTENT_TYPE).len() > MAX_VALUE
        {
            return None;
        }
        // Sent again before it was let through, it is wrapped already.
        let most = if is_urlencoded(headers) {
            self.longest_form()
        } else {
            self.most
        };
        declared_length(headers).filter(|length| *length <= most)
    }

    /// Room for a body of this length; `None` when too much is kept already.
    #[must_use]
    pub fn share(&self, visit: &Visit<'_>, length: usize) -> Option<Share> {
        Budget::share(&self.budget, visit.client, length, visit.now)
    }

    /// The same for a form that carries a body which was kept.
    #[must_use]
    pub fn share_again(&self, visit: &Visit<'_>, length: usize) -> Option<Share> {
        Budget::share_again(&self.budget, visit.client, length, visit.now)
    }

    /// The token for a body that was read; `None` when it can't be kept.
    #[must_use]
    pub fn keep(&self, keys: &Keyring, visit: &Visit<'_>, body: &[u8]) -> Option<String> {
        match self.unwrap(keys, visit, body) {
            Form::Kept(_) => {
                let token = body.strip_prefix(START)?;
                return std::str::from_utf8(token).ok().map(str::to_owned);
            }
            Form::Stale => return None,
            Form::Foreign if body.len() > self.most => return None,
            Form::Foreign => {}
        }
        let referer = value(visit.headers, &REFERER);
        let replay = Replay {
            host: visit.host.to_owned(),
            target: visit.target.to_owned(),
            network: visit.network,
            expires: visit.now.saturating_add(KEPT),
            content_type: value(visit.headers, &CONTENT_TYPE).to_vec(),
            referer: if referer.len() <= MAX_VALUE {
                referer.to_vec()
            } else {
                Vec::new()
            },
            body: body.to_vec(),
        };
        replay.seal(keys)
    }

    /// What a form holds that was posted to a page.
    #[must_use]
    pub fn unwrap(&self, keys: &Keyring, visit: &Visit<'_>, form: &[u8]) -> Form {
        let token = form.strip_prefix(START);
        let token = token.filter(|_| is_urlencoded(visit.headers));
        let Some(replay) = token.and_then(|token| self.open(keys, token)) else {
            return Form::Foreign;
        };
        if is_for(&replay, visit) && replay.target == visit.target {
            Form::Kept(replay)
        } else {
            Form::Stale
        }
    }

    /// What a token holds, whoever it is for.
    fn open(&self, keys: &Keyring, token: &[u8]) -> Option<Replay> {
        if token.len() > self.longest_token() {
            return None;
        }
        let replay = Replay::open(token, keys)?;
        (replay.body.len() <= self.most).then_some(replay)
    }

    /// The body that an answer carries, if it is this visitor's.
    #[must_use]
    pub fn carried(&self, keys: &Keyring, visit: &Visit<'_>, token: &[u8]) -> Option<Replay> {
        let replay = self.open(keys, token)?;
        is_for(&replay, visit).then_some(replay)
    }

    /// Whether a request may hold a body to unwrap: cheap, and asked of every request.
    #[must_use]
    pub fn is_marked(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.most > 0
            && method == Method::POST
            && is_urlencoded(headers)
            && declared_length(headers).is_some_and(|length| length <= self.longest_form())
            && self.has_mark(headers)
    }

    /// Whether the cookie is there that was set with the page.
    #[must_use]
    pub fn has_mark(&self, headers: &HeaderMap) -> bool {
        cookies(headers).any(|cookie| self.is_mark(cookie))
    }

    /// Whether a page of this very site sent the request, and so may carry a body.
    #[must_use]
    pub fn is_from_here(&self, visit: &Visit<'_>) -> bool {
        is_same_origin(visit)
    }

    fn is_mark(&self, cookie: &[u8]) -> bool {
        let name = cookie.split(|byte| *byte == b'=').next();
        name.is_some_and(|name| name.trim_ascii() == self.cookie.as_bytes())
    }

    /// The value of `set-cookie` for a visitor who carries a body. Without it no form is looked into;
    /// it proves nothing.
    #[must_use]
    pub fn mark(&self, visit: &Visit<'_>) -> Option<HeaderValue> {
        let secure = if visit.secure { "; Secure" } else { "" };
        let cookie = format!(
            "{}=1; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
            self.cookie,
            KEPT / 1000,
        );
        HeaderValue::try_from(cookie).ok()
    }

    /// What the headers have to become, to be those of the request that was kept. Its body is the
    /// caller's to exchange.
    #[must_use]
    pub fn restore(
        &self,
        replay: &Replay,
        headers: &HeaderMap,
    ) -> [(HeaderName, Option<HeaderValue>); 6] {
        let cookies: Vec<&[u8]> = cookies(headers)
            .filter(|cookie| !self.is_mark(cookie))
            .collect();
        let value = |bytes: &[u8]| {
            let value = HeaderValue::from_bytes(bytes).ok();
            value.filter(|value| !value.is_empty())
        };
        [
            (CONTENT_TYPE, value(&replay.content_type)),
            (CONTENT_LENGTH, Some(HeaderValue::from(replay.body.len()))),
            (REFERER, value(&replay.referer)),
            (COOKIE, value(&cookies.join(&b"; "[..]))),
            (TRANSFER_ENCODING, None),
            (EXPECT, None),
        ]
    }
}

/// What a page says of the request's body: a form that sends it again, which scripts submit; or that
/// it is lost. Empty where there was none.
#[must_use]
pub fn snippet(visit: &Visit<'_>, lost: &str) -> String {
    if !visit.replay.is_empty() {
        return format!(
            r#"<form id="replay" method="post" action="{}" hidden>{}</form>"#,
            page::escape(super::local_target(visit.target)),
            field(visit)
        );
    }
    let bodiless = matches!(*visit.method, Method::GET | Method::HEAD);
    if bodiless || visit.target.starts_with(super::RESERVED) {
        return String::new();
    }
    format!(r#"<p id="lost">{}</p>"#, page::escape(lost))
}

/// The field that goes with each form of a page. The token needs no escaping.
#[must_use]
pub fn field(visit: &Visit<'_>) -> String {
    if visit.replay.is_empty() {
        return String::new();
    }
    format!(
        r#"<input type="hidden" name="{FIELD}" value="{}">"#,
        visit.replay
    )
}

fn is_for(replay: &Replay, visit: &Visit<'_>) -> bool {
    replay.host == visit.host && replay.network == visit.network && visit.now < replay.expires
}

/// Whether a page of this very origin sent the request, as browsers tell it: by `sec-fetch-site`, or,
/// where that is missing (plaintext, older browsers), by `origin`. A request that says neither is
/// not known to be.
fn is_same_origin(visit: &Visit<'_>) -> bool {
    let headers = visit.headers;
    let mut sites = headers.get_all("sec-fetch-site").iter();
    if let Some(site) = sites.next() {
        return sites.next().is_none() && (site == "same-origin" || site == "none");
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return false;
    };
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|o| o.split_once("://")) else {
        return false;
    };
    let default = match scheme {
        "https" => ":443",
        // Where TLS ends in front of us, the scheme is not known here.
        "http" if !visit.secure => ":80",
        _ => return false,
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or(visit.host);
    let bare = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        let bare = authority.strip_suffix(default).map(str::to_owned);
        bare.unwrap_or(authority)
    };
    bare(authority) == bare(host)
}

/// What an HTML form can send. Anything else has to pass a CORS preflight, or comes from no form: a form
/// that was unwrapped must not be a way around that.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = value(headers, &CONTENT_TYPE);
    let name = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    let name = name.trim_ascii();
    [
        &b"application/x-www-form-urlencoded"[..],
        b"multipart/form-data",
        b"text/plain",
    ]
    .iter()
    .any(|form| name.eq_ignore_ascii_case(form))
}

fn is_urlencoded(headers: &HeaderMap) -> bool {
    let kind = value(headers, &CONTENT_TYPE);
    let name = kind.split(|byte| *byte == b';').next();
    name.is_some_and(|name| {
        name.trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// `None` also where the length is not the framing.
#[must_use]
pub fn declared_length(headers: &HeaderMap) -> Option<usize> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next()?.to_str().ok()?.trim().parse().ok();
    length.filter(|_| lengths.next().is_none())
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
}

#[cfg(test)]
mod tests;
