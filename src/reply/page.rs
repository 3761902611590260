//! The pages that a visitor sees instead of the application: one style, no script, nothing loaded
//! from anywhere. They are rendered once.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use std::sync::LazyLock;

/// The style of every page, the challenge's too.
pub const STYLE: &str = include_str!("page.css");

/// What is said of a status.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    pub status: u16,
    pub title: &'static str,
    pub detail: &'static str,
}

const fn says(status: u16, title: &'static str, detail: &'static str) -> Text {
    Text {
        status,
        title,
        detail,
    }
}

static TEXTS: [Text; 14] = [
    says(400, "Bad Request", "The request could not be understood."),
    says(401, "Unauthorized", "This page needs you to sign in."),
    says(403, "Forbidden", "This request was not let through."),
    says(404, "Not Found", "There is nothing at this address."),
    says(
        405,
        "Method Not Allowed",
        "This address does not take such requests.",
    ),
    says(
        408,
        "Request Timeout",
        "The request took too long to arrive.",
    ),
    says(
        413,
        "Content Too Large",
        "The request is larger than is accepted.",
    ),
    says(
        421,
        "Misdirected Request",
        "This server does not answer for that name.",
    ),
    says(
        429,
        "Too Many Requests",
        "There were too many requests in a short time.",
    ),
    says(
        431,
        "Request Header Fields Too Large",
        "The request's headers are larger than is accepted.",
    ),
    says(
        502,
        "Bad Gateway",
        "The application gave no usable answer. Please try again in a moment.",
    ),
    says(
        503,
        "Service Unavailable",
        "The application can't take this request just now. Please try again in a moment.",
    ),
    says(
        504,
        "Gateway Timeout",
        "The application took too long to answer. Please try again in a moment.",
    ),
    says(
        500,
        "Internal Server Error",
        "Something went wrong on this side. Please try again in a moment.",
    ),
];

/// A page in pieces: the request's id goes between the last two, a wait between the first two.
#[derive(Debug)]
struct Pieces {
    status: u16,
    before_wait: String,
    before_id: &'static str,
    after_id: &'static str,
}

impl Pieces {
    fn new(text: Text) -> Self {
        Self {
            status: text.status,
            before_wait: format!(
                "{}<p class=\"status\">{}</p><h1>{}</h1><p>{}",
                head(text.title, STYLE),
                text.status,
                text.title,
                text.detail
            ),
            before_id: "</p></main><footer><p>If this keeps happening, please give this request number \
                        to the people who run this site.</p><p>Request <code>",
            after_id: "</code></p></footer></body></html>\n",
        }
    }
}

static PIECES: LazyLock<Vec<Pieces>> =
    LazyLock::new(|| TEXTS.iter().copied().map(Pieces::new).collect());

static CSP: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source_hash(STYLE)
    );
    HeaderValue::from_str(&policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// The start of a page, up to and with `<main>`. `title` and `style` are ours and not escaped.
#[must_use]
pub fn head(title: &str, style: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">\
         <style>{style}</style></head><body><main>"
    )
}

/// A Content-Security-Policy source that lets exactly this inline text in (CSP 3, 2.3.1).
#[must_use]
pub fn source_hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    format!("sha256-{}", STANDARD.encode(digest.as_ref()))
}

/// The headers that each page has, with room for a few more.
#[must_use]
pub fn headers() -> Vec<(HeaderName, HeaderValue)> {
    headers_with(CSP.clone())
}

/// The same under another policy.
#[must_use]
pub fn headers_with(policy: HeaderValue) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(10);
    headers.push((
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    ));
    headers.push(super::no_store());
    headers.push((CONTENT_SECURITY_POLICY, policy));
    headers.push((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    headers.push((REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
    headers
}

/// The text for a status; for one that is not foreseen, a general one.
#[must_use]
pub fn text(status: StatusCode) -> Text {
    let known = TEXTS.iter().find(|text| text.status == status.as_u16());
    known.copied().unwrap_or(Text {
        status: status.as_u16(),
        title: status.canonical_reason().unwrap_or("Error"),
        detail: if status.is_client_error() {
            "The request can't be answered."
        } else {
            "Something went wrong on this side. Please try again in a moment."
        },
    })
}

/// The page for a status. `request_id` needs no escaping; `wait` is in seconds.
#[must_use]
pub fn of(status: StatusCode, request_id: &str, wait: Option<u64>) -> Bytes {
    let unforeseen;
    let known = PIECES
        .iter()
        .find(|pieces| pieces.status == status.as_u16());
    let pieces = if let Some(pieces) = known {
        pieces
    } else {
        unforeseen = Pieces::new(text(status));
        &unforeseen
    };
    let mut page = String::with_capacity(
        pieces
            .before_wait
            .len()
            .saturating_add(pieces.after_id.len())
            .saturating_add(256),
    );
    page.push_str(&pieces.before_wait);
    if let Some(wait) = wait {
        page.push_str(" You can try again in ");
        page.push_str(&duration(wait));
        page.push('.');
    }
    page.push_str(pieces.before_id);
    page.push_str(request_id);
    page.push_str(pieces.after_id);
    page.into()
}

/// `1 second`, `90 seconds`, `5 minutes`, `2 hours`, rounded up.
fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..=120 => (seconds, "second"),
        121..=7200 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3600), "hour"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}
