//! Deadlines and accounts of a stream, read and written over a real socket.

use super::*;
use crate::{connection::Progress, listener::conduct::Standing};
use socket2::SockRef;
use std::{pin::Pin, sync::atomic::AtomicBool};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    body_minimum_rate: 1024,
    body_grace: SECOND,
    response_minimum_rate: 1024,
    response_grace: Duration::from_secs(60),
    stream_idle: Duration::from_secs(60),
};

/// A connection, with a request in service whose body is `body`; and the client's end of it.
async fn served(body: Body) -> (ClientStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (tcp, peer) = listener.accept().await.unwrap();
    // Little is taken at a time.
    SockRef::from(&tcp).set_send_buffer_size(16 * 1024).unwrap();
    let connection = Connection {
        proxied: false,
        listener: "test".into(),
        peer,
        local: address,
        tls: None,
        drop: AtomicBool::default(),
        standing: Standing::default(),
        progress: Progress::default(),
    };
    let transport = Transport::Plain(tcp);
    let mut stream = ClientStream::new(transport, Arc::new(connection), None, LIMITS);
    let framing = Framing {
        body,
        bodiless_answer: false,
        events: false,
        expects: false,
    };
    stream.begin(&framing, LIMITS);
    (stream, client)
}

/// Polls a write once.
async fn try_write(stream: &mut ClientStream, data: &[u8]) -> Option<usize> {
    std::future::poll_fn(|cx| {
        let written = Pin::new(&mut *stream).poll_write(cx, data);
        Poll::Ready(match written {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        })
    })
    .await
}

/// Fills all buffers below the stream: how many bytes they took.
async fn block(stream: &mut ClientStream) -> usize {
    let mut taken = 0;
    loop {
        let result = std::future::poll_fn(|cx| {
            Poll::Ready(match stream.poll_transport_write(cx, &[b'x'; 4096]) {
                Poll::Ready(written) => Some(written.unwrap()),
                Poll::Pending => None,
            })
        })
        .await;
        match result {
            Some(written) => taken += written,
            None => return taken,
        }
    }
}

#[tokio::test]
async fn a_head_that_is_written_in_pieces_is_no_part_of_the_body() {
    let head = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 5\r\n\r\n",
        "a".repeat(2 * 1024 * 1024)
    );
    let (mut stream, mut client) = served(Body::None).await;
    let filled = block(&mut stream).await;
    assert_eq!(try_write(&mut stream, head.as_bytes()).await, None);
    assert!(stream.is_unanswered(), "nothing of it was written");
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.map(|_| read.len())
    });
    let mut pieces = 0;
    let mut left = head.as_bytes();
    while !left.is_empty() {
        let written = stream.write(left).await.unwrap();
        left = left.split_off(written..).unwrap();
        pieces += 1;
        assert!(stream.is_truncated(), "{} left", left.len());
    }
    assert!(pieces > 1, "it was taken in one piece");
    stream.write_all(b"hell").await.unwrap();
    assert!(stream.is_truncated());
    stream.write_all(b"o").await.unwrap();
    assert!(!stream.is_truncated());
    stream.shutdown().await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), filled + head.len() + 5);
}

#[tokio::test]
async fn a_client_is_not_waited_for_while_it_is_written_to() {
    let (mut stream, _client) = served(Body::Length(10)).await;
    tokio::time::pause();
    let read = async |stream: &mut ClientStream| {
        let mut buffer = [0; 16];
        std::future::poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            Poll::Ready(match read {
                Poll::Ready(read) => Some(read.map_err(|error| error.kind())),
                Poll::Pending => None,
            })
        })
        .await
    };
    assert_eq!(read(&mut stream).await, None);
    tokio::time::advance(SECOND / 2).await;
    block(&mut stream).await;
    tokio::time::advance(10 * SECOND).await;
    // Half of its time is left.
    assert_eq!(read(&mut stream).await, None);
    assert_eq!(stream.fault, None);
    tokio::time::advance(SECOND).await;
    let late = read(&mut stream).await;
    assert_eq!(late, Some(Err(io::ErrorKind::TimedOut)));
    assert_eq!(stream.fault, Some("slow_body"));
}
