//! Stories of captchas. The pictures are drawn here, so their texts are known; nothing that is served
//! tells them.

use super::*;
use crate::challenge::{
    ANSWER_PATH, Challenges, MAX_ANSWER,
    tests::{SECRET, cookie, form_headers, header, json_headers, network, now, rung, spec, visit},
};
use http::{HeaderMap, HeaderValue, Method, header::ACCEPT_LANGUAGE};
use proptest::prelude::*;
use verdict::{seal::Keyring, ticket::Ticket};

fn challenges() -> Challenges {
    Challenges::build(&spec(Some(SECRET)), None).unwrap()
}

fn html() -> Visit<'static> {
    Visit {
        html: true,
        ..visit()
    }
}

/// A ticket whose answer is known.
fn ticket(challenges: &Challenges, visit: &Visit<'_>, kind: Kind, answer: &str) -> String {
    let captcha = &challenges.captcha;
    let token = captcha.ticket(visit, Rung::Captcha, &challenges.common, kind, answer);
    token.unwrap()
}

fn opened(token: &str) -> Opened {
    Ticket::open(token.as_bytes(), &Keyring::new(SECRET, [])).unwrap()
}

fn body(fields: &[(&str, &str)]) -> Vec<u8> {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    pairs.join("&").into_bytes()
}

