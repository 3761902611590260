//! The Content-Security-Policy of a page: what every page has, and what a sheet adds to it.
//!
//! It has no `form-action`: browsers hold that against the redirects that follow a form too, and an
//! application may well answer what was carried past a challenge by leading on to another site, to pay
//! or to log in. The pages' forms go where Rempart wrote that they go; what a visitor sends is escaped.
//!
//! A site may frame its own pages, and so the challenge before them; no other may.

use http::HeaderValue;

/// Where the nonce goes.
const NONCE: char = '\0';

/// A policy with a place for the nonce.
#[derive(Debug)]
pub struct Policy {
    pieces: Vec<String>,
}

impl Policy {
    /// `more`: directives with the sources to add to them; see [`super::Sheet::policy`].
    pub fn new(more: &str, script: bool) -> Self {
        let mut directives: Vec<(&str, String)> = [
            ("default-src", "'none'"),
            ("script-src", if script { "'nonce-\0'" } else { "'none'" }),
            ("style-src", "'nonce-\0'"),
            ("img-src", "data:"),
            ("base-uri", "'none'"),
            ("frame-ancestors", "'self'"),
        ]
        .map(|(name, sources)| (name, sources.to_owned()))
        .into();
        for directive in more.split(';').map(str::trim) {
            let (name, sources) = directive.split_once(' ').unwrap_or((directive, ""));
            let known = directives.iter_mut().find(|(known, _)| *known == name);
            match known {
                _ if name.is_empty() => {}
                // `'none'` stands alone or means nothing.
                Some((_, given)) if given == "'none'" => sources.trim().clone_into(given),
                Some((_, given)) => {
                    given.push(' ');
                    given.push_str(sources.trim());
                }
                None => directives.push((name, sources.trim().to_owned())),
            }
        }
        let written = directives
            .iter()
            .map(|(name, sources)| format!("{name} {sources}"));
        let written = written.collect::<Vec<_>>().join("; ");
        Self {
            pieces: written.split(NONCE).map(str::to_owned).collect(),
        }
    }

    /// The header's value with this nonce.
    pub fn with(&self, nonce: &str) -> HeaderValue {
        HeaderValue::try_from(self.pieces.join(nonce))
            .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(more: &str, script: bool) -> String {
        let policy = Policy::new(more, script).with("abc");
        policy.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_page_without_a_script_runs_none() {
        assert_eq!(
            policy("", false),
            "default-src 'none'; script-src 'none'; style-src 'nonce-abc'; img-src data:; \
             base-uri 'none'; frame-ancestors 'self'"
        );
    }

    #[test]
    fn a_sheet_adds_to_directives_and_adds_directives() {
        let policy = policy(
            "script-src 'wasm-unsafe-eval' https://a.example; worker-src blob: ;; frame-src https://a.example",
            true,
        );
        assert!(
            policy.contains("; script-src 'nonce-abc' 'wasm-unsafe-eval' https://a.example; "),
            "{policy}"
        );
        assert!(
            policy.ends_with(
                "; frame-ancestors 'self'; worker-src blob:; frame-src https://a.example"
            ),
            "{policy}"
        );
        assert!(!policy.contains("''") && !policy.contains(";;"), "{policy}");
    }
}
