//! The documentation hangs together: each link leads to a file and to a heading that are there.

use crate::harness::{file, files};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// A page without its code: what is between fences links to nothing and heads nothing.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a heading is linked to by, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(page: &Path) -> HashSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let anchor = anchor(line.trim_start_matches('#'));
            let before = seen.entry(anchor.clone()).or_default();
            *before += 1;
            match *before {
                1 => anchor,
                more => format!("{anchor}-{}", more - 1),
            }
        })
        .collect()
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&file("docs"), "md");
    for name in [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "bench/README.md",
        "load-tests/README.md",
        "docker/README.md",
    ] {
        pages.push(file(name));
    }
    pages
}

/// What is wrong with a link of a page, if anything is.
fn fault(page: &Path, link: &str) -> Option<String> {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => page.to_owned(),
        path => page.parent()?.join(path),
    };
    if !target.exists() {
        return Some(format!("{}: no file {link}", page.display()));
    }
    let is_page = target.extension().is_some_and(|e| e == "md");
    if heading.is_empty() || !is_page || anchors(&target).contains(heading) {
        return None;
    }
    Some(format!("{}: no heading {link}", page.display()))
}

#[test]
fn links_between_the_documents_lead_to_files_and_headings() {
    let mut count = 0;
    let mut faults = Vec::new();
    for page in pages() {
        let text = prose(&page);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            count += 1;
            faults.extend(fault(&page, link));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 50, "{count}");
}

#[test]
fn headings_are_linked_to_as_they_are_shown() {
    assert_eq!(anchor(" Rate limits & `429`s "), "rate-limits--429s");
    let page = file("docs/performance.md");
    assert!(anchors(&page).contains("memory-of-a-connection"));
    assert_eq!(fault(&page, "#proxying"), None);
    assert!(fault(&page, "#no-such-heading").is_some());
    assert!(fault(&page, "no-such-page.md").is_some());
    assert!(fault(&file("README.md"), "docs/performance.md#none").is_some());
}
