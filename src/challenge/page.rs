//! The page that a challenge is shown on: one frame around the rung's own part, in the visitor's
//! language, under a strict Content-Security-Policy, and with nothing loaded from elsewhere.
//!
//! A rung's part is an HTML file beside its code. `[[key]]` in it stands for a text of the visitor's
//! language and is filled in once; `{{slot}}` is filled in for each visit. A sheet's page in one
//! language is put together, and compressed, when the first visitor wants it; a visit only copies.

mod gzip;
pub mod language;
mod nonce;
mod policy;
mod template;

use super::{Visit, replay};
use crate::{
    config::model::ChallengePage,
    reply::{self, Reply},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gzip::{Fragment, Gzip};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, VARY},
};
use language::{LANGUAGES, Language};
use policy::Policy;
use std::{
    borrow::Cow,
    fmt::Write as _,
    sync::{Arc, OnceLock},
};
use template::{Part, Template};

/// Says that an answer is a challenge.
pub const ACTION: HeaderName = HeaderName::from_static("rempart-action");

const FRAME: &str = include_str!("page/frame.html");

/// More than any page has; longer values cost an allocation more.
const VALUES: usize = 2 * 1024;

/// What a rung puts on its page.
#[derive(Clone, Copy, Debug)]
pub struct Sheet<'a> {
    /// Key of the text for the title.
    pub title: &'static str,
    /// HTML with `[[key]]` and `{{slot}}`. `{{nonce}}`, `{{request_id}}` and `{{host}}` are known
    /// everywhere.
    pub body: &'a str,
    /// JavaScript; empty for none. It has neither keys nor slots: what it needs stands in the body.
    pub script: &'a str,
    /// What the Content-Security-Policy is to allow on top, in its own syntax: the sources of each
    /// directive are added to those that every page has, as in
    /// `script-src 'wasm-unsafe-eval'; worker-src blob:; connect-src 'self'`.
    pub policy: &'a str,
}

/// What all pages of a configuration have in common: the operator's name, logo and help.
#[derive(Debug, Default)]
pub struct Look {
    page: ChallengePage,
    /// The style and the logo, the same on every page.
    head: OnceLock<Arc<Fragment>>,
}

impl Look {
    #[must_use]
    pub fn new(page: &ChallengePage) -> Arc<Self> {
        Arc::new(Self {
            page: page.clone(),
            head: OnceLock::new(),
        })
    }

    /// From the style's nonce to the brand.
    fn head(&self) -> Arc<Fragment> {
        let head = self.head.get_or_init(|| {
            let mut html = format!("\">{}</style></head><body><header>", reply::page::STYLE);
            if let Some(logo) = &self.page.logo {
                let data = STANDARD.encode(&logo.bytes);
                let kind = logo.media_type;
                // Beside the name the picture says nothing new; alone it stands for the site.
                let _ = write!(html, "<img src=\"data:{kind};base64,{data}\" alt=\"\">");
            }
            if let Some(name) = &self.page.name {
                let _ = write!(html, "<bdi>{}</bdi>", escape(name));
            }
            Arc::new(Fragment::new(html))
        });
        Arc::clone(head)
    }

    /// How to get help, in this language or for all of them.
    fn help<'a>(&'a self, language: &'a Language) -> &'a str {
        let of = |tag: &str| {
            let mut texts = self.page.help.iter();
            texts.find(|(known, _)| known == tag)
        };
        of(language.tag)
            .or_else(|| of(""))
            .map_or_else(|| language.text("frame.help"), |(_, text)| text)
    }
}

/// One sheet in every language.
#[derive(Debug)]
pub struct Templates {
    title: &'static str,
    body: String,
    script: String,
    policy: Policy,
    look: Arc<Look>,
    /// The script, the same in every language.
    tail: OnceLock<Arc<Fragment>>,
    /// In the order of [`LANGUAGES`].
    languages: [OnceLock<Template>; language::COUNT],
}

impl Templates {
    /// What is needed to make the pages when they are wanted.
    #[must_use]
    pub fn build(sheet: &Sheet<'_>, look: &Arc<Look>) -> Self {
        Self {
            title: sheet.title,
            body: sheet.body.to_owned(),
            script: sheet.script.to_owned(),
            policy: Policy::new(sheet.policy, !sheet.script.is_empty()),
            look: Arc::clone(look),
            tail: OnceLock::new(),
            languages: Default::default(),
        }
    }

