//! All bans as a plain list, written as fast as it is read: a million of them never stand in memory.

use crate::{
    admin::{AdminState, problem::Problem},
    bans::plain,
    clock,
};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use hyper::body::Frame;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};
use tokio::sync::{
    Semaphore,
    mpsc::{Receiver, Sender, channel},
};

/// Bytes that are sent together.
const CHUNK: usize = 64 << 10;
/// Each takes a thread for as long as its reader takes.
static EXPORTS: Semaphore = Semaphore::const_new(4);

pub(super) async fn export(State(state): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let Ok(place) = EXPORTS.try_acquire() else {
        let busy = "bans are being exported several times at once: try again when that is done";
        return Err(Problem::new(axum::http::StatusCode::CONFLICT, busy));
    };
    let (sender, receiver) = channel(4);
    tokio::task::spawn_blocking(move || {
        // A reader that left ends it.
        let _ = write(&state, &sender);
        drop(place);
    });
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((headers, Body::new(Chunks(receiver))).into_response())
}

fn write(state: &AdminState, to: &Sender<Bytes>) -> Result<(), ()> {
    let (now, wall) = (clock::now(), SystemTime::now());
    let mut text =
        String::from("# Bans of Rempart. `rempart bans import` reads them, and so do lists.\n");
    state.bans.each_ban(now, |bans| {
        for ban in &bans {
            plain::line(ban, now, wall, &mut text);
            if text.len() >= CHUNK {
                to.blocking_send(std::mem::take(&mut text).into())
                    .map_err(drop)?;
            }
        }
        Ok::<_, ()>(())
    })?;
    to.blocking_send(text.into()).map_err(drop)
}

struct Chunks(Receiver<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.0.poll_recv(context);
        chunk.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
