//! Crawlers, with a name server of the tests.

use super::*;
use crate::{clock, forward::testing::NameServer};
use http::HeaderValue;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

const GOOGLEBOT: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

fn spec() -> Vec<model::Crawler> {
    let crawler = |name: &str, agent: &str, domains: &[&str]| model::Crawler {
        name: name.into(),
        agent: agent.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
    };
    vec![
        crawler("bingbot", "bingbot", &["search.msn.com"]),
        crawler("googlebot", "Googlebot", &["googlebot.com", "google.com"]),
    ]
}

struct Trial {
    server: NameServer,
    crawlers: Crawlers,
    results: Arc<Mutex<Vec<&'static str>>>,
    sheds: Arc<AtomicUsize>,
}

impl Trial {
    async fn start() -> Self {
        let server = NameServer::start().await;
        let results: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let sheds: Arc<AtomicUsize> = Arc::default();
        let (told, shed) = (Arc::clone(&results), Arc::clone(&sheds));
        let count: Count = Arc::new(move |result| {
            if result == "shed" {
                shed.fetch_add(1, Relaxed);
            } else {
                told.lock().push(result);
            }
        });
        let resolver = TokioResolver::clone(&server.resolver());
        let shared = Shared::new(&spec(), None, resolver, &Handle::current(), &count);
        Self {
            crawlers: Crawlers::over(Arc::new(shared)),
            server,
            results,
            sheds,
        }
    }

    fn ask(&self, agent: &str, ip: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_str(agent).unwrap());
        let name = self
            .crawlers
            .identify(&headers, ip.parse().unwrap(), clock::now());
        name.to_owned()
    }

    /// The result of the one lookup that this causes, and the name that follows from it.
    async fn settle(&self, agent: &str, ip: &str) -> (&'static str, String) {
        let before = self.results.lock().len();
        assert_eq!(self.ask(agent, ip), "", "exempt before it was verified");
        let waiting = async {
            while self.results.lock().len() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = tokio::time::timeout(Duration::from_secs(20), waiting);
        assert!(limit.await.is_ok(), "no lookup for {ip}");
        // The result is counted just before it is kept.
        let mut answer = self.ask(agent, ip);
        for _ in 0..200 {
            if !answer.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            answer = self.ask(agent, ip);
        }
        (self.results.lock()[before], answer)
    }
}

#[tokio::test]
async fn a_real_one_is_verified_both_ways() {
    let trial = Trial::start().await;
    let name = "crawl-66-249-66-1.googlebot.com.";
    trial.server.set_reverse("66.249.66.1", &[name]);
    trial.server.set(name, &["66.249.66.1"], 60);
    let settled = trial.settle(GOOGLEBOT, "66.249.66.1").await;
    assert_eq!(settled, ("verified", "googlebot".to_owned()));
    // No further question, also for the same address written as IPv6.
    let asked = trial.server.asked();
    assert_eq!(trial.ask(GOOGLEBOT, "::ffff:66.249.66.1"), "googlebot");
    assert_eq!(trial.server.asked(), asked);
    // It is Google's address; that makes it nobody else's crawler, and no crawler without its name.
    assert_eq!(trial.ask("bingbot/2.0", "66.249.66.1"), "");
    assert_eq!(trial.ask("curl/8", "66.249.66.1"), "");
}

#[tokio::test]
async fn one_of_ipv6_is_verified_too() {
    let trial = Trial::start().await;
    let ip = "2001:4860:4801:10::1";
    trial
        .server
        .set_reverse(ip, &["crawl-1.googlebot.com.", "also.elsewhere.example."]);
    trial.server.set("crawl-1.googlebot.com.", &[ip], 60);
    let settled = trial.settle(GOOGLEBOT, ip).await;
    assert_eq!(settled, ("verified", "googlebot".to_owned()));
}

