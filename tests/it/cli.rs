//! The command line: what each command says, and with which exit code it ends.

use crate::harness::{
    edge::{Folder, rempart},
    tools::said,
};

#[test]
fn help_fits_a_screen_and_shows_an_example() {
    let all: [&[&str]; 8] = [
        &["--help"],
        &["run", "--help"],
        &["check", "--help"],
        &["demo", "--help"],
        &["guard", "--help"],
        &["bans", "--help"],
        &["bans", "add", "--help"],
        &["bans", "remove", "--help"],
    ];
    for arguments in all {
        let output = rempart(arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
        assert!(
            text.lines().count() <= 25,
            "{arguments:?} is {} lines",
            text.lines().count()
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(text.contains("rempart "), "{arguments:?}: {text}");
        assert!(
            text.to_lowercase().contains("example"),
            "{arguments:?} lacks an example: {text}"
        );
    }
}

#[test]
fn wrong_usage_is_2() {
    let all: [&[&str]; 6] = [
        &[],
        &["dance"],
        &["run"],
        &["check"],
        &["bans", "add"],
        &["run", "--config"],
    ];
    for arguments in all {
        let output = rempart(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn version_is_said() {
    let output = rempart(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output).contains(env!("CARGO_PKG_VERSION")));
}

const GOOD: &str = "listeners: [{ address: 127.0.0.1:0 }]\n\
                    upstreams: { app: { endpoints: [127.0.0.1:3000] } }\n\
                    routes: [{ name: app, path: /, upstream: app }]\n";

#[test]
fn check_says_yes_or_everything_that_is_wrong() {
    let folder = Folder::new();
    folder.write("good.yaml", GOOD);
    folder.write(
        "bad.yaml",
        &GOOD
            .replace("routes", "ruotes")
            .replace("endpoints", "endpoint")
            .replace("127.0.0.1:0", "127.0.0.1"),
    );
    let good = folder.path("good.yaml").display().to_string();
    let bad = folder.path("bad.yaml").display().to_string();

    assert_eq!(rempart(&["check", &good]).status.code(), Some(0));
    let output = rempart(&["check", &bad]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for (place, word) in [
        ("bad.yaml:1:", "127.0.0.1"),
        ("bad.yaml:2:", "endpoints"),
        ("bad.yaml:3:1", "routes"),
    ] {
        assert!(
            text.lines()
                .any(|line| line.contains(place) && line.contains(word)),
            "{place} … {word} in {text}"
        );
    }
    // One bad file among several makes the answer no.
    assert_eq!(rempart(&["check", &good, &bad]).status.code(), Some(1));
    assert_eq!(
        rempart(&["check", "/nowhere/at-all.yaml"]).status.code(),
        Some(1)
    );
}

#[test]
fn run_refuses_a_bad_file_with_the_same_words() {
    let folder = Folder::new();
    folder.write("bad.yaml", &GOOD.replace("routes", "ruotes"));
    let bad = folder.path("bad.yaml").display().to_string();
    let output = rempart(&["run", "--config", &bad]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("bad.yaml:3:1"), "{}", said(&output));
}

#[test]
fn an_address_in_use_is_said_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    folder.write("rempart.yaml", &GOOD.replace("127.0.0.1:0", &address));
    let file = folder.path("rempart.yaml").display().to_string();
    let output = rempart(&["run", "--config", &file]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&address), "{}", said(&output));
}
