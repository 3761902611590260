//! A new configuration while requests run: taken whole or not at all, and nobody notices.

use crate::harness::{
    Edge, Nginx, Upstream,
    edge::{Folder, HEAD},
    process::Process,
    raw, wait_until,
};
use std::{fs, os::unix::fs::symlink, path::Path};

fn site(upstream: &Upstream, more: &str) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{more}",
        upstream.address
    )
}

const DENY: &str = "rules: [{ name: no, when: 'request.path == \"/no\"', then: deny }]\n";

#[test]
fn a_changed_file_is_taken() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(&upstream, ""));
    assert_eq!(edge.get("/no").status(), 200);
    edge.reload(&site(&upstream, DENY));
    assert_eq!(edge.get("/no").status(), 403);
}

#[test]
fn sighup_reloads() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(&upstream, ""));
    let before = edge.reloads();
    edge.signal("HUP");
    edge.wait_for_reload_after(before);
    assert_eq!(edge.get("/").status(), 200);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_of() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(&upstream, DENY));
    edge.reload("upstreams: { app: { endpoints: [nonsense] } }\nroutess: []\nlimits: { a: { rate: 5/x } }\n");
    assert_eq!(edge.get("/").status(), 200);
    assert_eq!(edge.get("/no").status(), 403);
    assert!(edge.metric("rempart_config_reloads_total", &[("result", "refused")]) >= 1.0);
    // Every mistake is named, with its place.
    let log = edge.log();
    for mistake in ["nonsense", "routess", "5/x", "rempart.yaml:"] {
        assert!(log.contains(mistake), "{mistake} in {log}");
    }
    // And the next good file is taken again.
    edge.reload(&site(&upstream, ""));
    assert_eq!(edge.get("/no").status(), 200);
}

#[test]
fn counters_survive() {
    let upstream = Upstream::named("app");
    let limit = |burst: u32| {
        format!(
            "limits: {{ per-ip: {{ key: [client.ip], rate: 1/m, burst: {burst}, over: throttle, all: true }} }}\n"
        )
    };
    let edge = Edge::start(&site(&upstream, &limit(2)));
    for _ in 0..4 {
        edge.get("/").status();
    }
    assert_eq!(edge.get("/").status(), 429);
    edge.reload(&site(&upstream, &format!("{}{DENY}", limit(2))));
    assert_eq!(
        edge.get("/no").from("127.0.0.9").status(),
        403,
        "it is in force"
    );
    assert_eq!(edge.get("/").status(), 429, "a reload forgives nothing");
    assert!(edge.metric("rempart_requests_total", &[("status", "429")]) >= 2.0);
}

#[test]
fn lists_reload_alone() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    folder.write("lists/blocked.txt", "# nobody yet\n");
    let yaml = format!(
        "{HEAD}{}",
        site(
            &upstream,
            "lists: { blocked: { file: lists/blocked.txt, then: deny } }\n"
        )
    );
    let edge = Edge::in_folder(folder, &yaml);
    assert_eq!(edge.get("/").status(), 200);
    edge.folder
        .write("lists/blocked.txt", "127.0.0.0/8 # everyone\n");
    wait_until("the list in force", 15, || {
        edge.get("/").send().status != 200
    });
    let before = edge.metric("rempart_config_reloads_total", &[("result", "refused")]);
    edge.folder.write("lists/blocked.txt", "127.0.0.0/99\n");
    wait_until("the refusal", 15, || {
        edge.metric("rempart_config_reloads_total", &[("result", "refused")]) > before
    });
    assert!(edge.log().contains("blocked.txt:1"), "{}", edge.log());
    assert_ne!(edge.get("/").send().status, 200);
}

