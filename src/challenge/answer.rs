//! What was posted as an answer: fields of a form, or of a JSON object when a script sends it.

use http::{HeaderMap, Method, header::CONTENT_TYPE};
use percent_encoding::percent_decode;
use std::borrow::Cow;

/// What was posted to a reserved path.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// The whole body; a longer one than [`super::MAX_ANSWER`] is refused.
    pub body: &'a [u8],
    fields: Option<serde_json::Map<String, serde_json::Value>>,
}

impl<'a> Answer<'a> {
    #[must_use]
    pub fn new(method: &'a Method, headers: &'a HeaderMap, body: &'a [u8]) -> Self {
        let fields = is_json(headers) && body.len() <= super::MAX_ANSWER;
        Self {
            method,
            headers,
            body,
            fields: fields.then(|| serde_json::from_slice(body).ok().unwrap_or_default()),
        }
    }

    /// Whether a script sent it, which goes on by itself; a form is to be led back.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.fields.is_some()
    }

    /// The value of a field.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        if let Some(fields) = &self.fields {
            return fields.get(name)?.as_str().map(Cow::Borrowed);
        }
        let raw = self.pair(name)?;
        if raw.contains(&b'+') {
            let spaced: Vec<u8> = raw
                .iter()
                .map(|byte| if *byte == b'+' { b' ' } else { *byte })
                .collect();
            let text = percent_decode(&spaced).decode_utf8().ok()?;
            return Some(Cow::Owned(text.into_owned()));
        }
        percent_decode(raw).decode_utf8().ok()
    }

    /// The value of a form's field as it was sent, for what needs no decoding; empty when there is none.
    #[must_use]
    pub fn raw(&self, name: &str) -> &'a [u8] {
        let form = self.fields.is_none();
        form.then(|| self.pair(name)).flatten().unwrap_or_default()
    }

    fn pair(&self, name: &str) -> Option<&'a [u8]> {
        let mut pairs = self.body.split(|byte| *byte == b'&');
        pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }

    /// A list of numbers: an array in JSON, separated by commas in a form.
    #[must_use]
    pub fn numbers(&self, name: &str) -> Option<Vec<u32>> {
        if let Some(fields) = &self.fields {
            let number = |value: &serde_json::Value| u32::try_from(value.as_u64()?).ok();
            return fields.get(name)?.as_array()?.iter().map(number).collect();
        }
        let text = self.text(name)?;
        text.split(',')
            .map(|number| number.trim().parse().ok())
            .collect()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let name = value.as_bytes().split(|byte| *byte == b';').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    })
}
