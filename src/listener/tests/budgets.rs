//! Connections that are refused before they cost anything.

use crate::{
    config::model::Rate,
    listener::{
        conduct::Standing,
        testing::{
            client::{Client, connect, connect_from},
            edge::{Edge, config, plain},
        },
    },
};
use std::{net::IpAddr, time::Duration};
use verdict::prefix::{Prefix, PrefixLengths};

async fn is_served(client: &mut Client) -> bool {
    // Writing to a connection that was reset fails at some point; reading tells for sure.
    use tokio::io::AsyncWriteExt;
    let request = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n";
    if client.wire.write_all(request).await.is_err() {
        return false;
    }
    client
        .answer()
        .await
        .is_some_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let mut config = config(vec![plain()]);
    config.connections.per_client = 2.try_into().ok();
    let edge = Edge::start(config, 2).await;
    let address = edge.addresses[0];
    let mut first = Client::new(connect(address).await);
    let mut second = Client::new(connect(address).await);
    assert!(is_served(&mut first).await);
    assert!(is_served(&mut second).await);
    let mut third = Client::new(connect(address).await);
    assert!(third.rest().await.1, "reset");
    let other: IpAddr = [127, 0, 0, 2].into();
    assert!(is_served(&mut Client::new(connect_from(other, address).await)).await);
    // Ending one makes room.
    first
        .send("GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    first.rest().await;
    drop(first);
    while edge.shared.budget.open() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(is_served(&mut Client::new(connect(address).await)).await);
    drop(second);
    edge.stop().await;
}

#[tokio::test]
async fn a_client_opens_so_many_a_second() {
    let mut config = config(vec![plain()]);
    config.connections.rate_per_client = Some(Rate {
        amount: 3.try_into().unwrap(),
        period: Duration::from_secs(3600),
    });
    let edge = Edge::start(config, 1).await;
    for _ in 0..3 {
        assert!(is_served(&mut Client::new(connect(edge.addresses[0]).await)).await);
    }
    assert!(
        Client::new(connect(edge.addresses[0]).await).rest().await.1,
        "reset"
    );
    edge.stop().await;
}

#[tokio::test]
async fn the_total_and_the_gate_hold() {
    let mut config = config(vec![plain()]);
    config.connections.total = 1.try_into().unwrap();
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    let listed: IpAddr = [127, 0, 0, 66].into();
    assert!(
        Client::new(connect_from(listed, address).await)
            .rest()
            .await
            .1,
        "listed"
    );
    let mut only = Client::new(connect(address).await);
    assert!(is_served(&mut only).await);
    let other: IpAddr = [127, 0, 0, 2].into();
    assert!(
        Client::new(connect_from(other, address).await)
            .rest()
            .await
            .1,
        "total"
    );
    assert!(is_served(&mut only).await, "who is in stays in");
    edge.stop().await;
}

#[tokio::test]
async fn strangers_leave_room_for_those_who_behaved() {
    let mut config = config(vec![plain()]);
    config.connections.total = 8.try_into().unwrap();
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    let regular: IpAddr = [127, 0, 0, 2].into();
    let prefix = Prefix::of(regular, PrefixLengths::CLIENT);
    let conduct = &edge.shared.conduct;
    conduct.good(prefix, &Standing::default(), crate::clock::now());
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(connect(address).await);
    }
    while edge.shared.budget.open() < 7 {
        tokio::task::yield_now().await;
    }
    assert!(Client::new(connect(address).await).rest().await.1, "reset");
    assert!(is_served(&mut Client::new(connect_from(regular, address).await)).await);
    drop(silent);
    edge.stop().await;
}
