//! Programs that `make test` installs. One that is missing is a failure, never a skipped test.

use super::file;
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// A program of the tests' own Python environment.
pub fn venv(program: &str) -> PathBuf {
    let path = file(".tools/venv/bin").join(program);
    assert!(path.exists(), "{program} is missing: run `make test`");
    path
}

/// Both outputs, for a message.
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run `make test`"))
}

/// Runs a command that must succeed; gives what it said.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let said = said(&output);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    said
}

/// `k6 run` of a script of load-tests/, without sending anything about the run anywhere.
pub fn k6(script: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(venv("k6"));
    command
        .args(["run", "--quiet", "--no-usage-report", "--no-color"])
        .env("K6_NO_USAGE_REPORT", "true")
        // The script's own summary is asked for in a file where needed.
        .arg(file("load-tests").join(script));
    for (key, value) in environment {
        command.arg("--env").arg(format!("{key}={value}"));
    }
    command
}

/// A Python script beside the tests, in the tests' own environment.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(venv("python"));
    command.arg("-u").arg(file("tests/it/peers").join(script));
    command
}

/// `promtool ARGUMENTS`.
pub fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(arguments);
    command
}
