//! Verified crawlers: a name in the DNS both ways is believed, a name in a header is not.

#![allow(clippy::float_cmp)] // Counters.

use crate::harness::{Edge, Nginx, wait_until};
use hickory_resolver::proto::{
    op::{Message, OpCode},
    rr::{Name, RData, Record, rdata::PTR},
};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const GOOGLEBOT: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

/// A DNS server with these records.
struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl NameServer {
    /// `reverse`: names of addresses; `forward`: addresses of names.
    fn start(reverse: &[(&str, &str)], forward: &[(&str, &str)]) -> Self {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let name = |text: &str| Name::from_str(text).unwrap();
        let mut records: Vec<Record> = reverse
            .iter()
            .map(|(address, to)| {
                Record::from_rdata(Name::from(ip(address)), 60, RData::PTR(PTR(name(to))))
            })
            .collect();
        records.extend(forward.iter().map(|(from, address)| {
            let data = match ip(address) {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            Record::from_rdata(name(from), 60, data)
        }));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            asked: Arc::default(),
            stop: Arc::default(),
        };
        let (asked, stop) = (Arc::clone(&server.asked), Arc::clone(&server.stop));
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stop.load(SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                let fits = |record: &&Record| {
                    record.name == *query.name() && record.record_type() == query.query_type()
                };
                answer.add_answers(records.iter().filter(fits).cloned());
                asked.fetch_add(1, SeqCst);
                let _ = socket.send_to(&answer.to_vec().unwrap(), from);
            }
        });
        server
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

fn edge(upstream: &Nginx, names: &NameServer) -> Edge {
    Edge::start(&format!(
        "clients: {{ trusted_proxies: [127.0.0.1/32] }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules:\n\
         \x20 - {{ name: private, when: 'client.crawler == \"googlebot\" && request.path.startsWith(\"/private\")', then: deny }}\n\
         \x20 - {{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: proof_of_work }} }}\n\
         challenge:\n\
         \x20 resolver: {}\n\
         \x20 crawlers: {{ googlebot: {{ agent: Googlebot, domains: [googlebot.com, google.com] }} }}\n",
        upstream.address, names.address
    ))
}

fn ask(edge: &Edge, path: &str, agent: &str, ip: &str) -> (u16, bool) {
    let answer = edge
        .get(path)
        .header("user-agent", agent)
        .header("x-forwarded-for", ip)
        .answer();
    let challenged = answer.header("rempart-action") == Some("challenge");
    (answer.status, challenged)
}

#[test]
fn a_verified_crawler_is_not_challenged_and_a_fake_one_is() {
    let upstream = Nginx::start();
    let names = NameServer::start(
        &[
            ("66.249.66.1", "crawl-66-249-66-1.googlebot.com."),
            ("2001:4860:4801:10::1", "crawl-v6.googlebot.com."),
            // A liar, and names that only look alike.
            ("192.0.2.1", "crawl-66-249-66-1.googlebot.com."),
            ("192.0.2.2", "crawl.evilgooglebot.com."),
            ("192.0.2.3", "googlebot.com.evil.example."),
        ],
        &[
            ("crawl-66-249-66-1.googlebot.com.", "66.249.66.1"),
            ("crawl-v6.googlebot.com.", "2001:4860:4801:10::1"),
            ("crawl.evilgooglebot.com.", "192.0.2.2"),
            ("googlebot.com.evil.example.", "192.0.2.3"),
        ],
    );
    let edge = edge(&upstream, &names);
    let challenged = (403, true);
    // Nobody is looked up who does not say that it is one.
    assert_eq!(ask(&edge, "/", "Mozilla/5.0", "66.249.66.1"), challenged);
    assert_eq!(names.asked.load(SeqCst), 0);
    for ip in ["66.249.66.1", "2001:4860:4801:10::1"] {
        // Before it was verified it is anybody.
        assert_eq!(ask(&edge, "/", GOOGLEBOT, ip), challenged, "{ip}");
        wait_until("the crawler verified", 20, || {
            ask(&edge, "/", GOOGLEBOT, ip) == (200, false)
        });
    }
    let fakes = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
    for ip in fakes {
        assert_eq!(ask(&edge, "/", GOOGLEBOT, ip), challenged, "{ip}");
    }
    let looked_up = |result| edge.metric("rempart_crawler_lookups_total", &[("result", result)]);
    wait_until("all four refused", 20, || looked_up("refused") == 4.0);
    for ip in fakes {
        assert_eq!(ask(&edge, "/", GOOGLEBOT, ip), challenged, "{ip}");
    }
    assert_eq!(looked_up("verified"), 2.0);
    assert!(edge.metric("rempart_crawler_requests_total", &[]) >= 2.0);
    // The address alone is not enough either; and rules know the crawler.
    assert_eq!(ask(&edge, "/", "Mozilla/5.0", "66.249.66.1"), challenged);
    assert_eq!(
        ask(&edge, "/private", GOOGLEBOT, "66.249.66.1"),
        (403, false)
    );
    // Nobody is asked twice, and a reload forgets nothing.
    let asked = names.asked.load(SeqCst);
    let before = edge.reloads();
    edge.signal("HUP");
    edge.wait_for_reload_after(before);
    assert_eq!(ask(&edge, "/", GOOGLEBOT, "66.249.66.1"), (200, false));
    assert_eq!(names.asked.load(SeqCst), asked);
}
