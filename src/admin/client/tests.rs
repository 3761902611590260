//! The bans commands against a real admin listener.

use super::{access::*, *};
use crate::admin::tests::{TOKEN, start};
use crate::config::model::{Admin, Secret};
use clap::Parser;
use std::{net::SocketAddr, path::Path};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    bans: BansCommand,
}

fn parse(words: &[&str]) -> Result<BansCommand, clap::Error> {
    let words = std::iter::once("bans").chain(words.iter().copied());
    Words::try_parse_from(words).map(|words| words.bans)
}

fn no_config(_: &Path) -> Result<Option<Admin>, String> {
    Err("not asked for".into())
}

/// Runs a command against the API, as `Ok(printed)` or `Err((exit code, printed))`.
async fn run(address: SocketAddr, words: &[&str]) -> Result<String, (u8, String)> {
    let command = parse(words).unwrap();
    let endpoint = Endpoint {
        url: format!("http://{address}"),
        token: Secret::new(TOKEN),
    };
    command
        .ask(&endpoint)
        .await
        .map_err(|failure| match failure {
            Failure::Refused(text) => (1, text),
            Failure::Usage(text) => (2, text),
        })
}

#[tokio::test]
async fn an_operator_adds_lists_and_removes() {
    let running = start(Some(TOKEN)).await;
    let at = running.address;
    assert_eq!(run(at, &["list"]).await.unwrap(), "nobody is banned\n");
    let added = run(
        at,
        &[
            "add",
            "203.0.113.0/24",
            "--for",
            "2h",
            "--comment",
            "a\u{1b}[2Jb",
        ],
    )
    .await
    .unwrap();
    assert!(
        added.starts_with("203.0.113.0/24 is banned (until 20"),
        "{added}"
    );
    let listed = run(at, &["list"]).await.unwrap();
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with("PREFIX          LEFT"), "{listed}");
    assert!(lines[1].contains("203.0.113.0/24  1h 59m"), "{listed}");
    assert!(lines[1].ends_with("a [2Jb"), "{listed}");
    let json = run(at, &["list", "--json"]).await.unwrap();
    assert!(json.contains("\"total\": 1"), "{json}");
    assert_eq!(
        run(at, &["remove", "203.0.113.0/24"]).await.unwrap(),
        "203.0.113.0/24 is no longer banned (1 removed)\n"
    );
    assert_eq!(
        run(at, &["remove", "203.0.113.0/24"]).await,
        Err((1, "203.0.113.0/24 is not banned".into()))
    );
}

#[tokio::test]
async fn whoever_has_no_token_or_no_server_is_told() {
    let running = start(Some("another-token-another-token")).await;
    let (code, text) = run(running.address, &["list"]).await.unwrap_err();
    assert_eq!(code, 1);
    assert!(text.contains("admin token"), "{text}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let (code, text) = run(nobody, &["list"]).await.unwrap_err();
    assert_eq!(code, 1);
    assert!(text.contains("is it running?"), "{text}");
}

#[test]
fn wrong_words_are_wrong_usage() {
    for words in [
        &["list", "--limit", "x"][..],
        &["add", "nonsense"],
        &["add", "192.0.2.1", "--for", "10"],
        &["remove"],
        &["list", "--config", "x", "--admin", "y"],
        &[],
    ] {
        assert!(parse(words).is_err(), "{words:?}");
    }
    let nothing_given = parse(&["list"]).unwrap().access.endpoint(no_config);
    assert!(matches!(nothing_given, Err(Failure::Usage(_))));
    let no_file = parse(&["list", "--token-file", "/nonexistent"]).unwrap();
    assert!(matches!(
        no_file.access.endpoint(no_config),
        Err(Failure::Usage(_))
    ));
}

#[test]
fn a_configuration_names_address_and_token() {
    let command = parse(&["list", "--config", "x.yaml"]).unwrap();
    let endpoint = command
        .access
        .endpoint(|_| {
            Ok(Some(Admin {
                address: "0.0.0.0:9191".parse().unwrap(),
                token: Some(Secret::new(TOKEN)),
            }))
        })
        .ok()
        .unwrap();
    assert_eq!(endpoint.url, "http://127.0.0.1:9191");
    assert!(endpoint.token.matches(TOKEN.as_bytes()));
}

#[tokio::test]
async fn an_operator_takes_clearances_back() {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        clearances: ClearancesCommand,
    }
    let running = start(Some(TOKEN)).await;
    let endpoint = Endpoint {
        url: format!("http://{}", running.address),
        token: Secret::new(TOKEN),
    };
    let parse = |words: &[&str]| {
        let words = std::iter::once("clearances").chain(words.iter().copied());
        Words::try_parse_from(words).map(|words| words.clearances)
    };
    let run = async |words: &[&str]| parse(words).unwrap().ask(&endpoint).await.unwrap();
    assert_eq!(run(&["list"]).await, "nothing is revoked\n");
    let said = run(&["revoke", "2001:db8::7"]).await;
    assert!(
        said.starts_with("clearances of 2001:db8::/48 that were issued until 20"),
        "{said}"
    );
    let said = run(&["revoke", "t13d1516h2_8daaf6152771_02713d6af862"]).await;
    assert!(
        said.starts_with("clearances of ja4 8daaf6152771 that"),
        "{said}"
    );
    let listed = run(&["list"]).await;
    assert!(listed.starts_with("WHOSE"), "{listed}");
    assert!(listed.contains("\n2001:db8::/48  "), "{listed}");
    assert!(listed.contains("\nja4 8daaf6152771  "), "{listed}");
    assert!(run(&["list", "--json"]).await.contains("\"total\": 2"));
    for words in [
        &["revoke"][..],
        &["revoke", "everything"],
        &["remove", "x"],
        &[],
    ] {
        assert!(parse(words).is_err(), "{words:?}");
    }
}
