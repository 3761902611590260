//! Bans as operators and clients meet them: kept over the process's end, listed, taken out and in as a
//! plain list, fed from files, and never of those who must not be banned.

use crate::{
    harness::{
        Edge, Folder, Upstream,
        edge::{HEAD, command, message, rempart},
        wait_for, wait_until,
    },
    upgrade::Successor,
};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
};

const LIMIT: &str =
    "limits: { once: { key: [client.ip], rate: 1/h, burst: 1, over: { ban: 10m }, all: true } }\n";

fn site(upstream: &Upstream, more: &str) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{more}",
        upstream.address
    )
}

/// `rempart bans ARGUMENTS` for this edge.
fn bans(edge: &Edge, arguments: &[&str]) -> Output {
    let admin = format!("http://{}", edge.admin());
    let token = edge.folder.path("secrets/admin.token");
    let mut all = vec!["bans"];
    all.extend(arguments);
    all.extend(["--admin", &admin, "--token-file", token.to_str().unwrap()]);
    rempart(&all)
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn add_network(edge: &Edge, comment: &str) {
    let network = ["add", "198.51.100.0/24", "--for", "2h", "--comment"];
    said(&bans(edge, &[&network[..], &[comment]].concat()));
}

fn listed(edge: &Edge) -> Value {
    edge.api("/api/bans").answer().json()
}

fn status(edge: &Edge, source: &str) -> u16 {
    edge.get("/").from(source).send().status
}

/// Kills it as nothing can be caught, and starts it again in its folder.
fn killed_and_started(mut edge: Edge) -> Edge {
    edge.signal("KILL");
    assert!(!edge.process().wait(10).success());
    let folder = edge.into_folder();
    let file = folder.path("rempart.yaml");
    Edge::run(folder, &file)
}

fn state_contains(edge: &Edge, text: &str) -> bool {
    fs::read_to_string(edge.folder.path("state/bans")).is_ok_and(|state| state.contains(text))
}

fn folder_with_state() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("state")).unwrap();
    folder
}

