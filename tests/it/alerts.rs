//! The alert rules, as promtool tests them.

use crate::harness::{
    file,
    tools::{promtool, succeed},
};

#[test]
fn rules_are_valid_and_fire_when_they_should() {
    let rules = file("conf/alerts.yaml");
    let tests = file("conf/alerts.test.yaml");
    succeed(promtool(&["check", "rules"]).arg(&rules));
    let said = succeed(promtool(&["test", "rules"]).arg(&tests));
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_alert_is_tested() {
    let rules = std::fs::read_to_string(file("conf/alerts.yaml")).unwrap();
    let tests = std::fs::read_to_string(file("conf/alerts.test.yaml")).unwrap();
    let mut count = 0;
    for line in rules.lines() {
        if let Some(name) = line.trim().trim_start_matches("- ").strip_prefix("alert:") {
            assert!(tests.contains(name.trim()), "{name} has no test");
            count += 1;
        }
    }
    assert!(count >= 3, "{count} alerts");
}
