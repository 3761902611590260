//! `rempart demo`: what it tells people to try does what it says.

use crate::harness::{
    Curl,
    nginx::free_address,
    process::Process,
    tools::{run, said},
    wait_for, wait_until,
};
use std::{path::Path, process::Command, time::Duration};

#[test]
fn everything_it_tells_people_to_try_works() {
    let ports = [free_address(), free_address(), free_address()].map(|a| a.port().to_string());
    let mut demo = Process::start(
        Command::new(env!("CARGO_BIN_EXE_rempart"))
            .args(["demo", "--port", &ports[0]])
            .args(["--http-port", &ports[1]])
            .args(["--admin-port", &ports[2]]),
    );
    wait_until("the text", 20, || {
        assert!(demo.ended().is_none(), "{}", demo.stderr().join("\n"));
        demo.stdout().iter().any(|line| line.contains("Ctrl-C"))
    });
    let text = demo.stdout();
    let tries: Vec<&str> = text
        .iter()
        .map(|line| line.trim())
        .filter(|line| {
            ["curl ", "seq ", "for "]
                .iter()
                .any(|word| line.starts_with(word))
        })
        .collect();
    assert!(tries.len() >= 6, "{text:?}");
    let mut outputs = Vec::new();
    let home = format!("127.0.0.1:{}", ports[0]).parse().unwrap();
    for line in &tries {
        // What one shows must not be in the way of the next: the flood's bucket fills again.
        wait_until("a bucket with tokens to spare", 30, || {
            let spare = (0..5).all(|_| {
                Curl::https(home, "localhost", "/", Path::new("/dev/null"))
                    .with(&["-k"])
                    .send()
                    .status
                    != 429
            });
            if !spare {
                // Asking faster than it fills would keep it empty for ever.
                std::thread::sleep(Duration::from_secs(1));
            }
            spare
        });
        let output = run(Command::new("bash").args(["-c", line]));
        // A banned client's connections just close: that is what the last one shows.
        let closes = line.contains("login");
        assert!(
            output.status.success() || closes,
            "{line}\n{}",
            said(&output)
        );
        outputs.push((*line, said(&output)));
    }
    let shows = |word: &str, expected: &str| {
        let (line, output) = outputs
            .iter()
            .find(|(line, _)| line.contains(word))
            .unwrap();
        assert!(output.contains(expected), "{line}\n{output}");
    };
    shows("api/hello", "429");
    shows("api/hello", "200");
    shows(".git/config", "403");
    // The sample app has no such page; the rule in shadow mode would have said 403.
    shows("wp-login", "404");
    shows("rempart_decisions_total", "shadow");
    shows("/slow", "429");
    shows("/login", "000");

    demo.signal("TERM");
    assert!(demo.wait(30).success());
}

#[test]
fn a_port_in_use_is_said_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut demo = Process::start(
        Command::new(env!("CARGO_BIN_EXE_rempart"))
            .args(["demo", "--port", &port])
            .args(["--http-port", &free_address().port().to_string()])
            .args(["--admin-port", &free_address().port().to_string()]),
    );
    let status = demo.wait(20);
    assert_eq!(status.code(), Some(1));
    let said = wait_for("its words", 5, || {
        let said = demo.stderr().join("\n");
        (!said.is_empty()).then_some(said)
    });
    assert!(said.contains(&port), "{said}");
}
