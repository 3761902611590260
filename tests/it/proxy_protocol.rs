//! PROXY v1 and v2: believed from trusted peers, required of them, refused from anyone else.

use crate::harness::{Edge, Upstream, edge::Folder, raw, wait_until};
use std::{io::Write, net::Ipv4Addr};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";

/// Trusts 127.0.0.1 and bans 203.0.113.66 by a list; listener 0 is TLS, listener 1 plaintext.
fn edge(upstream: &Upstream) -> Edge {
    Edge::in_folder(
        Folder::new(),
        &format!(
            "listeners:\n\
             \x20 - address: 127.0.0.1:0\n\
             \x20   tls: {{ certificates: [{{ certificate: tls/app.pem, private_key: tls/app.key }}] }}\n\
             \x20   proxy_protocol: true\n\
             \x20 - {{ address: 127.0.0.1:0, proxy_protocol: true }}\n\
             admin: {{ address: 127.0.0.1:0, token_file: secrets/admin.token }}\n\
             clients: {{ trusted_proxies: [127.0.0.1/32] }}\n\
             lists: {{ blocked: {{ networks: [203.0.113.66/32], then: drop }} }}\n\
             upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
             routes: [{{ name: app, path: /, upstream: app }}]\n",
            upstream.address
        ),
    )
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.1 51000 443\r\n").into_bytes()
}

fn v2(source: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&12_u16.to_be_bytes());
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&[192, 0, 2, 1]);
    header.extend_from_slice(&51000_u16.to_be_bytes());
    header.extend_from_slice(&443_u16.to_be_bytes());
    header
}

fn forwarded_for(upstream: &Upstream) -> String {
    let seen = upstream.seen();
    let last = seen.last().expect("a request");
    last.header("x-forwarded-for")
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn both_versions_name_the_client() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    for header in [v1("203.0.113.7"), v2(Ipv4Addr::new(203, 0, 113, 7))] {
        let mut tcp = raw::connect("127.0.0.1", edge.tls()).unwrap();
        tcp.write_all(&header).unwrap();
        let mut tls = raw::tls(
            tcp,
            "app.example.com",
            &edge.folder.authority,
            &[b"http/1.1"],
        )
        .unwrap();
        assert_eq!(raw::exchange(&mut tls, GET).unwrap().status, 200);
        assert_eq!(forwarded_for(&upstream), "203.0.113.7");
    }
    let mut tcp = raw::connect("127.0.0.1", edge.plain()).unwrap();
    tcp.write_all(&v1("203.0.113.8")).unwrap();
    assert_eq!(raw::exchange(&mut tcp, GET).unwrap().status, 200);
    assert_eq!(forwarded_for(&upstream), "203.0.113.8");
}

#[test]
fn the_named_client_is_the_one_that_is_judged() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    let mut tcp = raw::connect("127.0.0.1", edge.plain()).unwrap();
    tcp.write_all(&v1("203.0.113.66")).unwrap();
    // The edge may close before the request is written: both ends of the same refusal.
    let _ = tcp.write_all(GET);
    assert!(raw::is_closed(&mut tcp));
    assert!(upstream.seen().is_empty());
}

#[test]
fn local_connections_of_the_proxy_itself_are_the_proxys() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec(),
    ] {
        let mut tcp = raw::connect("127.0.0.1", edge.plain()).unwrap();
        tcp.write_all(&header).unwrap();
        assert_eq!(raw::exchange(&mut tcp, GET).unwrap().status, 200);
        assert_eq!(forwarded_for(&upstream), "127.0.0.1");
    }
}

#[test]
fn nobody_else_may_send_one_and_trusted_peers_must() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    let refused = || {
        edge.metric(
            "rempart_connections_refused_total",
            &[("reason", "proxy_header")],
        )
    };
    let cases: [(&str, &str, Vec<u8>); 6] = [
        ("a stranger's header", "127.0.0.2", v1("203.0.113.7")),
        ("none from a trusted peer", "127.0.0.1", Vec::new()),
        (
            "a broken one",
            "127.0.0.1",
            b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
        ),
        (
            "bad addresses",
            "127.0.0.1",
            b"PROXY TCP4 1.2.3.4.5 1.1.1.1 1 2\r\n".to_vec(),
        ),
        (
            "one that never ends",
            "127.0.0.1",
            [b"PROXY TCP4 ".as_slice(), &[b'1'; 400]].concat(),
        ),
        (
            "a v2 length beyond reason",
            "127.0.0.1",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
        ),
    ];
    for (what, source, header) in cases {
        let before = refused();
        let mut answer = Vec::new();
        match raw::connect(source, edge.plain()) {
            Ok(mut tcp) => {
                let _ = tcp.write_all(&header);
                let _ = tcp.write_all(GET);
                let _ = std::io::Read::read_to_end(&mut tcp, &mut answer);
            }
            // The reset may be here before connect() has looked.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}"),
        }
        assert!(
            !String::from_utf8_lossy(&answer).contains("200"),
            "{what} was let in"
        );
        wait_until(&format!("{what} is counted"), 15, || refused() > before);
    }
    assert!(upstream.seen().is_empty());
}