#[tokio::test]
async fn whoever_names_itself_so_is_not_believed() {
    let trial = Trial::start().await;
    // The liar's own reverse zone says what it likes; the forward zone is not its own.
    trial
        .server
        .set_reverse("192.0.2.1", &["crawl-1.googlebot.com."]);
    trial
        .server
        .set("crawl-1.googlebot.com.", &["66.249.66.1"], 60);
    // Names that look like one of the domain, and do lead back.
    for (ip, name) in [
        ("192.0.2.2", "x.evilgooglebot.com."),
        ("192.0.2.3", "googlebot.com.evil.example."),
        ("192.0.2.4", "x.googlebot.com.evil.example."),
        ("192.0.2.5", r"x\.googlebot.com."),
        ("192.0.2.6", "com."),
    ] {
        trial.server.set_reverse(ip, &[name]);
        trial.server.set(name, &[ip], 60);
    }
    // A name that leads nowhere, and no name at all.
    trial
        .server
        .set_reverse("192.0.2.7", &["none.googlebot.com."]);
    for last in 1..=8 {
        let ip = format!("192.0.2.{last}");
        let settled = trial.settle(GOOGLEBOT, &ip).await;
        assert_eq!(settled, ("refused", String::new()), "{ip}");
    }
}

#[tokio::test]
async fn a_hostile_answer_is_followed_for_a_few_names_only() {
    let trial = Trial::start().await;
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.googlebot.com.")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    trial.server.set_reverse("192.0.2.1", &names);
    let settled = trial.settle(GOOGLEBOT, "192.0.2.1").await;
    assert_eq!(settled, ("refused", String::new()));
    assert!(
        trial.server.asked() <= 1 + 4 * 2,
        "{}",
        trial.server.asked()
    );
}

#[tokio::test]
async fn a_failing_server_makes_nobody_a_crawler() {
    let trial = Trial::start().await;
    trial.server.fail(true);
    let settled = trial.settle(GOOGLEBOT, "66.249.66.1").await;
    assert_eq!(settled, ("failed", String::new()));
    let asked = trial.server.asked();
    assert_eq!(trial.ask(GOOGLEBOT, "66.249.66.1"), "");
    assert_eq!(trial.server.asked(), asked, "asked again at once");
}

#[tokio::test]
async fn a_flood_of_fakes_causes_few_lookups() {
    let trial = Trial::start().await;
    for n in 0..20_000_u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        assert_eq!(trial.ask(GOOGLEBOT, &ip), "");
    }
    // Nobody else runs on this thread meanwhile: those that were begun are all that are in flight.
    assert_eq!(trial.sheds.load(Relaxed), 20_000 - flights::IN_FLIGHT);
    assert_eq!(trial.crawlers.shared.table.len(), flights::IN_FLIGHT);
}

#[tokio::test]
async fn a_network_of_fakes_leaves_room_for_a_crawler() {
    let trial = Trial::start().await;
    let name = "crawl-1.googlebot.com.";
    trial.server.set_reverse("66.249.66.1", &[name]);
    trial.server.set(name, &["66.249.66.1"], 60);
    // A /24 and a /48, with as many addresses as they like.
    for n in 0..2000_u128 {
        let v6 = std::net::Ipv6Addr::from((0x2001_0db8_0001_u128 << 80) | n);
        trial.ask(GOOGLEBOT, &v6.to_string());
        trial.ask(GOOGLEBOT, &format!("192.0.2.{}", n % 256));
    }
    let flown = 2 * flights::IN_FLIGHT_OF_NETWORK;
    assert_eq!(trial.crawlers.shared.table.len(), flown);
    let known = async {
        while trial.ask(GOOGLEBOT, "66.249.66.1").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(20), known);
    assert!(limit.await.is_ok(), "the crawler found no place");
}

#[tokio::test]
async fn a_crawler_keeps_its_standing_while_the_dns_is_silent() {
    const DAY: Duration = Duration::from_secs(86_400);
    let trial = Trial::start().await;
    let ip: IpAddr = "66.249.66.1".parse().unwrap();
    let table = &trial.crawlers.shared.table;
    table.learn(ip, lookup::Found::Verified(2), clock::now());
    trial.server.fail(true);
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(GOOGLEBOT));
    let ask = |later: Duration| {
        let now = clock::now().after(later);
        trial.crawlers.identify(&headers, ip, now).to_owned()
    };
    assert_eq!(ask(Duration::ZERO), "googlebot");
    assert_eq!(trial.server.asked(), 0);
    assert_eq!(ask(DAY), "googlebot");
    let failed = async {
        while trial.results.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(20), failed);
    assert!(limit.await.is_ok(), "not looked up again");
    assert_eq!(*trial.results.lock(), ["failed"]);
    assert_eq!(ask(DAY * 3 / 2), "googlebot");
    assert_eq!(ask(DAY * 2), "");
}
