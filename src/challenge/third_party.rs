//! Third party: a provider's widget on the page, and its word for the token that comes of it. Who asks
//! the provider, and what happens while it fails, is in the files below; that the self-hosted captcha
//! takes its place then is [`super::Challenges`]'s.

pub mod breaker;
mod provider;
pub mod siteverify;
pub mod verifier;

use super::{
    ANSWER_PATH, Challenge, Common, Outcome, PATIENCE, Visit,
    answer::Answer,
    captcha::tries::{Allowance, Tries},
    page::{Look, Sheet, Templates, escape},
};
use crate::{
    config::model::{self, Provider},
    reply::Reply,
};
use async_trait::async_trait;
use breaker::Breaker;
use reqwest::Url;
use siteverify::Expected;
use std::{fmt::Write as _, sync::Arc, time::Duration};
use tokio::runtime::Handle;
use verdict::{
    decision::Rung,
    ticket::{Detail, Kind, Opened},
};
use verifier::{Count, Verdict, Verifier};

/// Questions to the provider that a client and a network may cause in vain. A token that is none
/// costs its sender nothing, and the provider counts what it is asked.
const REFUSED: Allowance = Allowance {
    client: 10,
    network: 100,
    period: Duration::from_secs(600),
    // Who finds none left has the captcha.
    forbearing: false,
};

/// The rung, where there is a provider.
#[derive(Debug, Default)]
pub struct ThirdParty(Option<Active>);

#[derive(Debug)]
struct Active {
    provider: Provider,
    site_key: String,
    /// With what it is asked for.
    script: String,
    verifier: Arc<Verifier>,
    refused: Tries,
    templates: Templates,
}

impl ThirdParty {
    /// Takes what is known of the provider's health over from `previous` when it is the same one.
    /// `control` is where it is asked.
    ///
    /// # Errors
    /// A sentence, when it can't be asked at all.
    pub fn build(
        spec: &model::Challenge,
        previous: Option<&Self>,
        control: &Handle,
        count: &Count,
    ) -> Result<Self, String> {
        let page = &spec.page;
        let Some(spec) = &spec.third_party else {
            return Ok(Self::default());
        };
        let previous = previous.and_then(|previous| previous.0.as_ref());
        let verifier = match previous.filter(|previous| previous.verifier.is_for(spec)) {
            Some(previous) => Arc::clone(&previous.verifier),
            None => Arc::new(Verifier::new(
                spec,
                Breaker::default(),
                control,
                Arc::clone(count),
            )?),
        };
        let address = spec.script_url.as_deref();
        let address = address.unwrap_or(spec.provider.script_url());
        let join = if address.contains('?') { '&' } else { '?' };
        let query = spec.provider.script_query(&spec.site_key);
        Ok(Self(Some(Active {
            provider: spec.provider,
            site_key: spec.site_key.clone(),
            script: format!("{address}{join}{query}"),
            verifier,
            refused: Tries::new(REFUSED, previous.map(|previous| &previous.refused)),
            templates: Templates::build(
                &Sheet {
                    title: "third_party.title",
                    body: include_str!("third_party/page.html"),
                    script: include_str!("third_party/page.js"),
                    policy: &sources(spec),
                },
                &Look::new(page),
            ),
        })))
    }

    /// Whether this visitor is to be sent there: there is a provider, it works, and has not refused the
    /// visitor too often.
    #[must_use]
    pub fn is_available(&self, visit: &Visit<'_>) -> bool {
        self.0.as_ref().is_some_and(|active| {
            active.refused.wait(visit).is_none() && active.verifier.is_available()
        })
    }

    /// Whether a visitor whose token was refused may try again. A score stays what it is.
    #[must_use]
    pub fn can_be_retried(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|active| active.provider != Provider::RecaptchaV3)
    }
}

/// The provider's sources, and the origin of a script from elsewhere.
fn sources(spec: &model::ThirdParty) -> String {
    let mut policy = String::new();
    for (directive, sources) in spec.provider.sources() {
        let _ = write!(policy, "{directive} {sources}; ");
    }
    let other = spec.script_url.as_deref().and_then(|url| {
        let origin = Url::parse(url).ok()?.origin();
        origin.is_tuple().then(|| origin.ascii_serialization())
    });
    if let Some(origin) = other {
        for directive in ["script-src", "frame-src", "style-src", "connect-src"] {
            let _ = write!(policy, "{directive} {origin}; ");
        }
    }
    policy
}

#[async_trait]
impl Challenge for ThirdParty {
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply> {
        let active = self.0.as_ref()?;
        let token = common.ticket(visit, Kind::ThirdParty, worth, Detail::new())?;
        let provider = active.provider.name();
        let field = active.provider.field();
        if visit.html {
            let values = [
                ("answer", ANSWER_PATH),
                ("token", &token),
                ("provider", provider),
                ("field", field),
                ("site_key", &active.site_key),
                ("script", &escape(&active.script)),
                ("action", siteverify::ACTION),
            ];
            return Some(active.templates.render(visit, &values));
        }
        let data = format!(
            r#""kind":"third_party","provider":"{provider}","site_key":"{}","field":"{field}","action":"{}","token":"{token}","answer":"{ANSWER_PATH}","expires_in":{}"#,
            active.site_key,
            siteverify::ACTION,
            PATIENCE / 1000
        );
        Some(super::data(visit, &data))
    }

    async fn check(
        &self,
        visit: &Visit<'_>,
        _: &Opened,
        answer: &Answer<'_>,
    ) -> Result<(), Outcome> {
        // The configuration has changed since.
        let active = self.0.as_ref().ok_or(Outcome::ProviderFailed)?;
        let provider = active.provider;
        let token = answer
            .text(provider.field())
            .filter(|token| {
                !token.is_empty()
                    && token.len() <= provider.longest_token()
                    && token.bytes().all(|byte| byte.is_ascii_graphic())
            })
            .ok_or(Outcome::Failed)?
            .into_owned();
        let expected = Expected {
            host: visit.host.to_owned(),
            now: i64::try_from(visit.seconds()).unwrap_or(i64::MAX),
        };
        // Before it is asked: of many answers at once no more are taken there than one after another.
        if active.refused.take(visit).is_err() {
            return Err(Outcome::TooMany);
        }
        let verdict = active.verifier.verify(token, expected).await;
        if verdict != Verdict::Refused {
            active.refused.give_back(visit);
        }
        match verdict {
            Verdict::Passed => Ok(()),
            Verdict::Refused => Err(Outcome::Failed),
            Verdict::Unknown => Err(Outcome::ProviderFailed),
        }
    }
}

#[cfg(test)]
mod tests;
