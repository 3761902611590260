//! What a panic ends: the request or the connection that it came in, and a worker whose accept loop
//! it came in.

use crate::listener::testing::{
    client::{Client, PATIENCE, connect, connect_from},
    edge::{Edge, config, plain},
};
use tokio::time::timeout;

fn panics(edge: &Edge) -> Option<String> {
    let metrics = edge.shared.metrics.render();
    let mut lines = metrics.lines();
    lines
        .find_map(|line| line.strip_prefix("rempart_panics_total "))
        .map(ToOwned::to_owned)
}

#[tokio::test]
async fn a_panic_ends_one_http1_connection_and_is_counted_once() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let mut bystander = Client::new(connect(edge.addresses[0]).await);
    assert_eq!(bystander.get("/1").await.unwrap().status, 200);
    let mut panicking = Client::new(connect(edge.addresses[0]).await);
    assert_eq!(panicking.get("/1").await.unwrap().status, 200);
    assert!(panicking.get("/panic").await.is_none());
    assert_eq!(bystander.get("/2").await.unwrap().status, 200);
    assert_eq!(panics(&edge).as_deref(), Some("1"));
    assert_eq!(edge.shared.budget.open(), 1, "its place was given back");
    drop(bystander);
    edge.stop().await;
}

#[tokio::test]
async fn a_panic_ends_one_http2_stream_and_spares_the_others() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let wire = connect(edge.addresses[0]).await;
    let (mut client, connection) = h2::client::handshake(wire).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = http::Request::get(format!("http://app.test{path}"));
        let request = request.body(()).unwrap();
        client.send_request(request, true).unwrap().0
    };
    let (slow, panicking) = (ask("/slow"), ask("/panic"));
    assert!(panicking.await.unwrap_err().is_reset());
    assert_eq!(slow.await.unwrap().status(), 200, "begun before the panic");
    assert_eq!(ask("/after").await.unwrap().status(), 200);
    assert_eq!(panics(&edge).as_deref(), Some("1"));
    drop(client);
    driver.await.unwrap().unwrap();
    edge.stop().await;
}

#[tokio::test]
async fn a_panic_of_a_stream_that_outlives_its_connection_is_counted_once() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let wire = connect(edge.addresses[0]).await;
    let (mut client, connection) = h2::client::handshake(wire).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = http::Request::get(format!("http://app.test{path}"));
        let request = request.body(()).unwrap();
        client.send_request(request, true).unwrap().0
    };
    let late = ask("/panic/late");
    assert_eq!(ask("/after").await.unwrap().status(), 200, "both are begun");
    drop((late, client));
    driver.abort();
    timeout(PATIENCE, async {
        while edge.shared.budget.open() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the last of the connection goes");
    assert_eq!(panics(&edge).as_deref(), Some("1"));
    edge.stop().await;
}

#[tokio::test]
async fn an_accept_loop_that_dies_ends_its_worker() {
    let mut edge = Edge::start(config(vec![plain(), plain()]), 1).await;
    let mut bystander = Client::new(connect(edge.addresses[1]).await);
    assert_eq!(bystander.get("/1").await.unwrap().status, 200);
    let worker = edge.workers.remove(0);
    let hostile = connect_from([127, 0, 0, 77].into(), edge.addresses[0]).await;
    // Though the other listener could go on, and a connection is open.
    let ended = timeout(PATIENCE, worker).await.expect("the worker ends");
    let error = ended.unwrap().unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
    drop(hostile);
}