    /// The page for a visit: 403, with `rempart-action: challenge`. `values` are put in as they are:
    /// [`escape`] what is not ours. `nonce`, `request_id`, `host`, `replay` and `replay_field` are put in
    /// here.
    #[must_use]
    pub fn render(&self, visit: &Visit<'_>, values: &[(&str, &str)]) -> Reply {
        let nonce = nonce::fresh();
        let language = language::negotiate(visit.headers);
        let host = escape(visit.host);
        let texts = LANGUAGES.get(language);
        let lost = texts.map_or("", |language| language.text("replay.lost"));
        let (again, field) = (replay::snippet(visit, lost), replay::field(visit));
        let value = |slot: &str| match slot {
            "nonce" => nonce.as_str(),
            "request_id" => reply::safe(visit.request_id),
            "host" => &*host,
            "replay" => &again,
            "replay_field" => &field,
            _ => {
                let found = values.iter().find(|(name, _)| *name == slot);
                found.map_or("", |(_, value)| value)
            }
        };
        let compressed = gzip::is_accepted(visit.headers);
        let template = self.template(language);
        let body = if compressed {
            let mut page = Gzip::with_capacity(template.compressed.saturating_add(VALUES));
            for part in &template.parts {
                match part {
                    Part::Fragment(fragment) => page.fragment(fragment),
                    Part::Slot(name) => page.text(value(name)),
                }
            }
            page.finish()
        } else {
            let mut page = String::with_capacity(template.plain.saturating_add(VALUES));
            for part in &template.parts {
                page.push_str(match part {
                    Part::Fragment(fragment) => fragment.text(),
                    Part::Slot(name) => value(name),
                });
            }
            page.into_bytes()
        };
        let mut headers = reply::page::headers_with(self.policy.with(&nonce));
        headers.push((
            VARY,
            HeaderValue::from_static("accept-encoding, accept-language"),
        ));
        if let Some(language) = LANGUAGES.get(language) {
            let tag = HeaderValue::from_static(language.tag);
            headers.push((CONTENT_LANGUAGE, tag));
        }
        if compressed {
            headers.push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        challenged(Reply {
            status: StatusCode::FORBIDDEN,
            headers,
            body: body.into(),
        })
    }

    fn template(&self, index: usize) -> &Template {
        static NONE: Template = Template::EMPTY;
        let (Some(slot), Some(language)) = (self.languages.get(index), LANGUAGES.get(index)) else {
            return &NONE;
        };
        slot.get_or_init(|| self.make(language))
    }

    fn make(&self, language: &Language) -> Template {
        let mut made = template::Builder::default();
        let frame = fill(FRAME, language, self.title);
        template::split(&frame, |text, slot| {
            made.text(text);
            match slot {
                "head" => made.fragment(self.look.head()),
                "brand" if self.look.page.name.is_some() => {}
                "brand" => {
                    made.text("<bdi>");
                    made.slot("host");
                    made.text("</bdi>");
                }
                "body" => {
                    // What a visitor posted goes along with each form.
                    let body = self.body.replace("</form>", "{{replay_field}}</form>");
                    let body = fill(&body, language, self.title);
                    template::split(&body, |text, slot| {
                        made.text(text);
                        made.slot(slot);
                    });
                }
                "help" => made.text(&escape(self.look.help(language))),
                "script" if self.script.is_empty() => {}
                "script" => {
                    made.text("<script nonce=\"");
                    made.slot("nonce");
                    let tail = || Arc::new(Fragment::new(format!("\">{}</script>", self.script)));
                    made.fragment(Arc::clone(self.tail.get_or_init(tail)));
                }
                slot => made.slot(slot),
            }
        });
        made.finish()
    }
}

/// Puts the texts of a language in, escaped.
fn fill(html: &str, language: &Language, title: &str) -> String {
    let mut filled = String::with_capacity(html.len().saturating_mul(2));
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("[[")
        && let Some((key, after)) = after.split_once("]]")
    {
        filled.push_str(before);
        match key {
            "language" => filled.push_str(language.tag),
            "direction" => filled.push_str(language.direction),
            "title" => filled.push_str(&escape(language.text(title))),
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

/// Without it: a word to a visitor who is asked for nothing.
#[must_use]
pub fn unchallenged(mut reply: Reply) -> Reply {
    reply.headers.retain(|(name, _)| *name != ACTION);
    reply
}

#[cfg(test)]
mod tests;
