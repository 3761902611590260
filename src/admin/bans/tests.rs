//! What the API keeps to while nobody waits for it.

use super::*;
use crate::{
    admin::{Readiness, tests::state},
    bans::Bans,
};
use std::{future::Future, pin::pin, task::Poll};
use tokio::sync::{oneshot, watch};

#[test]
fn an_import_that_nobody_waits_for_is_still_the_only_one() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (go, gone) = oneshot::channel::<()>();
        // The only thread there is: the import waits for it.
        let first = tokio::task::spawn_blocking(|| gone.blocking_recv());
        let bans = Arc::new(Bans::default());
        let (_, readiness) = watch::channel(Readiness::Ready);
        let state = Arc::new(state(None, &bans, readiness));
        let query = ImportQuery {
            r#for: Some("1h".into()),
            comment: None,
        };
        let peer = Peer("127.0.0.1:1".parse().unwrap());
        let list = Bytes::from_static(b"192.0.2.1\n");
        {
            let importing = import(State(state), Extension(peer), Ok(Query(query)), Ok(list));
            let mut importing = pin!(importing);
            let polled = std::future::poll_fn(|cx| Poll::Ready(importing.as_mut().poll(cx)));
            assert!(polled.await.is_pending());
        }
        assert_eq!(IMPORTS.available_permits(), 0);
        drop(go);
        let _ = first.await.unwrap();
        // The same thread: what it was given before is done.
        tokio::task::spawn_blocking(|| {}).await.unwrap();
        assert_eq!(bans.count(clock::now()), 1);
        assert_eq!(IMPORTS.available_permits(), 1);
    });
}
