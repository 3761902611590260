//! The page that a challenge is shown on: one frame around the rung's own part, in the visitor's
//! language, under a strict Content-Security-Policy, and with nothing loaded from elsewhere.
//!
//! A rung's part is an HTML file beside its code. `[[key]]` in it stands for a text of the visitor's
//! language and is filled in once; `{{slot}}` is filled in for each visit.

pub mod language;

use super::{Visit, replay};
use crate::reply::{self, Reply};
use http::{HeaderName, HeaderValue, StatusCode};
use language::{LANGUAGES, Language};
use std::borrow::Cow;

/// Says that an answer is a challenge.
pub const ACTION: HeaderName = HeaderName::from_static("rempart-action");

const FRAME: &str = include_str!("page/frame.html");

/// What a rung puts on its page.
#[derive(Clone, Copy, Debug)]
pub struct Sheet {
    /// Key of the text for the title.
    pub title: &'static str,
    /// HTML with `[[key]]` and `{{slot}}`.
    pub body: &'static str,
    /// JavaScript; empty for none.
    pub script: &'static str,
    /// More of the Content-Security-Policy, each with its directive.
    pub policy: &'static str,
}

/// One sheet in every language.
#[derive(Debug)]
pub struct Templates {
    /// In the order of [`LANGUAGES`].
    templates: Vec<Template>,
    policy: &'static str,
}

/// A page in pieces: what stands fast, and the name of the slot after it.
#[derive(Debug)]
struct Template {
    pieces: Vec<(String, &'static str)>,
    last: String,
}

impl Templates {
    /// Renders all that can be rendered ahead.
    #[must_use]
    pub fn build(sheet: &Sheet) -> Self {
        let templates = LANGUAGES
            .iter()
            .map(|language| Template::build(sheet, language))
            .collect();
        Self {
            templates,
            policy: sheet.policy,
        }
    }

    /// The page for a visit: 403, with `rempart-action: challenge`. `values` are put in as they are;
    /// `nonce`, `request_id`, `replay` and `replay_field` are put in here.
    #[must_use]
    pub fn render(&self, visit: &Visit<'_>, values: &[(&str, &str)]) -> Reply {
        let nonce = nonce();
        let language = language::negotiate(visit.headers);
        let request_id = reply::safe(visit.request_id);
        let texts = LANGUAGES.get(language);
        let lost = texts.map_or("", |language| language.text("replay.lost"));
        let (again, field) = (replay::snippet(visit, lost), replay::field(visit));
        let value = |slot: &str| match slot {
            "nonce" => nonce.as_str(),
            "request_id" => request_id,
            "replay" => &again,
            "replay_field" => &field,
            _ => {
                let found = values.iter().find(|(name, _)| *name == slot);
                found.map_or("", |(_, value)| value)
            }
        };
        let mut page = String::with_capacity(16 * 1024);
        if let Some(template) = self.templates.get(language) {
            for (text, slot) in &template.pieces {
                page.push_str(text);
                page.push_str(value(slot));
            }
            page.push_str(&template.last);
        }
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}' 'wasm-unsafe-eval'; \
             style-src 'nonce-{nonce}'; img-src data:; worker-src blob:; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'{}",
            self.policy
        );
        let policy = HeaderValue::try_from(policy)
            .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
        challenged(Reply {
            status: StatusCode::FORBIDDEN,
            headers: reply::page::headers_with(policy),
            body: page.into(),
        })
    }
}

impl Template {
    fn build(sheet: &Sheet, language: &Language) -> Self {
        // What a visitor posted goes along with each form.
        let body = sheet.body.replace("</form>", "{{replay_field}}</form>");
        let text = FRAME
            .replace("[[frame.title]]", &format!("[[{}]]", sheet.title))
            .replace("[[frame.style]]", reply::page::STYLE)
            .replace("[[frame.body]]", &body);
        let text = fill(&text, language).replace("[[frame.script]]", sheet.script);
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{")
            && let Some((name, after)) = after.split_once("}}")
        {
            // A handful a sheet, for as long as the process lives.
            pieces.push((before.to_owned(), &*name.to_owned().leak()));
            rest = after;
        }
        Self {
            pieces,
            last: rest.to_owned(),
        }
    }
}

/// Puts the texts of a language in, escaped.
fn fill(html: &str, language: &Language) -> String {
    let mut filled = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("[[")
        && let Some((key, after)) = after.split_once("]]")
    {
        filled.push_str(before);
        match key {
            "frame.script" => filled.push_str("[[frame.script]]"),
            "language" => filled.push_str(language.tag),
            "direction" => filled.push_str(language.direction),
            _ => filled.push_str(&escape(language.text(key))),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// For text and quoted attributes of HTML.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len().saturating_add(16));
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// With `rempart-action: challenge`.
#[must_use]
pub fn challenged(reply: Reply) -> Reply {
    reply.with(ACTION, HeaderValue::from_static("challenge"))
}

/// 128 bits that nobody can guess, as base64url.
fn nonce() -> String {
    use base64::Engine as _;
    let bytes: [u8; 16] = super::random().unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
