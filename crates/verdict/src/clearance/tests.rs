//! Stories of clearances, and of those who would have one without solving.

use super::*;
use crate::{
    prefix::PrefixLengths,
    seal::Key,
    ticket::{Detail, Kind, Ticket},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use std::net::IpAddr;

const NOW: u64 = 1_700_000_000;
const HOUR: u64 = 3600;
const HOST: &str = "app.example.com";
const SECRET: &[u8] = b"a secret of the tests, long enough";
const CHROME: &str = "t13d1516h2_8daaf6152771_02713d6af862";
const FIREFOX: &str = "t13d1715h2_5b57614c22b0_7121afd63204";

fn keys() -> Keyring {
    Keyring::new(SECRET, [])
}

fn network(address: &str) -> Prefix {
    Prefix::of(address.parse().unwrap(), PrefixLengths::NETWORK)
}

fn home() -> Prefix {
    network("192.0.2.7")
}

fn grant(network: Prefix) -> Grant {
    Grant {
        rung: Rung::ProofOfWork,
        network,
        issued: NOW,
        expires: NOW + HOUR,
    }
}

/// What somebody with Chrome got at home.
fn clearance() -> Clearance {
    Clearance::new([7; 16], Fingerprint::of(CHROME), grant(home()))
}

fn seal(clearance: &Clearance) -> String {
    clearance.seal(&keys(), HOST).unwrap()
}

fn shown(ja4: &str) -> Shown {
    Shown::Fingerprint(Fingerprint::of(ja4).unwrap())
}

fn owner() -> Bearer<'static> {
    Bearer {
        network: home(),
        shown: shown(CHROME),
        host: HOST,
        now: NOW,
    }
}

fn verify(token: &[u8], bearer: &Bearer<'_>) -> Standing {
    Clearance::verify(token, &keys(), bearer, |_, _| false)
}

const HELD: Standing = Standing::Holds(Rung::ProofOfWork);

#[test]
fn it_holds_for_its_owner() {
    let token = seal(&clearance());
    let later = |seconds| Bearer {
        now: NOW + seconds,
        ..owner()
    };
    for (story, bearer, standing) in [
        ("at once", owner(), HELD),
        ("to its last second", later(HOUR - 1), HELD),
        (
            "from another address of the network",
            Bearer {
                network: network("192.0.2.250"),
                ..owner()
            },
            HELD,
        ),
        (
            "over a WebSocket, which is HTTP/1.1 and has another JA4_a",
            Bearer {
                shown: shown("t13d1515h1_8daaf6152771_02713d6af862"),
                ..owner()
            },
            HELD,
        ),
        (
            "over a resumed session, which has another JA4_a and JA4_c",
            Bearer {
                shown: shown("t13d1517h2_8daaf6152771_b1ff8ab2d16f"),
                ..owner()
            },
            HELD,
        ),
        (
            "by way of a trusted proxy, where its TLS ends",
            Bearer {
                shown: Shown::Proxied,
                ..owner()
            },
            HELD,
        ),
        (
            "at a replica whose clock is a minute behind",
            Bearer {
                now: NOW - CLOCK_SKEW,
                ..owner()
            },
            HELD,
        ),
    ] {
        assert_eq!(verify(token.as_bytes(), &bearer), standing, "{story}");
    }
}