fn post(
    challenges: &Challenges,
    visit: &Visit<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> (Reply, Outcome) {
    let visit = Visit {
        target: ANSWER_PATH,
        headers,
        ..*visit
    };
    let answer = Answer::new(&Method::POST, headers, body);
    let (reply, counted) = now(challenges.answer(&visit, &answer));
    (reply, counted.unwrap().outcome)
}

fn answer(challenges: &Challenges, visit: &Visit<'_>, token: &str, text: &str) -> (Reply, Outcome) {
    let body = body(&[("token", token), ("answer", text)]);
    post(challenges, visit, &form_headers(), &body)
}

fn instead(
    challenges: &Challenges,
    visit: &Visit<'_>,
    token: &str,
    kind: &str,
) -> (Reply, Outcome) {
    let body = body(&[("token", token), ("answer", ""), ("instead", kind)]);
    post(challenges, visit, &form_headers(), &body)
}

fn page(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let rest = page
        .split_once(start)
        .unwrap_or_else(|| panic!("{start} in {page}"))
        .1;
    rest.split_once(end).unwrap().0
}

fn token(page: &str) -> &str {
    between(page, r#"name="token" value=""#, "\"")
}

fn kind(page: &str) -> Kind {
    opened(token(page)).ticket.kind
}

#[test]
fn who_reads_the_picture_is_led_back_with_a_clearance() {
    let challenges = challenges();
    for read in ["ACE27K", "ace 27k", "асе27к"] {
        let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
        let (reply, outcome) = answer(&challenges, &html(), &token, read);
        assert_eq!(
            (reply.status.as_u16(), outcome),
            (303, Outcome::Solved),
            "{read}"
        );
        let location = header(&reply, "location").unwrap();
        assert!(location.starts_with("/.rempart/challenge?solved="));
        let held = rung(&challenges, &cookie(&reply), &html());
        assert_eq!(held, Some(Rung::Captcha));
    }
}

/// A picture as it is served, its ticket, and what the picture says, which the ticket agrees with.
fn picture(challenges: &Challenges, visit: &Visit<'_>) -> (String, String) {
    let shown = challenges.page(Rung::Captcha, visit);
    let data = between(page(&shown), "data:image/png;base64,", "\"");
    let text = challenges.captcha.pool.text_of(data).unwrap();
    let token = token(page(&shown)).to_owned();
    let detail = opened(&token).ticket.detail;
    let keys = &challenges.captcha.keys;
    assert!(keys.is_right(Kind::Image, &text, &detail));
    // Nor does any other text that was drawn fit, or this one's beginning.
    assert!(!keys.is_right(Kind::Image, &text[..5], &detail));
    while let Some(other) = challenges.captcha.pool.take() {
        assert!(other.text == text || !keys.is_right(Kind::Image, &other.text, &detail));
    }
    (token, text)
}

#[test]
fn a_picture_that_is_served_opens_to_what_it_says_and_to_nothing_else() {
    let served = || {
        let challenges = challenges();
        let (token, text) = picture(&challenges, &html());
        (challenges, token, text)
    };
    let (challenges, token, text) = served();
    let (reply, outcome) = answer(&challenges, &html(), &token, &text.to_lowercase());
    assert_eq!((reply.status.as_u16(), outcome), (303, Outcome::Solved));
    let held = rung(&challenges, &cookie(&reply), &html());
    assert_eq!(held, Some(Rung::Captcha));
    // The same again.
    let (reply, outcome) = answer(&challenges, &html(), &token, &text);
    assert_eq!(outcome, Outcome::Replayed);
    assert_eq!(header(&reply, "set-cookie"), None);
    // Wrong: its first two characters the other way round, or one changed where they are the same.
    let (challenges, token, text) = served();
    let mut wrong = text.clone().into_bytes();
    wrong.swap(0, 1);
    if wrong == text.as_bytes() {
        wrong[0] = if wrong[0] == b'A' { b'C' } else { b'A' };
    }
    let wrong = String::from_utf8(wrong).unwrap();
    let (reply, outcome) = answer(&challenges, &html(), &token, &wrong);
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(header(&reply, "set-cookie"), None);
    // Right, but not by whom, where and when it was meant.
    for (expected, visit) in [
        (
            Outcome::Expired,
            Visit {
                now: visit().now + PATIENCE,
                ..html()
            },
        ),
        (
            Outcome::ForeignHost,
            Visit {
                host: "other.example.com",
                ..html()
            },
        ),
        (
            Outcome::ForeignNetwork,
            Visit {
                client: network("198.51.100.7"),
                network: network("198.51.100.7"),
                ..html()
            },
        ),
    ] {
        let (challenges, token, text) = served();
        let (reply, outcome) = answer(&challenges, &visit, &token, &text);
        assert_eq!((reply.status.as_u16(), outcome), (403, expected));
        assert_eq!(header(&reply, "set-cookie"), None);
        // It is not spent by that.
        let (_, outcome) = answer(&challenges, &html(), &token, &text);
        assert_eq!(outcome, Outcome::Solved, "{expected:?}");
    }
}

#[test]
fn when_all_pictures_were_shown_there_are_questions_and_then_a_word() {
    let challenges = challenges();
    while challenges.captcha.pool.take().is_some() {}
    let shown = challenges.page(Rung::Captcha, &html());
    assert_eq!(shown.status.as_u16(), 403);
    assert_eq!(kind(page(&shown)), Kind::Question);
    assert!(page(&shown).contains("no more pictures"));
    for _ in 0..3 {
        challenges.captcha.questions.count(&html());
    }
    for asked in ["image", "question"] {
        let (reply, _) = instead(&challenges, &html(), token(page(&shown)), asked);
        assert_eq!(reply.status.as_u16(), 429);
        assert_eq!(header(&reply, "retry-after"), Some("10"));
        assert!(page(&reply).contains("Very many visitors"));
    }
}

#[test]
fn who_has_to_wait_is_told_so_in_its_language() {
    let challenges = challenges();
    for _ in 0..10 {
        challenges.captcha.wrong.count(&html());
    }
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("fr"));
    let visit = Visit {
        headers: &headers,
        target: "/a?b=\"&c",
        ..html()
    };
    let reply = challenges.page(Rung::Captcha, &visit);
    assert_eq!(reply.status.as_u16(), 429);
    assert_eq!(header(&reply, "retry-after"), Some("60"));
    assert_eq!(header(&reply, "rempart-action"), None);
    assert_eq!(header(&reply, "content-language"), Some("fr"));
    let text = page(&reply);
    assert!(text.contains("<b>60\u{a0}s</b>") && text.contains("patienter"));
    assert!(text.contains("href=\"/a?b=&quot;&amp;c\""), "{text}");
    assert!(!text.contains("data:image/png") && !text.contains("name=\"token\""));
    // Many more, a few at once: minutes.
    let three = model::Captcha { tries: 3 };
    let spec = model::Challenge {
        captcha: three,
        ..spec(Some(SECRET))
    };
    let challenges = Challenges::build(&spec, None).unwrap();
    for _ in 0..3 {
        challenges.captcha.wrong.count(&html());
    }
    let reply = challenges.page(Rung::Captcha, &html());
    assert_eq!(header(&reply, "retry-after"), Some("200"));
    assert!(page(&reply).contains("<b>4\u{a0}min</b>"));
    // Programs get problem details.
    let reply = challenges.page(Rung::Captcha, &super::super::tests::visit());
    let kind = header(&reply, "content-type");
    assert_eq!(
        (reply.status.as_u16(), kind),
        (429, Some("application/problem+json"))
    );
}

#[test]
fn the_page_is_whole_without_a_script_and_does_not_tell_the_answer() {
    let challenges = challenges();
    let shown = challenges.page(Rung::Captcha, &html());
    assert_eq!(shown.status.as_u16(), 403);
    assert_eq!(header(&shown, "rempart-action"), Some("challenge"));
    assert_eq!(header(&shown, "cache-control"), Some("no-store"));
    let text = page(&shown);
    assert!(text.len() < 20_000, "{}", text.len());
    for part in [
        "<form method=\"post\" action=\"/.rempart/challenge\">",
        "<label for=\"answer\">",
        "autocomplete=\"off\"",
        "required autofocus aria-describedby=\"how\"",
        "name=\"instead\" value=\"question\" formnovalidate",
        "name=\"instead\" value=\"image\" formnovalidate",
        "alt=\"Six bent letters",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("role=\"alert\"") && !text.contains("aria-invalid"));
    assert!(!text.contains("http://") && !text.contains("https://"));
    let ticket = opened(token(text)).ticket;
    assert_eq!((ticket.kind, ticket.worth), (Kind::Image, Rung::Captcha));
    assert_eq!(ticket.target, visit().target);
    assert_eq!(ticket.detail.len(), 32, "a salt and a keyed hash");
}

#[test]
fn a_wrong_answer_brings_another_one_and_spends_the_ticket() {
    let challenges = challenges();
    for kind_of in [Kind::Image, Kind::Question] {
        let spent = ticket(&challenges, &html(), kind_of, "ACE27K");
        let (reply, outcome) = answer(&challenges, &html(), &spent, "WRONG");
        assert_eq!((reply.status.as_u16(), outcome), (403, Outcome::Failed));
        assert_eq!(header(&reply, "rempart-action"), Some("challenge"));
        assert_eq!(header(&reply, "set-cookie"), None);
        let text = page(&reply);
        assert_eq!(
            between(text, "role=\"alert\">", "</p>"),
            "That was not right. Here is a new one."
        );
        assert!(text.contains("aria-describedby=\"notice how\" aria-invalid=\"true\""));
        assert_eq!(kind(text), kind_of);
        let new = opened(token(text)).ticket;
        assert_ne!(new.id, opened(&spent).ticket.id);
        assert_eq!(new.target, visit().target);
        // Now the right one comes too late.
        let (reply, outcome) = answer(&challenges, &html(), &spent, "ACE27K");
        assert_eq!((reply.status.as_u16(), outcome), (403, Outcome::Replayed));
        assert_eq!(header(&reply, "set-cookie"), None);
        assert!(page(&reply).contains("answered before"));
    }
}

/// CVE-2025-24369 (Anubis): solutions were taken again and again.
#[test]
fn a_right_answer_counts_once() {
    let challenges = challenges();
    let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
    assert_eq!(
        answer(&challenges, &html(), &token, "ACE27K").1,
        Outcome::Solved
    );
    let (reply, outcome) = answer(&challenges, &html(), &token, "ACE27K");
    assert_eq!(outcome, Outcome::Replayed);
    assert_eq!(header(&reply, "set-cookie"), None);
}

#[test]
fn a_message_is_in_the_language_of_the_visitor() {
    let challenges = challenges();
    let mut headers = form_headers();
    headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("fr-FR,fr;q=0.9"));
    let token = ticket(&challenges, &html(), Kind::Question, "pain");
    let (reply, _) = post(
        &challenges,
        &html(),
        &headers,
        &body(&[("token", &token), ("answer", "non")]),
    );
    assert!(page(&reply).contains("Ce n’était pas la bonne réponse."));
    assert!(page(&reply).contains("<span lang=\"fr\">"));
}

