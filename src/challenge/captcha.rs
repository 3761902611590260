//! Captcha: what a person can do and a program can't do as cheaply. To read a picture, or, for who can't
//! see, to answer a question in words. Both work without JavaScript, and each can be had in place of the
//! other and of any other rung's puzzle.
//!
//! Nothing is kept about who was shown what: the ticket remembers the answer, under a key
//! ([`answer`]). Kept are counts, for a while: of wrong answers, of captchas asked for in place of
//! another, and of questions solved ([`tries`]).

mod answer;
mod climb;
mod dice;
mod glyphs;
mod image;
mod pool;
mod question;
pub(in crate::challenge) mod tries;
mod wait;

use super::{
    ANSWER_PATH, Challenge, Common, Outcome, PATIENCE, Visit,
    answer::Answer,
    page::{
        Look, Sheet, Templates, escape,
        language::{self, LANGUAGES},
    },
};
use crate::{config::model, reply::Reply};
use answer::Keys;
use async_trait::async_trait;
use pool::{Picture, Pool};
use question::Question;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;
use tries::{Allowance, Tries};
use verdict::{
    decision::Rung,
    ticket::{Kind, Opened},
};

const PICTURE: Sheet<'static> = Sheet {
    title: "captcha.title",
    body: include_str!("captcha/picture.html"),
    script: "",
    policy: "",
};

const QUESTION: Sheet<'static> = Sheet {
    title: "captcha.title",
    body: include_str!("captcha/question.html"),
    script: "",
    policy: "",
};

/// Within which `captcha.tries` are counted, and captchas in place of others.
const TRIES_PERIOD: Duration = Duration::from_secs(600);

/// Several clients share a network, and some of them an address.
const CLIENTS_A_NETWORK: u32 = 10;

/// Captchas in place of another puzzle, of one that was answered before, or that came too late.
const INSTEAD: Allowance = Allowance {
    client: 60,
    network: 600,
    period: TRIES_PERIOD,
    forbearing: true,
};

/// Clearances for questions. A person needs one in a clearance's lifetime; a program that answers them all
/// gets no more than this, however many addresses of a network it has.
const QUESTIONS: Allowance = Allowance {
    client: 3,
    network: 30,
    period: Duration::from_secs(3600),
    forbearing: false,
};

/// The field of a form, and the member of a JSON object, with the answer in it.
const FIELD: &str = "answer";

/// Why a visitor is shown another captcha.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Wrong,
    /// The one before has expired.
    Late,
    /// The one before was answered already.
    Used,
    /// There are no more questions for this visitor just now: it gets a picture.
    NoQuestions,
    /// All pictures were shown often enough: it gets a question.
    NoPictures,
}

impl Notice {
    /// Key of its text.
    fn key(self) -> &'static str {
        match self {
            Self::Wrong => "captcha.wrong",
            Self::Late => "captcha.late",
            Self::Used => "captcha.used",
            Self::NoQuestions => "captcha.no_questions",
            Self::NoPictures => "captcha.no_pictures",
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Wrong => Outcome::Failed,
            Self::Late => Outcome::Expired,
            Self::Used => Outcome::Replayed,
            Self::NoQuestions | Self::NoPictures => Outcome::TooMany,
        }
    }
}

/// Issues and checks captchas.
#[derive(Debug)]
pub struct Captcha {
    keys: Keys,
    pool: Arc<Pool>,
    wrong: Tries,
    instead: Tries,
    questions: Tries,
    picture: Templates,
    question: Templates,
    wait: Templates,
}