/// The serial number of the certificate that is served.
fn certificate(edge: &Edge) -> Vec<u8> {
    let tls = edge.connect("127.0.0.1");
    tls.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_reload_without_a_dropped_connection() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(&upstream, ""));
    let mut open = edge.connect("127.0.0.1");
    let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
    assert_eq!(raw::exchange(&mut open, get).unwrap().status, 200);
    let old = certificate(&edge);
    edge.folder
        .certificate("app", &["app.example.com", "localhost", "127.0.0.1"]);
    wait_until("the new certificate", 15, || certificate(&edge) != old);
    assert_eq!(
        raw::exchange(&mut open, get).unwrap().status,
        200,
        "still open"
    );

    // A key that does not fit is refused; the certificate in force stays.
    let good = certificate(&edge);
    let before = edge.metric("rempart_config_reloads_total", &[("result", "refused")]);
    let stranger = edge.folder.authority.pair(&["app.example.com"]);
    edge.folder.write("tls/app.key", &stranger.key_pem);
    wait_until("the refusal", 15, || {
        edge.metric("rempart_config_reloads_total", &[("result", "refused")]) > before
    });
    assert_eq!(certificate(&edge), good);
}

/// Lays files out as Kubernetes mounts a ConfigMap: `..data` points to a dated folder, and the
/// visible names point through it.
fn config_map(mount: &Path, version: &str, yaml: &str) {
    let dated = mount.join(format!("..{version}"));
    fs::create_dir(&dated).unwrap();
    fs::write(dated.join("rempart.yaml"), yaml).unwrap();
    let link = mount.join("..data_tmp");
    symlink(format!("..{version}"), &link).unwrap();
    fs::rename(&link, mount.join("..data")).unwrap();
    let visible = mount.join("rempart.yaml");
    if !visible.exists() {
        symlink("..data/rempart.yaml", visible).unwrap();
    }
}

#[test]
fn a_config_map_that_kubernetes_swaps_is_seen() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    let mount = folder.path("mount");
    fs::create_dir(&mount).unwrap();
    let tls = HEAD
        .replace("tls/", "../tls/")
        .replace("secrets/", "../secrets/");
    config_map(
        &mount,
        "2026_01_01",
        &format!("{tls}{}", site(&upstream, "")),
    );
    let edge = Edge::run(folder, &mount.join("rempart.yaml"));
    assert_eq!(edge.get("/no").status(), 200);
    for (version, more, status) in [("2026_01_02", DENY, 403), ("2026_01_03", "", 200)] {
        config_map(&mount, version, &format!("{tls}{}", site(&upstream, more)));
        wait_until(&format!("version {version}"), 15, || {
            edge.get("/no").send().status == status
        });
    }
}

#[test]
fn not_one_request_fails_while_everything_changes() {
    let upstream = Nginx::start();
    let yaml = |more: &str| {
        format!(
            "clients: {{ trusted_proxies: [127.0.0.0/8] }}\n\
             connections: {{ per_client: off, rate_per_client: off }}\n\
             upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
             routes: [{{ name: app, path: /, upstream: app }}]\n{more}",
            upstream.address
        )
    };
    let edge = Edge::start(&yaml(""));
    let environment = [("DURATION", "5s"), ("RATE", "25")];
    let mut k6 = Process::start(&mut crate::load::k6(&edge, "reload.js", &environment));
    wait_until("load", 20, || upstream.requests().len() > 5);
    let mut reloads = 0;
    while k6.ended().is_none() {
        reloads += 1;
        match reloads % 3 {
            0 => edge
                .folder
                .certificate("app", &["app.example.com", "localhost", "127.0.0.1"]),
            1 => edge.signal("HUP"),
            _ => edge.reload(&yaml(if reloads % 2 == 0 { DENY } else { "" })),
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let status = k6.wait(30);
    assert!(
        status.success(),
        "{}\n{}",
        k6.stdout().join("\n"),
        k6.stderr().join("\n")
    );
    assert!(reloads >= 5, "{reloads} reloads");
    assert!(
        upstream.requests().len() > 100,
        "{}",
        upstream.requests().len()
    );
    assert!(edge.metric("rempart_config_reloads_total", &[("result", "taken")]) >= 5.0);
}