#[test]
fn what_is_no_answer_to_this_ticket_is_wrong() {
    let enormous = "A".repeat(3000);
    let chinese = "漢".repeat(300);
    for text in [
        "",
        " ",
        "\0",
        "ACE27",
        "ACE27KK",
        "7K2ECA",
        &enormous,
        &chinese,
        "\u{202e}K72ECA",
        "%",
        "\u{fdfa}\u{fdfa}\u{fdfa}",
        "A\u{301}\u{301}",
        "𝟙𝟚",
        "'; --",
    ] {
        // One for each: this is not about how many.
        let challenges = challenges();
        for kind in [Kind::Image, Kind::Question] {
            let token = ticket(&challenges, &html(), kind, "ACE27K");
            let (reply, outcome) = answer(&challenges, &html(), &token, text);
            assert_eq!(
                (reply.status.as_u16(), outcome),
                (403, Outcome::Failed),
                "{text}"
            );
            assert_eq!(header(&reply, "set-cookie"), None);
        }
    }
    let challenges = challenges();
    // The answer to another ticket.
    let (mine, _) = (
        ticket(&challenges, &html(), Kind::Image, "ACE27K"),
        ticket(&challenges, &html(), Kind::Image, "2457TY"),
    );
    assert_eq!(
        answer(&challenges, &html(), &mine, "2457TY").1,
        Outcome::Failed
    );
    // No answer at all.
    let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
    let nothing = body(&[("token", &token)]);
    assert_eq!(
        post(&challenges, &html(), &form_headers(), &nothing).1,
        Outcome::Invalid
    );
    // An answer that is longer than any.
    let long = body(&[("token", &token), ("answer", &"A".repeat(MAX_ANSWER))]);
    let (reply, outcome) = post(&challenges, &html(), &form_headers(), &long);
    assert_eq!((reply.status.as_u16(), outcome), (413, Outcome::TooLarge));
}

