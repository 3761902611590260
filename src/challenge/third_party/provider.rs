//! What is known of each provider: its addresses, what its widget's page may load, and the name of the
//! field that its token comes in.

use crate::config::model::Provider;

/// The documented bound of Turnstile's tokens; the others document none.
const LONGEST_TURNSTILE: usize = 2048;
/// Theirs were seen to be longer.
const LONGEST: usize = 4096;

impl Provider {
    /// The label of the metrics, and the word in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Turnstile => "turnstile",
            Self::Hcaptcha => "hcaptcha",
            Self::Recaptcha => "recaptcha",
            Self::RecaptchaV3 => "recaptcha_v3",
        }
    }

    /// Where tokens are verified.
    #[must_use]
    pub fn verify_url(self) -> &'static str {
        match self {
            Self::Turnstile => "https://challenges.cloudflare.com/turnstile/v0/siteverify",
            Self::Hcaptcha => "https://api.hcaptcha.com/siteverify",
            Self::Recaptcha | Self::RecaptchaV3 => {
                "https://www.google.com/recaptcha/api/siteverify"
            }
        }
    }

    /// Where the widget's script is.
    #[must_use]
    pub fn script_url(self) -> &'static str {
        match self {
            Self::Turnstile => "https://challenges.cloudflare.com/turnstile/v0/api.js",
            Self::Hcaptcha => "https://js.hcaptcha.com/1/api.js",
            Self::Recaptcha | Self::RecaptchaV3 => "https://www.google.com/recaptcha/api.js",
        }
    }

    /// What the script is asked for: it calls `rempartReady` once it is there.
    #[must_use]
    pub fn script_query(self, site_key: &str) -> String {
        match self {
            Self::Hcaptcha => "render=explicit&onload=rempartReady&recaptchacompat=off".to_owned(),
            Self::Turnstile | Self::Recaptcha => "render=explicit&onload=rempartReady".to_owned(),
            Self::RecaptchaV3 => format!("render={site_key}&onload=rempartReady"),
        }
    }

    /// What its page loads, for a Content-Security-Policy.
    #[must_use]
    pub fn sources(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Turnstile => &[
                ("script-src", "https://challenges.cloudflare.com"),
                ("frame-src", "https://challenges.cloudflare.com"),
            ],
            Self::Hcaptcha => &[
                ("script-src", "https://hcaptcha.com https://*.hcaptcha.com"),
                ("frame-src", "https://hcaptcha.com https://*.hcaptcha.com"),
                ("style-src", "https://hcaptcha.com https://*.hcaptcha.com"),
                ("connect-src", "https://hcaptcha.com https://*.hcaptcha.com"),
            ],
            Self::Recaptcha | Self::RecaptchaV3 => &[
                (
                    "script-src",
                    "https://www.google.com/recaptcha/ https://www.gstatic.com/recaptcha/",
                ),
                (
                    "frame-src",
                    "https://www.google.com/recaptcha/ https://recaptcha.google.com/recaptcha/",
                ),
            ],
        }
    }

    /// The field of the form.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Turnstile => "cf-turnstile-response",
            Self::Hcaptcha => "h-captcha-response",
            Self::Recaptcha | Self::RecaptchaV3 => "g-recaptcha-response",
        }
    }

    /// The longest token that is passed on, in bytes.
    #[must_use]
    pub fn longest_token(self) -> usize {
        match self {
            Self::Turnstile => LONGEST_TURNSTILE,
            _ => LONGEST,
        }
    }

    /// Whether a second question about a token is answered as the first was.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        self == Self::Turnstile
    }
}