#[test]
#[allow(clippy::too_many_lines)] // A table.
fn it_holds_for_nobody_else_nowhere_else_and_at_no_other_time() {
    let token = seal(&clearance());
    for (story, fault, bearer) in [
        (
            "expired",
            Fault::Expired,
            Bearer {
                now: NOW + HOUR,
                ..owner()
            },
        ),
        (
            "at the end of time",
            Fault::Expired,
            Bearer {
                now: u64::MAX,
                ..owner()
            },
        ),
        (
            "not yet issued, by more than clocks differ",
            Fault::Expired,
            Bearer {
                now: NOW - CLOCK_SKEW - 1,
                ..owner()
            },
        ),
        ("in 1970", Fault::Expired, Bearer { now: 0, ..owner() }),
        (
            "another host",
            Fault::ForeignHost,
            Bearer {
                host: "other.example.com",
                ..owner()
            },
        ),
        (
            "no host",
            Fault::ForeignHost,
            Bearer {
                host: "",
                ..owner()
            },
        ),
        (
            "another network",
            Fault::ForeignNetwork,
            Bearer {
                network: network("192.0.3.7"),
                ..owner()
            },
        ),
        (
            "the same address in another length",
            Fault::ForeignNetwork,
            Bearer {
                network: Prefix::of("192.0.2.0".parse().unwrap(), PrefixLengths::CLIENT),
                ..owner()
            },
        ),
        (
            "another browser",
            Fault::ForeignClient,
            Bearer {
                shown: shown(FIREFOX),
                ..owner()
            },
        ),
        (
            "in plaintext",
            Fault::ForeignClient,
            Bearer {
                shown: Shown::Nothing,
                ..owner()
            },
        ),
        (
            "another browser, in a network of the other family",
            Fault::ForeignClient,
            Bearer {
                network: network("2001:db8::1"),
                shown: shown(FIREFOX),
                ..owner()
            },
        ),
        (
            "in plaintext, in a network of the other family",
            Fault::ForeignClient,
            Bearer {
                network: network("2001:db8::1"),
                shown: Shown::Nothing,
                ..owner()
            },
        ),
        (
            "by way of a proxy, in a network of the other family",
            Fault::ForeignNetwork,
            Bearer {
                network: network("2001:db8::1"),
                shown: Shown::Proxied,
                ..owner()
            },
        ),
    ] {
        assert_eq!(
            verify(token.as_bytes(), &bearer),
            Standing::Nothing(fault),
            "{story}"
        );
    }
}

#[test]
fn without_a_fingerprint_it_is_bound_by_the_network() {
    let plain = Clearance {
        fingerprint: None,
        ..clearance()
    };
    let token = seal(&plain);
    for shown in [Shown::Nothing, Shown::Proxied, shown(CHROME)] {
        let bearer = Bearer { shown, ..owner() };
        assert_eq!(verify(token.as_bytes(), &bearer), HELD);
        let elsewhere = Bearer {
            network: network("2001:db8::1"),
            ..bearer
        };
        assert_eq!(
            verify(token.as_bytes(), &elsewhere),
            Standing::Nothing(Fault::ForeignNetwork)
        );
    }
}

#[test]
fn on_the_other_family_it_may_be_its_owner() {
    let mut held = clearance();
    held.grants.push(Grant {
        rung: Rung::Captcha,
        ..grant(network("198.51.100.1"))
    });
    let bearer = Bearer {
        network: network("2001:db8::1"),
        ..owner()
    };
    let elsewhere = Standing::Elsewhere {
        id: [7; 16],
        grant: held.grants[1],
    };
    assert_eq!(verify(seal(&held).as_bytes(), &bearer), elsewhere);
    // What was taken back proves nothing there either.
    let revoked = held.standing(&bearer, |_| true);
    assert_eq!(revoked, Standing::Nothing(Fault::Revoked));
    let late = Bearer {
        now: NOW + HOUR,
        ..bearer
    };
    assert_eq!(
        verify(seal(&held).as_bytes(), &late),
        Standing::Nothing(Fault::Expired)
    );
    // Whose family is among the grants has climbed there, and climbs again in another network.
    held.grants.push(grant(network("2001:db8:1::1")));
    assert_eq!(
        verify(seal(&held).as_bytes(), &bearer),
        Standing::Nothing(Fault::ForeignNetwork)
    );
}

#[test]
fn what_is_revoked_holds_no_more() {
    let token = seal(&clearance());
    let with = |revoked: &dyn Fn(&Clearance, &Grant) -> bool| {
        Clearance::verify(token.as_bytes(), &keys(), &owner(), revoked)
    };
    assert_eq!(
        with(&|_, grant| grant.network == home()),
        Standing::Nothing(Fault::Revoked)
    );
    assert_eq!(
        with(&|clearance, _| clearance.fingerprint == Fingerprint::of(CHROME)),
        Standing::Nothing(Fault::Revoked)
    );
    assert_eq!(with(&|_, grant| grant.issued < NOW), HELD);
}

