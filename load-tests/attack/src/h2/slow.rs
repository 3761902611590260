//! Connections and streams held open by doing little or nothing.

use super::{Talk, frame};
use std::{io, sync::atomic::Ordering::Relaxed};

/// Streams that are held on one connection.
const HELD: usize = 16;

/// Large answers, and windows that stay as they were at first.
pub async fn stall(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin_with(&[], false).await?;
    ask(talk).await
}

/// Large answers, and windows that open by a byte now and then.
pub async fn dribble(talk: &mut Talk<'_>) -> io::Result<()> {
    // 64 bytes at first, then one by one.
    talk.begin_with(&[(frame::INITIAL_WINDOW_SIZE, 64)], false)
        .await?;
    ask(talk).await?;
    let streams: Vec<u32> = (1..talk.next_stream).step_by(2).collect();
    talk.flood(|_| {
        let mut out = frame::window_update(0, 1);
        for stream in &streams {
            out.extend_from_slice(&frame::window_update(*stream, 1));
        }
        out
    })
    .await
}

async fn ask(talk: &mut Talk<'_>) -> io::Result<()> {
    let block = talk.get().0;
    let mut out = Vec::new();
    for _ in 0..HELD {
        out.extend_from_slice(&frame::headers(talk.stream(), &block, true));
    }
    talk.say(&out).await
}

pub async fn upload(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let stream = talk.stream();
    let block = talk.post().literal(b"content-length", b"1000000").0;
    talk.say(&frame::headers(stream, &block, false)).await?;
    talk.flood(|_| frame::data(stream, b"a", false)).await
}

/// Stops within a frame of headers, a frame of data, or between HEADERS and CONTINUATION; answers
/// nothing from then on.
pub async fn stuck_frame(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let stream = talk.stream();
    let whole = match talk.context.attack.variant() {
        "data" => {
            let mut out = frame::headers(stream, &talk.post().0, false);
            out.extend_from_slice(&frame::data(stream, &[b'a'; 100], false));
            out.truncate(out.len().saturating_sub(50));
            out
        }
        "header-block" => frame::frame(frame::HEADERS, frame::END_STREAM, stream, &talk.get().0),
        _ => {
            let mut out = frame::headers(stream, &talk.get().0, true);
            out.truncate(out.len() / 2);
            out
        }
    };
    talk.heard.silent.store(true, Relaxed);
    talk.say(&whole).await
}

/// Alive by PING, and nothing else.
pub async fn no_request(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut number = 0_u64;
    talk.flood(|_| {
        number = number.wrapping_add(1);
        frame::ping(number)
    })
    .await
}
