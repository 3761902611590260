//! Composite keys: who shares a bucket, and whom a limit leaves alone.

use super::*;
use verdict::facts::Headers;

struct One(&'static str, &'static [u8]);

impl Headers for One {
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == self.0).then_some(self.1)
    }
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        (name == self.0).then_some(self.1)
    }
}

/// One request a second for each key.
fn keyed(key: &[KeyPart]) -> Policy {
    let limit = LimitSpec {
        key: key.to_vec(),
        ..per_ip("keyed", 1, 1, Action::Throttle)
    };
    policy(vec![], vec![], vec![limit])
}

/// Whether two requests count as one key; `None` when the limit applies to neither.
fn shared(key: &[KeyPart], one: &Facts<'_>, two: &Facts<'_>) -> Option<bool> {
    let policy = keyed(key);
    policy.decide(one, NOW).quota?;
    Some(policy.decide(two, NOW).action == Action::Throttle)
}

#[test]
fn a_client_is_a_prefix() {
    let ip = [KeyPart::ClientIp];
    let network = [KeyPart::ClientNetwork];
    let (one, two, far) = (
        facts("2001:db8:1:2::1"),
        facts("2001:db8:1:2:ffff::2"),
        facts("2001:db8:1:3::1"),
    );
    assert_eq!(shared(&ip, &one, &two), Some(true));
    assert_eq!(shared(&ip, &one, &far), Some(false));
    assert_eq!(shared(&network, &one, &far), Some(true));
    let (one, mapped, next) = (
        facts("192.0.2.1"),
        facts("::ffff:192.0.2.1"),
        facts("192.0.2.2"),
    );
    assert_eq!(shared(&ip, &one, &mapped), Some(true));
    assert_eq!(shared(&ip, &one, &next), Some(false));
    assert_eq!(shared(&network, &one, &next), Some(true));
}

#[test]
fn a_limit_whose_key_lacks_a_part_does_not_apply() {
    for part in [
        KeyPart::ClientJa4,
        KeyPart::UserId,
        KeyPart::UserRole,
        KeyPart::Route,
        KeyPart::Upstream,
        KeyPart::Header("x-key".into()),
        KeyPart::Cookie("session".into()),
    ] {
        let policy = keyed(&[KeyPart::ClientIp, part.clone()]);
        for _ in 0..3 {
            let decision = policy.decide(&facts(VISITOR), NOW);
            assert_eq!(decision.action, Action::Allow, "{part:?}");
            assert!(decision.quota.is_none());
        }
        assert_eq!(policy.usage(NOW)[0].tracked, 0);
    }
}

#[test]
fn what_every_request_has_is_never_absent() {
    let mut bare = facts(VISITOR);
    bare.request.host = b"";
    bare.request.path = b"";
    bare.request.method = "";
    for part in [KeyPart::Host, KeyPart::Path, KeyPart::Method] {
        assert_eq!(shared(&[part], &bare, &bare), Some(true));
    }
}

#[test]
fn texts_are_told_apart() {
    let (one, two) = (facts(VISITOR), facts(VISITOR));
    let (mut a, mut b) = (one, two);
    (a.route_name, b.route_name) = ("login", "app");
    (a.upstream, b.upstream) = ("app", "login");
    (a.user.id, b.user.id) = ("ada", "bob");
    (a.client.ja4, b.client.ja4) = ("t13d1516h2", "t13d1517h2");
    (a.request.path, b.request.path) = (b"/a", b"/b");
    (a.request.host, b.request.host) = (b"a.example.com", b"b.example.com");
    (a.request.method, b.request.method) = ("GET", "POST");
    (a.request.headers, b.request.headers) = (&One("x-key", b"1"), &One("x-key", b""));
    for part in [
        KeyPart::Route,
        KeyPart::Upstream,
        KeyPart::UserId,
        KeyPart::ClientJa4,
        KeyPart::Path,
        KeyPart::Host,
        KeyPart::Method,
        KeyPart::Header("x-key".into()),
        KeyPart::Cookie("x-key".into()),
    ] {
        let key = [part];
        assert_eq!(shared(&key, &a, &a), Some(true), "{key:?}");
        assert_eq!(shared(&key, &a, &b), Some(false), "{key:?}");
    }
}

#[test]
fn parts_do_not_run_into_each_other() {
    let (mut one, mut two) = (facts(VISITOR), facts(VISITOR));
    (one.user.id, one.request.path) = ("ab", b"c");
    (two.user.id, two.request.path) = ("a", b"bc");
    let key = [KeyPart::UserId, KeyPart::Path];
    assert_eq!(shared(&key, &one, &two), Some(false));
}

#[test]
fn users_with_the_same_roles_share_a_bucket() {
    let role = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let (ab, ba, b) = (role(&["a", "b"]), role(&["b", "a"]), role(&["b"]));
    let with = |id: &'static str, roles| Facts {
        user: User { id, roles },
        ..facts(VISITOR)
    };
    let key = [KeyPart::UserRole];
    assert_eq!(shared(&key, &with("x", &ab), &with("y", &ba)), Some(true));
    assert_eq!(shared(&key, &with("x", &ab), &with("x", &b)), Some(false));
    let ordered = [KeyPart::UserId, KeyPart::UserRole];
    assert_eq!(
        shared(&ordered, &with("x", &ab), &with("y", &ab)),
        Some(false)
    );
}
