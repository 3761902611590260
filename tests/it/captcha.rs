//! The captcha: a browser without JavaScript is shown one, and gets on by a question.
//!
//! The texts of pictures are known to nobody but the process, so these stories answer questions, by
//! parsing them, as a bot would. That a picture's right text opens is shown in
//! src/challenge/captcha/tests.rs, where the ticket is made by the test.

#![allow(clippy::float_cmp)] // Counters.

use crate::harness::{Edge, Nginx, Upstream, file, tools, upstream::drain};
use std::{net::SocketAddr, process::Command};

fn edge(upstream: SocketAddr, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{upstream}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: captcha }} }}]\n{more}"
    ))
}

#[test]
fn every_picture_is_another_one_and_guessing_ends() {
    let upstream = Nginx::start();
    let edge = edge(upstream.address, "challenge: { captcha: { tries: 3 } }\n");
    let ask = || edge.get("/page").navigating().answer();
    let first = ask();
    assert_eq!(first.status, 403);
    assert_eq!(first.header("rempart-action"), Some("challenge"));
    let image = |page: &str| {
        let rest = page.split_once("data:image/png;base64,").unwrap().1;
        rest.split_once('"').unwrap().0.to_owned()
    };
    assert_ne!(image(&first.text()), image(&ask().text()));
    let program = edge.get("/page").answer();
    assert!(program.text().contains(r#""kind":"captcha""#));
    assert!(upstream.requests().is_empty());
}

/// Who may have no captcha now was not issued one.
#[test]
fn a_refusal_to_show_one_is_counted_as_that() {
    let upstream = Nginx::start();
    let edge = edge(upstream.address, "challenge: { captcha: { tries: 3 } }\n");
    let ask = || edge.get("/page").navigating().answer();
    let count = |outcome| {
        let labels = [("kind", "captcha"), ("outcome", outcome)];
        edge.metric("rempart_challenges_total", &labels)
    };
    for _ in 0..3 {
        let page = ask().text();
        let token = page.split_once(r#"name="token" value=""#).unwrap().1;
        let token = token.split_once('"').unwrap().0;
        let wrong = edge.get("/.rempart/challenge").navigating();
        wrong.data(&format!("token={token}&answer=no")).answer();
    }
    assert_eq!(count("failed"), 3.0);
    let (issued, refused) = (count("issued"), count("too_many"));
    let asked = ask();
    assert_eq!((asked.status, asked.header("rempart-action")), (429, None));
    assert_eq!(count("issued"), issued);
    assert_eq!(count("too_many"), refused + 1.0);
}

/// One ticket, then new ones: either way it ends in 429, in the visitor's language, and with that client.
#[test]
fn a_guesser_is_told_to_wait_and_its_neighbour_is_not() {
    let upstream = Nginx::start();
    let edge = edge(upstream.address, "challenge: { captcha: { tries: 3 } }\n");
    let token = |page: &str| {
        let rest = page.split_once(r#"name="token" value=""#).unwrap().1;
        rest.split_once('"').unwrap().0.to_owned()
    };
    let ask = |from| {
        let page = edge.get("/page").navigating().from(from);
        page.header("accept-language", "fr").answer()
    };
    let guess = |from, token: &str, text: &str| {
        let form = edge.get("/.rempart/challenge").navigating().from(from);
        let form = form.header("accept-language", "fr");
        form.data(&format!("token={token}&answer={text}")).answer()
    };
    // The same captcha again and again: the first guess is looked at, the others get a new captcha, and
    // that ends too.
    let one = token(&ask("127.9.1.1").text());
    let statuses = (0..80).map(|n| guess("127.9.1.1", &one, &format!("AAAA{n}")).status);
    let (shown, refused): (Vec<_>, Vec<_>) = statuses.partition(|status| *status == 403);
    assert!(shown.len() > 1 && refused.len() > 4, "{}", shown.len());
    assert!(refused.iter().all(|status| *status == 429), "{refused:?}");
    // Each time a new one; there is none after the third.
    for left in [2, 1, 0] {
        let answer = guess("127.9.1.2", &token(&ask("127.9.1.2").text()), "AAAAAA");
        assert_eq!(answer.status, if left > 0 { 403 } else { 429 });
        let said = answer.text().contains("pas la bonne réponse");
        assert_eq!(said, left > 0);
    }
    let told = ask("127.9.1.2");
    assert_eq!(told.status, 429);
    let wait: u64 = told.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=200).contains(&wait), "{wait}");
    assert_eq!(told.header("content-language"), Some("fr"));
    assert!(told.text().contains("Temps d’attente"), "{}", told.text());
    // Of the same /24.
    assert_eq!(ask("127.9.1.3").status, 403);
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_browser_without_scripts_gets_on() {
    let upstream = Upstream::start(|request, stream| {
        drain(request, stream)?;
        let page = "<!doctype html><title>App</title><h1>original</h1>";
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"
        )?;
        stream.flush()?;
        Ok(true)
    });
    let edge = edge(upstream.address, "");
    let said = tools::succeed(
        Command::new(tools::venv("node"))
            .arg(file("tests/browser/captcha.mjs"))
            .current_dir(file("tests"))
            .env(
                "BASE_URL",
                format!("https://localhost:{}", edge.tls().port()),
            )
            .env("TEXT", "original")
            .env("BROWSER", "/usr/bin/chromium"),
    );
    assert!(said.contains("ok   a visitor without scripts"), "{said}");
    assert!(!upstream.seen().is_empty());
    for outcome in ["issued", "solved", "failed"] {
        let labels = [("outcome", outcome), ("kind", "captcha")];
        assert!(
            edge.metric("rempart_challenges_total", &labels) >= 1.0,
            "{outcome}"
        );
    }
}
