//! How connections end: properly, so that the last answer arrives, or by a reset.

use super::{socket, stream::ClientStream};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a client may take to read its last answer and close.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of an unread request that are thrown away meanwhile.
const DISCARDED: usize = 1024 * 1024;

/// Ends a connection: by a reset if it is to be dropped, ran into a deadline, or was left in the midst
/// of an answer (which could look whole if it ended as others do); otherwise flushed,
/// with `close_notify`, and lingering while the client still sends (closing with unread bytes would
/// reset the connection and could take the answer with it).
pub async fn close(mut stream: Box<ClientStream>) {
    if stream.timed_out || stream.is_truncated() || stream.connection().drop.load(Relaxed) {
        socket::reset(stream.into_tcp());
        return;
    }
    let shut = timeout(LINGER, stream.shutdown()).await;
    if stream.ended || !matches!(shut, Ok(Ok(()))) {
        return;
    }
    discard(stream.into_tcp()).await;
}

/// Throws away what the client still sends until it closes, within bounds.
pub async fn discard(mut tcp: TcpStream) {
    let mut left = DISCARDED;
    let discarding = async {
        let mut buffer = vec![0; 4096];
        while left > 0 {
            match tcp.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => left = left.saturating_sub(bytes),
            }
        }
    };
    // Whoever is not done by then loses the rest.
    let _ = timeout(LINGER, discarding).await;
}