#[test]
fn a_forged_or_truncated_token_is_nothing() {
    let token = seal(&clearance());
    for at in 0..token.len() {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(
            verify(&forged, &owner()),
            Standing::Nothing(Fault::Invalid),
            "{at}"
        );
        let short = &token.as_bytes()[..at];
        assert_eq!(
            verify(short, &owner()),
            Standing::Nothing(Fault::Invalid),
            "{at}"
        );
        let cut = &token.as_bytes()[at + 1..];
        assert_eq!(
            verify(cut, &owner()),
            Standing::Nothing(Fault::Invalid),
            "{at}"
        );
    }
    // Cut where the bytes are cut, too.
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for at in 0..bytes.len() {
        let cut = URL_SAFE_NO_PAD.encode(&bytes[..at]);
        assert_eq!(
            verify(cut.as_bytes(), &owner()),
            Standing::Nothing(Fault::Invalid),
            "{at}"
        );
    }
    for enormous in [MAX_TOKEN + 1, 8 * 1024, 1 << 20] {
        let mut long = token.clone();
        long.extend(std::iter::repeat_n('A', enormous - token.len()));
        assert_eq!(
            verify(long.as_bytes(), &owner()),
            Standing::Nothing(Fault::Invalid)
        );
    }
}

/// Version, purpose and key id stand in front of the fields; all three are under the seal.
#[test]
fn a_token_of_another_version_purpose_or_key_is_nothing() {
    let token = seal(&clearance());
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    let swapped = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        assert_ne!(bytes[at], byte);
        bytes[at] = byte;
        URL_SAFE_NO_PAD.encode(bytes)
    };
    for version in [0, 2, b'1', 255] {
        let token = swapped(0, version);
        assert_eq!(
            verify(token.as_bytes(), &owner()),
            Standing::Nothing(Fault::Invalid)
        );
    }
    for purpose in [0, b't', b'C', 255] {
        let token = swapped(1, purpose);
        assert_eq!(
            verify(token.as_bytes(), &owner()),
            Standing::Nothing(Fault::Invalid)
        );
    }
    // Sealed by a key that is not, or no more, in the file; and passed off as one that is.
    let other = clearance().seal(&Key::new(b"another secret").into(), HOST);
    let other = other.unwrap();
    assert_eq!(
        verify(other.as_bytes(), &owner()),
        Standing::Nothing(Fault::Invalid)
    );
    let mut forged = URL_SAFE_NO_PAD.decode(&other).unwrap();
    forged[2..6].copy_from_slice(&bytes[2..6]);
    let forged = URL_SAFE_NO_PAD.encode(forged);
    assert_eq!(
        verify(forged.as_bytes(), &owner()),
        Standing::Nothing(Fault::Invalid)
    );
    // With two keys, the id of the one does not open what the other has sealed.
    let both = Keyring::new(SECRET, [&b"another secret"[..]]);
    let verify_both =
        |token: &str| Clearance::verify(token.as_bytes(), &both, &owner(), |_, _| false);
    assert_eq!(verify_both(&other), HELD);
    assert_eq!(verify_both(&forged), Standing::Nothing(Fault::Invalid));
}

#[test]
fn a_ticket_is_no_clearance_and_a_clearance_no_ticket() {
    let ticket = Ticket {
        kind: Kind::ProofOfWork,
        worth: Rung::ProofOfWork,
        id: [7; 16],
        host: HOST.to_owned(),
        network: home(),
        issued: NOW * 1000,
        expires: (NOW + HOUR) * 1000,
        target: "/".to_owned(),
        detail: Detail::new(),
    };
    let ticket = ticket.seal(&keys()).unwrap();
    assert_eq!(
        verify(ticket.as_bytes(), &owner()),
        Standing::Nothing(Fault::Invalid)
    );
    let token = seal(&clearance());
    assert_eq!(Ticket::open(token.as_bytes(), &keys()), None);
    assert!(Ticket::open(ticket.as_bytes(), &keys()).is_some());
}

