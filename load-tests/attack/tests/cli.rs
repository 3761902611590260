//! The command line of the attack client.

// Leave for tests ends at their helpers.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn attack(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rempart-attack"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn help_and_list_fit_a_screen() {
    for (arguments, lines) in [(["--help"], 25), (["list"], 45)] {
        let output = attack(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(text.lines().count() <= lines, "{text}");
        assert!(text.lines().all(|line| line.len() <= 110), "{text}");
        assert!(text.contains("rapid-reset"), "{text}");
    }
}

#[test]
fn what_is_not_of_this_machine_is_refused() {
    for target in ["192.0.2.1:443", "10.0.0.1:443", "[2001:db8::1]:443"] {
        let output = attack(&["ping-flood", "--target", target]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
    }
    let output = attack(&[
        "silent",
        "--target",
        "127.0.0.1:1",
        "--source",
        "10.0.0.0/8",
    ]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_closed_port_refuses_every_connection() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let target = format!("127.0.0.1:{port}");
    let output = attack(&[
        "silent",
        "--target",
        &target,
        "--total",
        "3",
        "--seconds",
        "10",
    ]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["opened"], 3);
    assert_eq!(summary["closed"]["refused"], 3);
    assert_eq!(summary["still_open"], 0);
}