impl Captcha {
    /// Keeps the pictures and what was counted from `previous`. The first of the secrets is for new
    /// tickets.
    #[must_use]
    pub fn new<'a>(
        spec: model::Captcha,
        secrets: impl IntoIterator<Item = &'a [u8]>,
        look: &Arc<Look>,
        previous: Option<&Self>,
    ) -> Self {
        let wrong = Allowance {
            client: spec.tries,
            network: spec.tries.saturating_mul(CLIENTS_A_NETWORK),
            period: TRIES_PERIOD,
            forbearing: true,
        };
        Self {
            keys: Keys::new(secrets),
            pool: previous.map_or_else(
                || Arc::new(Pool::new()),
                |previous| Arc::clone(&previous.pool),
            ),
            wrong: Tries::new(wrong, previous.map(|previous| &previous.wrong)),
            instead: Tries::new(INSTEAD, previous.map(|previous| &previous.instead)),
            questions: Tries::new(QUESTIONS, previous.map(|previous| &previous.questions)),
            picture: Templates::build(&PICTURE, look),
            question: Templates::build(&QUESTION, look),
            wait: Templates::build(&wait::SHEET, look),
        }
    }

    /// Begins to draw pictures ahead.
    pub fn spawn_tasks(&self, control: &Handle) {
        self.pool.fill(control);
    }

    /// A new captcha of this kind, or of the other one where there are no more of it; 429 for a visitor
    /// that was wrong too often, or when there is neither.
    fn show(
        &self,
        visit: &Visit<'_>,
        worth: Rung,
        common: &Common,
        kind: Kind,
        notice: Option<Notice>,
    ) -> Option<Reply> {
        if let Some(wait) = self.wrong.wait(visit) {
            return Some(self.too_many(visit, wait));
        }
        let questions = self.questions.wait(visit).is_none();
        let (kind, notice) = match kind {
            Kind::Question if !questions => (Kind::Image, Some(Notice::NoQuestions)),
            kind => (kind, notice),
        };
        if kind == Kind::Question {
            return self.show_question(visit, worth, common, notice);
        }
        if let Some(picture) = self.pool.take() {
            return self.show_picture(visit, worth, common, notice, &picture);
        }
        if questions {
            let notice = notice.or(Some(Notice::NoPictures));
            return self.show_question(visit, worth, common, notice);
        }
        Some(self.busy(visit))
    }

    fn show_picture(
        &self,
        visit: &Visit<'_>,
        worth: Rung,
        common: &Common,
        notice: Option<Notice>,
        Picture { text, data }: &Picture,
    ) -> Option<Reply> {
        let token = self.ticket(visit, worth, common, Kind::Image, text)?;
        if !visit.html {
            let image = format!("data:image/png;base64,{data}");
            return Some(in_data(visit, notice, &token, "picture", "image", &image));
        }
        let values = [("image", data.as_str()), ("token", token.as_str())];
        Some(in_page(&self.picture, visit, notice, values))
    }

    fn show_question(
        &self,
        visit: &Visit<'_>,
        worth: Rung,
        common: &Common,
        notice: Option<Notice>,
    ) -> Option<Reply> {
        let Question {
            text,
            answer,
            language,
        } = question::ask(language::negotiate(visit.headers))?;
        let token = self.ticket(visit, worth, common, Kind::Question, &answer)?;
        if !visit.html {
            return Some(in_data(
                visit, notice, &token, "question", "question", &text,
            ));
        }
        let text = format!(r#"<span lang="{language}">{}</span>"#, escape(&text));
        let values = [("question", text.as_str()), ("token", token.as_str())];
        Some(in_page(&self.question, visit, notice, values))
    }

    fn ticket(
        &self,
        visit: &Visit<'_>,
        worth: Rung,
        common: &Common,
        kind: Kind,
        answer: &str,
    ) -> Option<String> {
        let salt = super::random().ok()?;
        let detail = self.keys.detail(kind, answer, salt)?;
        common.ticket(visit, kind, worth, detail)
    }
}

#[async_trait]
impl Challenge for Captcha {
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply> {
        self.show(visit, worth, common, Kind::Image, None)
    }

    async fn check(
        &self,
        _: &Visit<'_>,
        opened: &Opened,
        given: &Answer<'_>,
    ) -> Result<(), Outcome> {
        let ticket = &opened.ticket;
        let given = given.text(FIELD).ok_or(Outcome::Invalid)?;
        let given = match ticket.kind {
            Kind::Question => answer::in_words(&given),
            _ => answer::of_picture(&given),
        };
        if self.keys.is_right(ticket.kind, &given, &ticket.detail) {
            Ok(())
        } else {
            Err(Outcome::Failed)
        }
    }
}

fn in_page(
    templates: &Templates,
    visit: &Visit<'_>,
    notice: Option<Notice>,
    [puzzle, token]: [(&str, &str); 2],
) -> Reply {
    let language = LANGUAGES.get(language::negotiate(visit.headers));
    let said = notice.zip(language).map(|(notice, language)| {
        let text = escape(language.text(notice.key()));
        format!(r#"<p id="notice" class="notice" role="alert">{text}</p>"#)
    });
    let wrong = notice == Some(Notice::Wrong);
    let values = [
        puzzle,
        token,
        ("action", ANSWER_PATH),
        ("notice", said.as_deref().unwrap_or_default()),
        (
            "described",
            if said.is_some() { "notice how" } else { "how" },
        ),
        ("invalid", if wrong { r#"aria-invalid="true""# } else { "" }),
    ];
    templates.render(visit, &values)
}

/// For a client that is no browser: it may show the puzzle to a person.
fn in_data(
    visit: &Visit<'_>,
    notice: Option<Notice>,
    token: &str,
    kind: &str,
    member: &str,
    puzzle: &str,
) -> Reply {
    let mut challenge = json!({
        "kind": "captcha",
        "puzzle": kind,
        "needs": "person",
        "token": token,
        "answer": ANSWER_PATH,
        "field": FIELD,
        "instead": ["image", "question"],
        "expires_in": PATIENCE / 1000,
        member: puzzle,
    });
    if let (Some(notice), Some(challenge)) = (notice, challenge.as_object_mut()) {
        challenge.insert("outcome".to_owned(), notice.outcome().name().into());
    }
    let text = challenge.to_string();
    let members = text.trim_start_matches('{').strip_suffix('}');
    super::data(visit, members.unwrap_or_default())
}

#[cfg(test)]
mod tests;