/// CVE-2025-68113: ALTCHA signed its fields without delimiters, so that bytes of one could be moved
/// into the next and an expiry be put off. Here each field has its type and length under the seal;
/// what the right key has sealed in another shape is refused all the same.
#[test]
fn fields_can_not_be_spliced() {
    let id = [7; 16];
    let fingerprint = Fingerprint::of(CHROME).unwrap();
    let bytes = grant(home()).to_bytes();
    let longer = [&bytes[..], &[0]].concat();
    let new = || Writer::new(Purpose::Clearance);
    let head = || {
        new()
            .field(ID, &id)
            .field(super::HOST, HOST.as_bytes())
            .field(FINGERPRINT, &fingerprint.0)
    };
    let rung = || head().field(RUNG, &[10]);
    let good = || rung().field(GRANT, &bytes);
    let five = || {
        (0..4).fold(good(), |fields, _| {
            fields.field(RUNG, &[10]).field(GRANT, &bytes)
        })
    };
    let sealed = |fields: Writer| keys().seal(fields).unwrap();
    assert_eq!(verify(sealed(good()).as_bytes(), &owner()), HELD);
    for (story, fields) in [
        ("nothing", new()),
        ("no grant", head()),
        ("a rung without its grant", rung()),
        ("a grant without its rung", head().field(GRANT, &bytes)),
        ("a short grant", rung().field(GRANT, &bytes[1..])),
        ("a long grant", rung().field(GRANT, &longer)),
        ("something behind it", good().field(9, b"")),
        ("a second host", good().field(super::HOST, HOST.as_bytes())),
        ("half a second grant", good().field(RUNG, &[10])),
        ("more grants than fit", five()),
        (
            "an unknown rung",
            head().field(RUNG, &[9]).field(GRANT, &bytes),
        ),
        (
            "a long rung",
            head().field(RUNG, &[10, 10]).field(GRANT, &bytes),
        ),
        (
            "no id",
            new()
                .field(super::HOST, HOST.as_bytes())
                .field(FINGERPRINT, b"")
                .field(RUNG, &[10])
                .field(GRANT, &bytes),
        ),
        (
            "the host's last byte moved into the fingerprint",
            new()
                .field(ID, &id)
                .field(super::HOST, &HOST.as_bytes()[..HOST.len() - 1])
                .field(FINGERPRINT, b"m8daaf6152771")
                .field(RUNG, &[10])
                .field(GRANT, &bytes),
        ),
        (
            "a fingerprint that is none",
            new()
                .field(ID, &id)
                .field(super::HOST, HOST.as_bytes())
                .field(FINGERPRINT, b"8DAAF6152771")
                .field(RUNG, &[10])
                .field(GRANT, &bytes),
        ),
        (
            "another order",
            new()
                .field(super::HOST, HOST.as_bytes())
                .field(ID, &id)
                .field(FINGERPRINT, b"")
                .field(RUNG, &[10])
                .field(GRANT, &bytes),
        ),
    ] {
        let token = sealed(fields);
        assert_eq!(
            verify(token.as_bytes(), &owner()),
            Standing::Nothing(Fault::Invalid),
            "{story}"
        );
    }
}

#[test]
fn a_visitor_who_moves_keeps_both_networks_each_at_its_rung() {
    let mobile = network("2001:db8::1");
    let at_home = Clearance {
        grants: [Grant {
            rung: Rung::Captcha,
            ..grant(home())
        }]
        .into_iter()
        .collect(),
        ..clearance()
    };
    let later = Grant {
        issued: NOW + 60,
        expires: NOW + 60 + HOUR,
        ..grant(mobile)
    };
    let both = Clearance::new([8; 16], Fingerprint::of(CHROME), later).after(&at_home, NOW + 60);
    let token = seal(&both);
    let at = |network, seconds| {
        let bearer = Bearer {
            network,
            now: NOW + seconds,
            ..owner()
        };
        verify(token.as_bytes(), &bearer)
    };
    assert_eq!(at(home(), 60), Standing::Holds(Rung::Captcha));
    assert_eq!(at(mobile, 60), HELD);
    // Each network keeps its own end.
    assert_eq!(at(home(), HOUR), Standing::Nothing(Fault::Expired));
    assert_eq!(at(mobile, HOUR), HELD);
}

#[test]
fn a_lower_rung_takes_no_higher_one_away() {
    let at = |rung| {
        Clearance::new(
            [8; 16],
            Fingerprint::of(CHROME),
            Grant {
                rung,
                ..grant(home())
            },
        )
    };
    let higher = at(Rung::Captcha);
    let both = at(Rung::Silent).after(&higher, NOW);
    assert_eq!(
        verify(seal(&both).as_bytes(), &owner()),
        Standing::Holds(Rung::Captcha)
    );
    // A higher one needs no lower one beside it.
    let renewed = at(Rung::ThirdParty).after(&both, NOW);
    assert_eq!(renewed.grants.len(), 1);
}

