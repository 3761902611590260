//! Configurations as operators write them: the good load to what they say, the bad are refused with
//! exactly the words in `tests/fixtures/config/bad/NAME.expected` (rewritten by `UPDATE_EXPECT=1`).
//!
//! The keys under `tests/fixtures/config/shared` were made for these tests and protect nothing.

use rempart::config::{self, Config, model};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use verdict::{
    decision::{Action, Mode},
    policy::{KeyPart, LimitKind},
    pressure::{
        AcceptStall, AckFlood, SlowSynFlood, State, States, SynFlood, Thresholds, UdpAmplification,
    },
};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(format!("tests/fixtures/config/{kind}"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn good(name: &str) -> Config {
    let path = format!("tests/fixtures/config/good/{name}.yaml");
    config::load(Path::new(&path)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// File names as seen from the folder of the fixture.
fn relative(text: &str) -> String {
    text.replace("tests/fixtures/config/bad/", "")
        .replace("tests/fixtures/config/good/", "")
}

#[test]
fn bad_files_are_refused_in_exactly_these_words() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let files = fixtures("bad");
    assert!(files.len() >= 30, "only {} bad fixtures", files.len());
    let mut differing = String::new();
    for file in files {
        let found = match config::load(&file) {
            Ok(_) => "(loads)\n".to_owned(),
            Err(errors) => relative(&format!("{errors}\n")),
        };
        let expected_file = file.with_extension("expected");
        if update {
            fs::write(&expected_file, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if found == "(loads)\n" || found != expected {
            let _ = writeln!(differing, "\n{}", file.display());
            for line in expected.lines().filter(|line| !found.contains(*line)) {
                let _ = writeln!(differing, "  - {line}");
            }
            for line in found.lines().filter(|line| !expected.contains(*line)) {
                let _ = writeln!(differing, "  + {line}");
            }
        }
    }
    assert!(
        differing.is_empty(),
        "- expected, + found; UPDATE_EXPECT=1 takes what was found\n{differing}"
    );
}

#[test]
fn the_contract_s_example_loads_to_what_it_says() {
    let config = good("contract");
    let [https, redirect] = config.listeners.as_slice() else {
        panic!("two listeners")
    };
    let model::ListenerKind::Tls(tls) = &https.kind else {
        panic!("TLS")
    };
    assert_eq!(
        tls.certificates[0].names,
        ["app.example.com", "*.app.example.com"]
    );
    assert!(https.protocols.h2 && https.protocols.http1);
    assert!(matches!(redirect.kind, model::ListenerKind::Redirect));
    let token = config.admin.unwrap().token.unwrap();
    assert!(token.matches(b"0123456789abcdef0123456789abcdef"));
    assert_eq!(config.identity.api_keys.unwrap().keys.len(), 2);
    let jwt = config.identity.jwt.unwrap();
    assert_eq!(jwt.roles.unwrap(), ["realm_access", "roles"]);
    assert!(matches!(jwt.keys, model::JwksSource::File(set) if set.keys.len() == 1));
    assert_eq!(config.connections.timeouts.body_minimum_rate, 1024);
    assert_eq!(
        config.connections.timeouts.request,
        Duration::from_secs(600)
    );
    let upstream = config.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(upstream.server_name, "app.internal");
    assert!(upstream.client.is_some() && upstream.ca.as_ref().unwrap().len() == 1);
    assert_eq!(config.routes[0].methods, [http::Method::POST]);
    let policy = &config.policy;
    assert_eq!(policy.routes[0].limits, [2]);
    assert_eq!(policy.limits[2].over, Action::Ban(Duration::from_secs(600)));
    assert_eq!(policy.limits[2].key, [KeyPart::ClientIp, KeyPart::Route]);
    assert!(matches!(
        policy.limits[4].kind,
        LimitKind::Bulkhead { queue: 32, wait, .. } if wait == Duration::from_secs(1)
    ));
    assert_eq!(policy.rules[1].mode, Mode::Shadow);
    assert_eq!(policy.lists[0].networks.len(), 3);
    assert_eq!(policy.lists[1].then, Some(Action::Drop));
    // The YAML, two certificates with their keys, the CA, the token, the JWKS, the API keys, a list.
    assert_eq!(config.files.len(), 10);
    assert!(config.files.iter().all(|file| file.is_absolute()));
    let [warning] = config.warnings.as_slice() else {
        panic!("one warning, found {:?}", config.warnings)
    };
    assert!(warning.message.contains("`search` is not used"));
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good("least");
    assert_eq!(config.connections.per_client.unwrap().get(), 64);
    assert_eq!(config.connections.total.get(), 20_000);
    assert_eq!(config.shutdown.grace, Duration::from_secs(20));
    assert_eq!(config.access_log, model::AccessLog::Stdout);
    assert_eq!(config.clients.prefix.ipv6, 64);
    assert!(config.admin.is_none() && config.warnings.is_empty());
    let shown = config.masked;
    assert_eq!(shown["connections"]["timeouts"]["handshake"], "5s");
    assert_eq!(shown["connections"]["per_client"], 64);
    assert_eq!(shown["upstreams"]["app"]["retries"]["budget"], "20%");
    assert_eq!(shown["listeners"][0]["proxy_protocol"], false);
    assert_eq!(shown["routes"][0]["path"], "/");
}

#[test]
fn every_other_key_is_read() {
    let config = good("everything");
    assert!(config.connections.per_client.is_none());
    assert!(config.connections.rate_per_client.is_none());
    assert_eq!(config.connections.timeouts.body_minimum_rate, 0);
    let networks: Vec<String> = config
        .clients
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.0/24", "172.16.0.1/32"]);
    let dns = &config.upstreams[0];
    assert_eq!(
        dns.tls.as_ref().unwrap().server_name,
        "app.default.svc.cluster.local"
    );
    assert_eq!(dns.protocol, model::UpstreamProtocol::H2);
    assert_eq!((dns.ejection.maximum, dns.retries.budget), (0.25, 0.1));
    assert_eq!(
        config.routes[0].host,
        model::HostMatch::Wildcard(".example.com".into())
    );
    assert_eq!(
        config.routes[1].path,
        model::PathMatch::Prefix("/api".into())
    );
    assert_eq!(config.policy.routes[1].limits, [0, 1]);
    assert_eq!(config.policy.limits[1].over, Action::Delay(None));
    assert_eq!(
        config.policy.limits[1].key[0],
        KeyPart::Header("x-tenant".into())
    );
    assert_eq!(config.policy.lists[0].networks.len(), 6);
    assert_eq!(config.challenge.proof_of_work.effort, 20_000);
    assert!(
        matches!(config.access_log, model::AccessLog::File(path) if path.ends_with("access.log"))
    );
    assert_eq!(config.bans.capacity, 1_000_000);
    assert!(config.bans.state_file.unwrap().is_absolute());
    assert_eq!((config.bans.never.len(), config.bans.feeds.len()), (2, 2));
    assert_eq!(
        config.bans.kernel,
        Some(model::Kernel::Own {
            backend: model::KernelBackend::Xdp,
            interfaces: vec!["eth0".into(), "eth1.7".into()],
            ports: model::KernelPorts::All,
            drop_reflected: true,
        })
    );
    let networks = |at: usize| &config.policy.lists[at].networks;
    assert_eq!((networks(1).len(), networks(2).len()), (2, 1));
    let warnings: Vec<String> = config
        .warnings
        .iter()
        .map(|warning| relative(&warning.to_string()))
        .collect();
    let listed = warnings.join("\n");
    assert!(
        listed.contains("expired.pem:1:1: this certificate expired on"),
        "{listed}"
    );
    assert!(
        listed.contains("`203.0.113.9/24` has host bits; read as `203.0.113.0/24`"),
        "{listed}"
    );
}

#[test]
fn what_the_network_is_watched_for_is_read() {
    let config = good("everything");
    let floods = States::of(State::AckFlood).with(State::UdpAmplification);
    let during: Vec<States> = config
        .policy
        .limits
        .iter()
        .map(|limit| limit.during)
        .collect();
    assert_eq!(during, [States::NONE, States::NONE, States::NONE, floods]);
    let pressed = config.connections.under_pressure.as_ref().unwrap();
    assert!(pressed.during.meets(States::of(State::SlowSynFlood)));
    assert!(!pressed.during.meets(floods));
    assert_eq!(pressed.handshake, Some(Duration::from_secs(2)));
    assert_eq!(pressed.rate_per_client.unwrap().amount.get(), 5);
    assert!(pressed.known_first);
    let pressure = config.pressure.as_ref().unwrap();
    assert_eq!(pressure.every, Duration::from_millis(100));
    let expected = Thresholds {
        quiet: Duration::from_secs(120),
        syn_flood: SynFlood {
            syns: 10.0,
            answered: 0.1,
        },
        slow_syn_flood: SlowSynFlood {
            half_open: 64.0,
            seconds: 3.0,
        },
        accept_stall: AcceptStall {
            overflows: 1.0,
            answered: 0.9,
        },
        ack_flood: AckFlood {
            resets: 500.0,
            per_connection: 2.0,
        },
        udp_amplification: UdpAmplification {
            unasked: 100.0,
            lost: 10.0,
            reflected: 50.0,
        },
    };
    assert_eq!(pressure.thresholds, expected);
}

/// Each with its default in the schema, and in the crate that judges.
#[test]
fn the_thresholds_left_out_are_those_of_the_detectors() {
    let config = good("least");
    let pressure = config.pressure.unwrap();
    assert_eq!(pressure.every, Duration::from_millis(250));
    assert_eq!(pressure.thresholds, Thresholds::default());
    assert!(config.connections.under_pressure.is_none());
}

#[test]
fn no_secret_is_shown() {
    let config = good("contract");
    let shown = format!("{} {config:?}", config.masked);
    for secret in ["0123456789abcdef", "PRIVATE KEY", "sha256:", "sha256: ["] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    assert!(shown.contains("../shared/secrets/admin.token"));
}

/// `SplitMix64`: a sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// Whatever is done to a good file, it loads or it is refused with a place; it never panics.
#[test]
fn no_mutation_of_a_good_file_panics() {
    const PIECES: &[&str] = &[
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        ",",
        "#",
        "&a ",
        "*a",
        "|",
        ">",
        "-",
        "- ",
        "\n",
        "\t",
        "'",
        "\"",
        "\\",
        "%",
        "!x ",
        "? ",
        "<<: ",
        "~",
        "null",
        "0",
        "99999999999999999999",
        "-1",
        "é",
        "\u{feff}",
        "\r",
        "\u{0}",
        "/",
        "*",
        "..",
        "---\n",
        "...\n",
        "@",
        "`",
    ];
    let folder = tempfile::tempdir_in("tests/fixtures/config/good").unwrap();
    let file = folder.path().join("mutated.yaml");
    let (mut loaded, mut refused) = (0, 0);
    for name in ["contract", "everything", "least"] {
        let text = fs::read_to_string(format!("tests/fixtures/config/good/{name}.yaml")).unwrap();
        let text = text.replace("../shared", "../../shared");
        for seed in 0..400 {
            let mut random = Random(seed);
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() + 1);
                let end = (at + random.below(12)).min(bytes.len());
                match random.below(4) {
                    0 => drop(bytes.drain(at..end)),
                    1 => {
                        let piece = PIECES[random.below(PIECES.len())];
                        bytes.splice(at..at, piece.bytes());
                    }
                    2 => {
                        let other = random.below(text.len());
                        let taken = &text.as_bytes()[other..(other + 20).min(text.len())];
                        bytes.splice(at..end, taken.iter().copied());
                    }
                    _ => bytes.truncate(at),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            fs::write(&file, &bytes).unwrap();
            match std::panic::catch_unwind(|| config::load(&file)) {
                Ok(Ok(_)) => loaded += 1,
                Ok(Err(errors)) => {
                    refused += 1;
                    for problem in errors.problems() {
                        assert!(problem.place.line > 0 && problem.place.column > 0);
                        assert!(!problem.message.contains('\n'), "{problem}");
                    }
                    assert!(!errors.problems().is_empty());
                }
                Err(panic) => {
                    eprintln!("{name}, seed {seed}: {}", String::from_utf8_lossy(&bytes));
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    // Neither outcome is the only one, or the mutations would test nothing.
    assert!(loaded > 30 && refused > 300, "{loaded} {refused}");
}

#[test]
fn a_file_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.yaml");
    fs::write(&file, vec![b'#'; (4 << 20) + 1]).unwrap();
    let errors = config::load(&file).unwrap_err().to_string();
    assert!(
        errors.ends_with("large.yaml:1:1: this file is larger than 4 MiB"),
        "{errors}"
    );
}
