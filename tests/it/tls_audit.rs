//! The default listener under the eyes of those who audit servers: sslyze, with Mozilla's intermediate
//! profile as the gate, and `openssl s_client` for what has to be tried by hand.

use crate::harness::{
    Edge, Upstream,
    edge::{Folder, HEAD},
    tools,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::Value;
use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

/// An edge whose certificate is as the profile wants it: ECDSA, good for three months.
fn edge() -> (Edge, Upstream) {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["app.example.com".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = time::OffsetDateTime::now_utc() - Duration::from_secs(24 * 3600);
    params.not_after = params.not_before + Duration::from_secs(90 * 24 * 3600);
    let certificate = folder.authority.sign(&params, &key);
    folder.write("tls/app.pem", &certificate);
    folder.write("tls/app.key", &key.serialize_pem());
    let yaml = format!(
        "{HEAD}connections: {{ per_client: off, rate_per_client: off }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    );
    (Edge::in_folder(folder, &yaml), upstream)
}

#[test]
fn sslyze_finds_nothing_worse_than_mozilla_intermediate() {
    let (edge, _upstream) = edge();
    let json = edge.folder.path("sslyze.json");
    // 0: compliant; anything else is listed in what it says.
    let said = tools::succeed(
        Command::new(tools::venv("sslyze"))
            .args(["--mozilla_config", "intermediate", "--early_data"])
            .args(["--sni", "app.example.com"])
            .arg("--certinfo_ca_file")
            .arg(edge.ca())
            .arg("--json_out")
            .arg(&json)
            .arg(edge.tls().to_string()),
    );
    assert!(said.contains(": OK - Compliant."), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let found = &report["server_scan_results"][0]["scan_result"];
    // The gate above would pass over a scan that reached nothing.
    for (version, supported) in [
        ("ssl_2_0", false),
        ("ssl_3_0", false),
        ("tls_1_0", false),
        ("tls_1_1", false),
        ("tls_1_2", true),
        ("tls_1_3", true),
    ] {
        let suites = &found[format!("{version}_cipher_suites")]["result"];
        assert_eq!(suites["is_tls_version_supported"], supported, "{version}");
        for suite in suites["accepted_cipher_suites"].as_array().unwrap() {
            let name = suite["cipher_suite"]["name"].as_str().unwrap();
            let strong = name.contains("GCM") || name.contains("CHACHA20_POLY1305");
            assert!(strong, "{version}: {name}");
            let forward_secret = version == "tls_1_3" || name.starts_with("TLS_ECDHE_");
            assert!(forward_secret, "{version}: {name}");
        }
    }
    let renegotiation = &found["session_renegotiation"]["result"];
    assert_eq!(renegotiation["supports_secure_renegotiation"], true);
    assert_eq!(
        renegotiation["is_vulnerable_to_client_renegotiation_dos"],
        false
    );
    assert_eq!(
        found["tls_compression"]["result"]["supports_compression"],
        false
    );
    assert_eq!(
        found["tls_1_3_early_data"]["result"]["supports_early_data"],
        false
    );
    assert_eq!(
        found["tls_extended_master_secret"]["result"]["supports_ems_extension"],
        true
    );
}

#[test]
fn a_client_can_not_renegotiate() {
    let (edge, _upstream) = edge();
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-legacy_renegotiation", "-msg"])
        .args(["-servername", "app.example.com", "-connect"])
        .arg(edge.tls().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    // A line that is `R` alone makes s_client ask for another handshake. It is given once the first
    // is done: what comes before that would be read as the same line.
    let output = {
        let waiting = std::thread::spawn(move || client.wait_with_output().unwrap());
        crate::harness::wait_until("a first handshake", 15, || {
            edge.metric("rempart_tls_handshakes_total", &[("result", "full")]) >= 1.0
        });
        // Fails when s_client has gone already, which is as good.
        let _ = input.write_all(b"R\n");
        let _ = input.flush();
        // The input stays open: only the edge ends this.
        let output = waiting.join().unwrap();
        drop(input);
        output
    };
    let said = tools::said(&output);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    // One ServerHello in all, and the second ClientHello was not answered with another.
    assert_eq!(said.matches(", ServerHello\n").count(), 1, "{said}");
    assert_eq!(said.matches(", ClientHello\n").count(), 2, "{said}");
    let handshakes = edge.metric("rempart_tls_handshakes_total", &[]);
    assert!((handshakes - 1.0).abs() < f64::EPSILON, "{handshakes}");
    assert_eq!(edge.get("/").status(), 200);
}

#[test]
fn what_is_too_old_is_refused() {
    let (edge, _upstream) = edge();
    // The library refuses to even try what is weak, unless told so.
    let tries: [&[&str]; 5] = [
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        &[
            "-tls1_2",
            "-cipher",
            "AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0",
        ],
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0",
        ],
        &["-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0"],
    ];
    for arguments in tries {
        let output = tools::run(
            Command::new("openssl")
                .args(["s_client", "-connect", &edge.tls().to_string()])
                .args(arguments)
                .stdin(Stdio::null()),
        );
        let said = tools::said(&output);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("alert"), "{arguments:?}: {said}");
    }
    assert_eq!(edge.get("/").status(), 200);
}