#[test]
fn ten_thousand_guesses_at_one_captcha_are_refused() {
    let challenges = challenges();
    let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
    let mut outcomes = std::collections::HashMap::new();
    for guess in 0..10_000 {
        let (reply, outcome) = answer(&challenges, &html(), &token, &format!("ACE{guess:04}"));
        assert!(reply.status.is_client_error());
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    // One is looked at; some more are shown another captcha, and then that ends as well.
    assert_eq!(outcomes[&Outcome::Failed], 1);
    assert_eq!(outcomes[&Outcome::Replayed], 60);
    assert_eq!(outcomes[&Outcome::TooMany], 9_939);
    // Nor is the right one looked at, by whom ever.
    let neighbour = Visit {
        client: network("192.0.2.8"),
        ..html()
    };
    for (visit, expected) in [(html(), Outcome::TooMany), (neighbour, Outcome::Replayed)] {
        let (reply, outcome) = answer(&challenges, &visit, &token, "ACE27K");
        assert_eq!((outcome, header(&reply, "set-cookie")), (expected, None));
    }
}

#[test]
fn ten_thousand_guesses_at_new_captchas_are_ten() {
    let challenges = challenges();
    let mut looked_at = 0;
    for _ in 0..10_000 {
        let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
        let (reply, outcome) = answer(&challenges, &html(), &token, "GUESSS");
        if outcome == Outcome::Failed {
            looked_at += 1;
        } else {
            assert_eq!((reply.status.as_u16(), outcome), (429, Outcome::TooMany));
            assert_eq!(header(&reply, "retry-after"), Some("60"));
        }
    }
    assert_eq!(looked_at, 10);
    // Not the right one either, and there is no new captcha.
    let token = ticket(&challenges, &html(), Kind::Image, "ACE27K");
    let (reply, outcome) = answer(&challenges, &html(), &token, "ACE27K");
    assert_eq!((reply.status.as_u16(), outcome), (429, Outcome::TooMany));
    assert_eq!(challenges.page(Rung::Captcha, &html()).status.as_u16(), 429);
    // Nor after a reload; but in a minute, and that ticket is still good.
    let reloaded = Challenges::build(&spec(Some(SECRET)), Some(&challenges)).unwrap();
    assert_eq!(
        answer(&reloaded, &html(), &token, "ACE27K").1,
        Outcome::TooMany
    );
    let later = Visit {
        now: visit().now + 60_000,
        ..html()
    };
    assert_eq!(
        answer(&challenges, &later, &token, "ACE27K").1,
        Outcome::Solved
    );
}

#[test]
fn many_clients_of_one_network_share_a_bound_that_locks_no_innocent_out() {
    let challenges = challenges();
    let client = |n: u32| Visit {
        client: network(&format!("192.0.2.{n}")),
        ..html()
    };
    let try_ = |visit: &Visit<'_>, text| {
        let token = ticket(&challenges, visit, Kind::Image, "ACE27K");
        answer(&challenges, visit, &token, text).1
    };
    let failed = |n: u32| (0..11).filter(move |_| try_(&client(n), "NO") == Outcome::Failed);
    // Ten clients use up what the network has; the others are wrong once each, and no more.
    assert_eq!((0..10).flat_map(failed).count(), 100);
    assert_eq!((10..200).flat_map(failed).count(), 190);
    // Who reads the picture gets on, and is shown one to begin with.
    assert_eq!(
        challenges.page(Rung::Captcha, &client(201)).status.as_u16(),
        403
    );
    assert_eq!(try_(&client(201), "ACE27K"), Outcome::Solved);
}