#[test]
fn what_another_client_holds_is_left_with_it() {
    let of = |ja4: &str| Fingerprint::of(ja4);
    for (mine, older) in [
        (of(CHROME), of(FIREFOX)),
        (of(CHROME), None),
        (None, of(CHROME)),
    ] {
        let own = Clearance::new([8; 16], mine, grant(network("198.51.100.1")));
        let stolen = Clearance {
            fingerprint: older,
            ..clearance()
        };
        assert_eq!(own.clone().after(&stolen, NOW), own);
    }
}

#[test]
fn networks_are_few_and_the_newest_stay() {
    let mut held = clearance();
    for n in 0..10_u8 {
        let next = grant(network(&format!("198.51.{n}.1")));
        held = Clearance::new([n; 16], held.fingerprint, next).after(&held, NOW);
    }
    let networks: Vec<_> = held.grants.iter().map(|grant| grant.network).collect();
    let expected: Vec<_> = (6..10).map(|n| network(&format!("198.51.{n}.1"))).collect();
    assert_eq!(networks, expected);
    let longest = held.seal(&keys(), &"h".repeat(MAX_HOST)).unwrap();
    assert!(longest.len() <= MAX_TOKEN, "{}", longest.len());
    assert!(held.seal(&keys(), &"h".repeat(MAX_HOST + 1)).is_none());
}

#[test]
fn an_expired_network_is_left_behind() {
    let next = Grant {
        issued: NOW + HOUR,
        expires: NOW + 2 * HOUR,
        ..grant(network("198.51.100.1"))
    };
    let held =
        Clearance::new([8; 16], Fingerprint::of(CHROME), next).after(&clearance(), NOW + HOUR);
    assert_eq!(held.grants.as_slice(), [next]);
}

#[test]
fn a_fingerprint_is_the_cipher_part_of_a_ja4() {
    for (text, part) in [
        (CHROME, Some("8daaf6152771")),
        ("8daaf6152771", Some("8daaf6152771")),
        ("000000000000", Some("000000000000")),
        ("", None),
        ("8daaf615277", None),
        ("8daaf61527711", None),
        ("8DAAF6152771", None),
        ("8daaf6152771_02713d6af862", None),
        ("t13d1516h2_8daaf6152771_02713d6af862_", None),
        ("t13d1516h2_8daaf6152771_02713d6af86", None),
        ("t13d1516h_28daaf6152771_02713d6af862", None),
        ("t13d1516h2-8daaf6152771-02713d6af862", None),
        ("\0\0\0\0\0\0\0\0\0\0\0\0", None),
    ] {
        let fingerprint = Fingerprint::of(text);
        assert_eq!(
            fingerprint.as_ref().map(Fingerprint::as_str),
            part,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_are_a_clearance(token in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(verify(&token, &owner()), Standing::Nothing(Fault::Invalid));
    }

    #[test]
    fn any_clearance_opens_again(
        id: [u8; 16], v4: u32, v6: u128, length in 0_u8..=128, issued: u64, expires: u64,
        print in prop::option::of("[0-9a-f]{12}"), host in "[a-z.-]{0,253}",
    ) {
        let lengths = PrefixLengths { ipv4: length.min(32), ipv6: length };
        for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
            let network = Prefix::of(address, lengths);
            let fingerprint = print.as_deref().and_then(Fingerprint::of);
            prop_assert_eq!(fingerprint.is_some(), print.is_some());
            let grant = Grant { rung: Rung::ProofOfWork, network, issued, expires };
            let made = Clearance::new(id, fingerprint, grant);
            let token = made.seal(&keys(), &host).unwrap();
            prop_assert_eq!(Clearance::open(token.as_bytes(), &keys(), &host), Ok(made));
        }
    }

    #[test]
    fn no_network_but_its_own_holds_it(address: IpAddr) {
        let network = Prefix::of(address, PrefixLengths::NETWORK);
        prop_assume!(network != home());
        let standing = verify(seal(&clearance()).as_bytes(), &Bearer { network, ..owner() });
        prop_assert!(!matches!(standing, Standing::Holds(_)));
    }
}
