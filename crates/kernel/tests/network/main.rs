//! The filters and the guard against a real kernel: packets over veth pairs, in network namespaces that
//! the tests make and remove. A file a story; `conformance` is the suite that every backend passes.
//!
//! Where the host forbids namespaces or the filters, these tests count as ignored and the run says so
//! at its end. `REMPART_REQUIRE_KERNEL=1` makes that a failure, for hosts that are known to allow them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod conformance;
mod field;
mod guarding;
mod object;
mod packets;

use field::Field;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::process::ExitCode;

/// A story and what it is called.
type Story = (String, fn() -> Result<(), Failed>);

fn main() -> ExitCode {
    if let Some(ended) = guarding::as_guard() {
        return ended;
    }
    let arguments = Arguments::from_args();
    let forbidden = Field::try_out().err().map(|error| error.to_string());
    let mut trials = vec![Trial::test(
        "object::equals_its_source",
        object::equals_its_source,
    )];
    trials.extend(
        conformance::in_memory()
            .into_iter()
            .map(|(name, story)| Trial::test(name, story)),
    );
    let stories: Vec<Story> = conformance::in_the_kernel()
        .into_iter()
        .chain(packets::stories())
        .chain(guarding::stories())
        .collect();
    let skipped = stories.len();
    trials.extend(
        stories
            .into_iter()
            .map(|(name, story)| Trial::test(name, story).with_ignored_flag(forbidden.is_some())),
    );
    let Conclusion { num_failed, .. } = libtest_mimic::run(&arguments, trials);
    if let Some(why) = &forbidden {
        println!("SKIPPED: {skipped} tests need network namespaces, XDP and nftables: {why}\n");
        if std::env::var_os("REMPART_REQUIRE_KERNEL").is_some() {
            return ExitCode::FAILURE;
        }
    }
    if num_failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