#[test]
fn a_captcha_is_had_in_place_of_any_puzzle_and_is_worth_the_same() {
    let challenges = challenges();
    for (worth, from) in [
        (Rung::ProofOfWork, Kind::ProofOfWork),
        (Rung::ThirdParty, Kind::ThirdParty),
        (Rung::Silent, Kind::Silent),
        (Rung::Captcha, Kind::Image),
        (Rung::Captcha, Kind::Question),
    ] {
        let detail = [0, 0, 0, 9].as_slice().try_into().unwrap();
        let token_ = challenges
            .common
            .ticket(&html(), from, worth, detail)
            .unwrap();
        for (asked, expected) in [("image", Kind::Image), ("question", Kind::Question)] {
            let (reply, outcome) = instead(&challenges, &html(), &token_, asked);
            assert_eq!((reply.status.as_u16(), outcome), (403, Outcome::Issued));
            let new = opened(token(page(&reply))).ticket;
            assert_eq!((new.kind, new.worth), (expected, worth));
            assert_eq!(new.target, visit().target);
            assert_eq!(header(&reply, "set-cookie"), None);
        }
    }
}

#[test]
fn a_captcha_is_not_had_for_a_ticket_that_is_not_good() {
    let challenges = challenges();
    let token = issue_work(&challenges);
    for (expected, visit) in [
        (
            Outcome::ForeignHost,
            Visit {
                host: "other.example.com",
                ..html()
            },
        ),
        (
            Outcome::ForeignNetwork,
            Visit {
                network: network("198.51.100.7"),
                ..html()
            },
        ),
        (
            Outcome::Expired,
            Visit {
                now: visit().now + PATIENCE,
                ..html()
            },
        ),
    ] {
        let (reply, outcome) = instead(&challenges, &visit, &token, "image");
        assert_eq!((reply.status.as_u16(), outcome), (403, expected));
        // A way on all the same: the puzzle that it was.
        assert!(page(&reply).contains("data-puzzles=") && !page(&reply).contains("data:image/png"));
    }
    assert_eq!(
        instead(&challenges, &html(), "forged", "image").1,
        Outcome::Invalid
    );
    // What was solved is done with.
    let id = opened(&token).ticket.id;
    assert!(challenges.spent.insert(id, u64::MAX, visit().now));
    let (reply, outcome) = instead(&challenges, &html(), &token, "image");
    assert_eq!(outcome, Outcome::Replayed);
    assert!(!page(&reply).contains("name=\"token\""));
    // Another word is none.
    let other = issue_work(&challenges);
    assert_eq!(
        instead(&challenges, &html(), &other, "silent").1,
        Outcome::Invalid
    );
}

fn issue_work(challenges: &Challenges) -> String {
    let detail = [0, 0, 0, 9].as_slice().try_into().unwrap();
    let common = &challenges.common;
    common
        .ticket(&html(), Kind::ProofOfWork, Rung::ProofOfWork, detail)
        .unwrap()
}

#[test]
fn other_captchas_are_bounded() {
    let challenges = challenges();
    let token = issue_work(&challenges);
    let ask = || instead(&challenges, &html(), &token, "image");
    for _ in 0..60 {
        assert_eq!(ask().1, Outcome::Issued);
    }
    let (reply, outcome) = ask();
    assert_eq!((reply.status.as_u16(), outcome), (429, Outcome::TooMany));
    assert!(header(&reply, "retry-after").is_some());
}

