//! What the stories share: the built `rempart` as a child process, and real peers around it.
//!
//! Everything binds port 0 (or a port just found free), waits for conditions with a deadline, and
//! ends its own children by their id. The stories hold the expectations; nothing here does.

pub mod attack;
pub mod cases;
pub mod certificates;
pub mod curl;
pub mod edge;
pub mod metrics;
pub mod namespaces;
pub mod nginx;
pub mod process;
pub mod raw;
pub mod tools;
pub mod upstream;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use certificates::Authority;
pub use curl::Curl;
pub use edge::{Edge, Folder};
pub use nginx::Nginx;
pub use upstream::Upstream;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub fn file(relative: &str) -> PathBuf {
    root().join(relative)
}

/// All files below a folder whose names end so, in order.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Asks until there is an answer; fails after `seconds`, saying what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {seconds} s in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    wait_for(what, seconds, || holds().then_some(()));
}