#[test]
fn bans_survive_kill_9_and_a_restart() {
    let upstream = Upstream::named("app");
    let yaml = format!(
        "{HEAD}{}bans: {{ state_file: state/bans }}\n",
        site(&upstream, LIMIT)
    );
    let edge = Edge::in_folder(folder_with_state(), &yaml);
    assert_eq!(status(&edge, "127.0.0.8"), 200);
    wait_until("a ban", 15, || status(&edge, "127.0.0.8") == 0);
    add_network(&edge, "scanners");
    said(&bans(&edge, &["add", "203.0.113.7"]));
    said(&bans(&edge, &["remove", "203.0.113.7"]));
    wait_until("the file", 15, || {
        state_contains(&edge, "127.0.0.8/32 ") && state_contains(&edge, " - 203.0.113.7/32")
    });
    let mode = fs::metadata(edge.folder.path("state/bans"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let edge = killed_and_started(edge);
    assert_eq!(status(&edge, "127.0.0.8"), 0);
    assert_eq!(status(&edge, "127.0.0.9"), 200);
    let all = listed(&edge);
    assert_eq!(all["total"], 2, "{all}");
    let by = |prefix: &str| {
        let bans = all["bans"].as_array().unwrap();
        bans.iter()
            .find(|ban| ban["prefix"] == prefix)
            .unwrap()
            .clone()
    };
    let limited = by("127.0.0.8/32");
    assert_eq!(
        (&limited["kind"], &limited["source"]),
        (&"limit".into(), &"once".into())
    );
    assert_eq!(limited["backend"], "user_space");
    assert_eq!(by("198.51.100.0/24")["comment"], "scanners");
    assert!(by("198.51.100.0/24")["seconds_left"].as_u64() > Some(7000));
    let table = said(&bans(&edge, &["list"]));
    assert!(table.contains("limit:once"), "{table}");

    // The last line cut, and something that is none of ours behind it.
    let path = edge.folder.path("state/bans");
    let mut edge = edge;
    edge.signal("KILL");
    edge.process().wait(10);
    let mut text = fs::read(&path).unwrap();
    text.truncate(text.len() - 9);
    text.extend(b"\n\x00\xff{}");
    fs::write(&path, &text).unwrap();
    let folder = edge.into_folder();
    let file = folder.path("rempart.yaml");
    let edge = Edge::run(folder, &file);
    assert!(edge.log().contains("damaged"), "{}", edge.log());
    assert_eq!(
        fs::read(edge.folder.path("state/bans.damaged")).unwrap(),
        text
    );
    assert_eq!(listed(&edge)["total"], 1);
    assert_eq!(status(&edge, "127.0.0.9"), 200);
}

/// Puts so many bans in, kills it, and finds them all again.
#[test]
fn a_hundred_thousand_bans_are_there_again() {
    let upstream = Upstream::named("app");
    let yaml = format!(
        "{HEAD}{}bans: {{ state_file: state/bans }}\n",
        site(&upstream, "")
    );
    let edge = Edge::in_folder(folder_with_state(), &yaml);
    let mut list = String::new();
    for number in 0..100_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let _ = writeln!(list, "11.{a}.{b}.{c}");
    }
    let file = edge.folder.path("list.txt");
    fs::write(&file, list).unwrap();
    let imported = said(&bans(
        &edge,
        &["import", file.to_str().unwrap(), "--for", "3h"],
    ));
    assert_eq!(imported, "100000 bans were placed\n");
    wait_until("the last of them in the file", 60, || {
        fs::read(edge.folder.path("state/bans")).is_ok_and(|state| {
            state
                .iter()
                .filter(|byte| **byte == b'\n')
                .take(100_001)
                .count()
                > 100_000
        })
    });
    let edge = killed_and_started(edge);
    assert_eq!(listed(&edge)["total"], 100_000);
    let log = edge.log();
    let restored = log
        .lines()
        .find_map(|line| message(line, "bans go on"))
        .unwrap();
    println!("restored in {} ms", restored["milliseconds"]);
    // And they go on from process to process: in parts, since they don't fit one message.
    let mut edge = edge;
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    assert!(edge.process().wait(60).success());
    wait_until("the new process's answer", 15, || {
        listed(&edge)["total"] == 100_000
    });
    // The file is the new one's.
    said(&bans(&edge, &["add", "203.0.113.7"]));
    wait_until("its ban in the file", 30, || {
        state_contains(&edge, "203.0.113.7/32 ")
    });
    new.signal("KILL");
    new.wait();
    let folder = edge.into_folder();
    let file = folder.path("rempart.yaml");
    let edge = Edge::run(folder, &file);
    assert_eq!(listed(&edge)["total"], 100_001);
}

#[test]
fn after_a_failed_upgrade_the_file_is_the_old_one_s_again() {
    let upstream = Upstream::named("app");
    let yaml = format!(
        "{HEAD}{}bans: {{ state_file: state/bans }}\n",
        site(&upstream, "")
    );
    let edge = Edge::in_folder(folder_with_state(), &yaml);
    let good = fs::read_to_string(edge.folder.path("rempart.yaml")).unwrap();
    edge.folder.write("rempart.yaml", "listeners: nonsense\n");
    edge.signal("QUIT");
    wait_until("the failure", 30, || {
        edge.log().contains("did not take over")
    });
    edge.folder.write("rempart.yaml", &good);
    said(&bans(&edge, &["add", "203.0.113.7"]));
    wait_until("the ban in the file", 30, || {
        state_contains(&edge, "203.0.113.7/32 ")
    });
}

#[test]
fn a_list_that_is_taken_out_is_taken_in_again_and_is_a_list() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(&upstream, LIMIT));
    assert_eq!(status(&edge, "127.0.0.8"), 200);
    wait_until("a ban", 15, || status(&edge, "127.0.0.8") == 0);
    add_network(&edge, "a # b ; c");
    said(&bans(&edge, &["add", "2001:db8::/48", "--for", "2h"]));
    let exported = said(&bans(&edge, &["export"]));
    assert_eq!(
        exported
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count(),
        3
    );
    assert!(exported.contains(" source limit:once\n"), "{exported}");
    let before = listed(&edge);
    for prefix in ["127.0.0.8", "198.51.100.0/24", "2001:db8::/48"] {
        said(&bans(&edge, &["remove", prefix]));
    }
    assert_eq!(said(&bans(&edge, &["list"])), "nobody is banned\n");

    // From standard input as well.
    let admin = format!("http://{}", edge.admin());
    let token = edge.folder.path("secrets/admin.token");
    let mut import = command()
        .args(["bans", "import", "-", "--admin", &admin, "--token-file"])
        .arg(&token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    import
        .stdin
        .take()
        .unwrap()
        .write_all(exported.as_bytes())
        .unwrap();
    assert_eq!(
        said(&import.wait_with_output().unwrap()),
        "3 bans were placed\n"
    );
    let essence = |list: &Value| {
        let mut bans: Vec<_> = list["bans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ban| ["prefix", "kind", "source", "comment"].map(|key| ban[key].to_string()))
            .collect();
        bans.sort();
        bans
    };
    assert_eq!(essence(&listed(&edge)), essence(&before));

    edge.folder.write("lists/exported.txt", &exported);
    edge.folder.write(
        "listed.yaml",
        &format!(
            "{HEAD}{}lists: {{ bad: {{ file: lists/exported.txt, then: drop }} }}\n",
            site(&upstream, "")
        ),
    );
    let listed = edge.folder.path("listed.yaml");
    said(&rempart(&["check", listed.to_str().unwrap()]));
}

#[test]
fn a_list_with_mistakes_is_taken_in_not_at_all() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(
        &upstream,
        "bans: { never: [203.0.113.0/24] }\nclients: { trusted_proxies: [10.0.0.0/8] }\n",
    ));
    let file = edge.folder.path("list.txt");
    let import = |text: &str| {
        fs::write(&file, text).unwrap();
        let output = bans(&edge, &["import", file.to_str().unwrap(), "--for", "1h"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        import("192.0.2.1\nnobody\n\n192.0.2.2 # until noon\n"),
        "nothing was imported\n\
         line 2: `nobody` is not a network\n\
         line 4: `noon` is not a time like 2026-07-01T10:00:00Z\n"
    );
    assert_eq!(
        import("192.0.2.1\n# a comment\n10.1.1.1\n203.0.113.7\n0.0.0.0/0\n"),
        "nothing was imported\n\
         line 3: 10.1.1.1/32 can't be banned: it would hit 10.0.0.0/8, which is a trusted proxy\n\
         line 4: 203.0.113.7/32 can't be banned: it would hit 203.0.113.0/24, which is in `bans.never`\n\
         line 5: 0.0.0.0/0 can't be banned: it is too wide: at the most /8 in IPv4 and /16 in IPv6\n"
    );
    assert_eq!(listed(&edge)["total"], 0);
    let refused = bans(&edge, &["add", "203.0.0.0/16"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("203.0.113.0/24"), "{text}");
    let nothing = bans(&edge, &["import", "/nonexistent"]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn feeds_of_all_formats_are_read_and_read_again() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    folder.write(
        "lists/drop.txt",
        "; Spamhaus DROP List 2026/07/01\n1.10.16.0/20 ; SBL256894\n127.0.7.0/24 ; SBL1\n",
    );
    folder.write(
        "lists/drop.json",
        "{\"cidr\":\"2.56.192.0/22\",\"sblid\":\"SBL459831\",\"rir\":\"ripencc\"}\n\
         {\"type\":\"metadata\",\"timestamp\":1790000000,\"records\":1}\n",
    );
    folder.write(
        "lists/level1.netset",
        "#\n# firehol_level1\n#\n0.0.0.0/8\n5.134.128.0/19\n",
    );
    let yaml = format!(
        "{HEAD}{}lists:\n\
         \x20 text: {{ file: lists/drop.txt, then: drop }}\n\
         \x20 json: {{ file: lists/drop.json, then: drop }}\n\
         \x20 netset: {{ file: lists/level1.netset, then: drop }}\n\
         bans: {{ feeds: [text, json, netset] }}\n",
        site(&upstream, "")
    );
    let edge = Edge::in_folder(folder, &yaml);
    assert_eq!(status(&edge, "127.0.7.1"), 0);
    assert_eq!(status(&edge, "127.0.8.1"), 200);
    assert_eq!(
        said(&bans(&edge, &["list"])),
        "nobody is banned\n\
         feed text: 2 networks (user_space)\n\
         feed json: 1 networks (user_space)\n\
         feed netset: 2 networks (user_space)\n"
    );
    // As a job does it: a new file in place of the old one.
    edge.folder.write("lists/drop.txt", "127.0.8.0/24 ; SBL2\n");
    wait_until("the new list", 15, || status(&edge, "127.0.8.1") == 0);
    assert_eq!(status(&edge, "127.0.7.1"), 200);
    let feeds = listed(&edge)["feeds"].clone();
    assert_eq!(feeds[0]["networks"], 1, "{feeds}");
    // A file that was cut changes nothing.
    let before = edge.reloads();
    edge.folder.write("lists/drop.json", "{\"cidr\":\"2.56.1\n");
    edge.wait_for_reload_after(before);
    assert!(
        edge.log().contains("is not a line of JSON"),
        "{}",
        edge.log()
    );
    assert_eq!(listed(&edge)["feeds"][1]["networks"], 1);
}

#[test]
fn a_ban_behind_a_proxy_says_so() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&site(
        &upstream,
        &format!("clients: {{ trusted_proxies: [127.0.0.9/32] }}\n{LIMIT}"),
    ));
    let ask = |client: &str| {
        let asked = edge
            .get("/")
            .from("127.0.0.9")
            .header("x-forwarded-for", client);
        asked.send().status
    };
    assert_eq!(ask("203.0.113.7"), 200);
    wait_until("a ban", 15, || ask("203.0.113.7") != 200);
    let ban = wait_for("the ban", 15, || {
        let all = listed(&edge);
        all["bans"].get(0).cloned()
    });
    assert_eq!(ban["prefix"], "203.0.113.7/32");
    assert_eq!(ban["proxied"], true);
    let exported = said(&bans(&edge, &["export"]));
    assert!(
        exported.contains(" source limit:once proxied\n"),
        "{exported}"
    );
    assert_eq!(ask("203.0.113.8"), 200, "others pass");
}

#[test]
fn a_state_file_that_can_t_be_is_told_of() {
    let upstream = Upstream::named("app");
    let yaml = format!(
        "{HEAD}{}bans: {{ state_file: state/bans }}\n",
        site(&upstream, "")
    );
    let edge = Edge::in_folder(folder_with_state(), &yaml);
    // Whatever becomes of the folder: requests are served, and the failure is counted.
    wait_until("the file", 15, || {
        Path::new(&edge.folder.path("state/bans")).exists()
    });
    fs::remove_dir_all(edge.folder.path("state")).unwrap();
    fs::write(edge.folder.path("state"), "").unwrap();
    let mut round = 0_u32;
    wait_until("a failure", 60, || {
        // What is open is written to; a file that has grown is written anew, which fails.
        let [_, a, b, c] = round.to_be_bytes();
        round += 1;
        let mut list = String::new();
        for last in 0..=255 {
            let _ = writeln!(list, "{}.{a}.{b}.{last}", 11 + c % 100);
        }
        let path = edge.folder.path("list.txt");
        fs::write(&path, list.repeat(40)).unwrap();
        said(&bans(
            &edge,
            &["import", path.to_str().unwrap(), "--for", "1h"],
        ));
        edge.metric("rempart_ban_state_failures_total", &[]) > 0.0
    });
    assert!(
        edge.log().contains("bans could not be written"),
        "{}",
        edge.log()
    );
    assert_eq!(status(&edge, "127.0.0.1"), 200);
}