#[test]
fn questions_let_a_few_through_and_then_there_are_pictures() {
    let challenges = challenges();
    for _ in 0..3 {
        let token = ticket(&challenges, &html(), Kind::Question, "15");
        assert_eq!(
            answer(&challenges, &html(), &token, "fifteen").1,
            Outcome::Solved
        );
    }
    let token_ = ticket(&challenges, &html(), Kind::Question, "15");
    let (reply, outcome) = answer(&challenges, &html(), &token_, "fifteen");
    assert_eq!((reply.status.as_u16(), outcome), (403, Outcome::TooMany));
    assert!(page(&reply).contains("no more questions"));
    assert_eq!(kind(page(&reply)), Kind::Image);
    let picture = ticket(&challenges, &html(), Kind::Image, "ACE27K");
    let (reply, _) = instead(&challenges, &html(), &picture, "question");
    assert_eq!(kind(page(&reply)), Kind::Image);
    assert_eq!(
        answer(&challenges, &html(), &picture, "ACE27K").1,
        Outcome::Solved
    );
    // In twenty minutes there is another one.
    let later = Visit {
        now: visit().now + 20 * 60_000,
        ..html()
    };
    let token = ticket(&challenges, &later, Kind::Question, "15");
    assert_eq!(answer(&challenges, &later, &token, "15").1, Outcome::Solved);
}

#[test]
fn who_was_slow_gets_another_one() {
    let challenges = challenges();
    let slow = Visit {
        now: visit().now + PATIENCE,
        ..html()
    };
    for kind_of in [Kind::Image, Kind::Question] {
        let token_ = ticket(&challenges, &html(), kind_of, "ACE27K");
        let (reply, outcome) = answer(&challenges, &slow, &token_, "ACE27K");
        assert_eq!((reply.status.as_u16(), outcome), (403, Outcome::Expired));
        assert!(page(&reply).contains("The time for that one was over"));
        assert_eq!(kind(page(&reply)), kind_of);
        assert_eq!(opened(token(page(&reply))).ticket.target, visit().target);
        let elsewhere = Visit {
            host: "other.example.com",
            ..slow
        };
        let (reply, outcome) = answer(&challenges, &elsewhere, &token_, "ACE27K");
        assert_eq!(outcome, Outcome::ForeignHost);
        let another = opened(token(page(&reply))).ticket;
        assert_eq!(
            (another.host.as_str(), another.target.as_str()),
            (elsewhere.host, "/")
        );
    }
}

#[test]
fn a_client_that_is_no_browser_gets_data_and_can_show_it_to_a_person() {
    let challenges = challenges();
    let reply = challenges.page(Rung::Captcha, &visit());
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let challenge = &body["challenge"];
    assert_eq!(challenge["kind"], "captcha");
    assert_eq!(challenge["needs"], "person");
    assert_eq!(challenge["answer"], ANSWER_PATH);
    assert!(
        challenge["image"]
            .as_str()
            .unwrap()
            .starts_with("data:image/png;base64,iVBOR")
    );
    let token = challenge["token"].as_str().unwrap();
    let ask = json!({ "token": token, "instead": "question" }).to_string();
    let (reply, outcome) = post(&challenges, &visit(), &json_headers(), ask.as_bytes());
    assert_eq!(outcome, Outcome::Issued);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["challenge"]["puzzle"], "question");
    assert!(body["challenge"]["question"].is_string() && body["challenge"]["image"].is_null());
    let wrong = json!({ "token": token, "answer": "WRONG" }).to_string();
    let (reply, _) = post(&challenges, &visit(), &json_headers(), wrong.as_bytes());
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["challenge"]["outcome"], "failed");
    let token = ticket(&challenges, &visit(), Kind::Image, "ACE27K");
    let right = json!({ "token": token, "answer": "ACE27K" }).to_string();
    let (reply, outcome) = post(&challenges, &visit(), &json_headers(), right.as_bytes());
    assert_eq!((reply.status.as_u16(), outcome), (204, Outcome::Solved));
    assert!(header(&reply, "set-cookie").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics_or_passes(text in "\\PC{0,40}") {
        let challenges = challenges();
        for kind in [Kind::Image, Kind::Question] {
            let token = ticket(&challenges, &html(), kind, "ACE27KACE");
            prop_assert_eq!(answer(&challenges, &html(), &token, &text).1, Outcome::Failed);
        }
    }
}
