//! PROXY protocol and the redirecting listener.

use crate::{
    config::model::{Listener, ListenerKind},
    listener::testing::{
        certificate,
        client::{Client, client_config, connect, connect_from, handshake},
        edge::{Edge, config, plain, tls},
    },
};
use std::net::IpAddr;
use tokio::io::AsyncWriteExt;

const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x30\x39\x01\xbb";

fn behind_a_balancer(listener: Listener) -> Listener {
    Listener {
        proxy_protocol: true,
        ..listener
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let certificate = certificate(&["app.test"]);
    let listeners = vec![
        behind_a_balancer(tls(vec![certificate.clone()])),
        behind_a_balancer(plain()),
    ];
    let mut config = config(listeners);
    // As it may be written for a dual-stack socket.
    config.clients.trusted_proxies = vec![
        "::ffff:127.0.0.9/128".parse().unwrap(),
        "203.0.113.0/24".parse().unwrap(),
    ];
    config.connections.per_client = 1.try_into().ok();
    let edge = Edge::start(config, 1).await;
    let balancer: IpAddr = [127, 0, 0, 9].into();

    let mut tcp = connect_from(balancer, edge.addresses[0]).await;
    tcp.write_all(V2).await.unwrap();
    let trusting = client_config(&[&certificate], &["http/1.1"]);
    let mut client = Client::new(handshake(tcp, "app.test", &trusting).await.unwrap());
    assert_eq!(
        client.get("/who").await.unwrap().body,
        "192.0.2.7 1.3 app.test http/1.1"
    );

    // The budget is the client's, not the balancer's.
    let proxied = async |header: &str| {
        let mut client = Client::new(connect_from(balancer, edge.addresses[1]).await);
        client.send(header).await;
        client
    };
    let mut same = proxied("PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\n").await;
    assert!(same.rest().await.1, "one connection is open already");
    let mut other = proxied("PROXY TCP4 192.0.2.8 198.51.100.1 1 443\r\n").await;
    assert_eq!(other.get("/who").await.unwrap().body, "192.0.2.8   ");
    let mut listed = proxied("PROXY TCP4 127.0.0.66 198.51.100.1 1 443\r\n").await;
    assert!(listed.rest().await.1, "listed");
    // A network of proxies behind the balancer brings many, as one in front of none does.
    let mut edges = Vec::new();
    for _ in 0..3 {
        let mut edge = proxied("PROXY TCP4 203.0.113.5 198.51.100.1 1 443\r\n").await;
        assert_eq!(edge.get("/who").await.unwrap().body, "203.0.113.5   ");
        edges.push(edge);
    }
    drop(edges);
    let mut health_check = proxied("PROXY UNKNOWN\r\n").await;
    assert_eq!(health_check.get("/who").await.unwrap().body, "127.0.0.9   ");

    // A trusted one without a header, and anyone else with one.
    let mut bare = proxied("GET /who HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(bare.rest().await.1, "no header");
    let stranger = connect(edge.addresses[1]).await;
    assert!(Client::new(stranger).rest().await.1, "not trusted");
    edge.stop().await;
}

#[tokio::test]
async fn without_the_setting_a_header_is_garbage() {
    let mut config = config(vec![plain()]);
    config.clients.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let edge = Edge::start(config, 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    client
        .send("PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\nGET /who HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 400);
    edge.stop().await;
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let redirect = Listener {
        kind: ListenerKind::Redirect,
        ..plain()
    };
    let edge = Edge::start(config(vec![redirect]), 1).await;
    for (request, status, location) in [
        (
            "GET /a?b HTTP/1.1\r\nhost: app.test:8080\r\n\r\n",
            308,
            Some("https://app.test/a?b"),
        ),
        ("GET /a HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, None),
        ("GET /a HTTP/1.1\r\n\r\n", 400, None),
    ] {
        let mut client = Client::new(connect(edge.addresses[0]).await);
        client.send(request).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.header("location")),
            (status, location)
        );
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
        assert!(client.rest().await.0.is_empty());
    }
    edge.stop().await;
}

#[tokio::test]
async fn who_was_redirected_and_does_not_close_was_not_late() {
    let redirect = Listener {
        kind: ListenerKind::Redirect,
        ..plain()
    };
    let mut config = config(vec![redirect]);
    // Less than is waited for the client to close, and long for a request that is there.
    config.connections.timeouts.headers = std::time::Duration::from_secs(1);
    let edge = Edge::start(config, 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 308);
    while edge.shared.budget.open() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let late = || {
        let reason = "rempart_connections_refused_total{reason=\"timeout\"} ";
        let metrics = edge.shared.metrics.render();
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix(reason));
        count.unwrap_or("0").to_owned()
    };
    assert_eq!(late(), "0");
    // And one that begins to ask and does not end is.
    let mut slow = Client::new(connect(edge.addresses[0]).await);
    slow.send("GET /a").await;
    slow.rest().await;
    assert_eq!(late(), "1");
    drop(client);
    edge.stop().await;
}
