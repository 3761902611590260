//! The first stage of a request: the generation it will see from start to end, the connection it came
//! in by, the client it counts for, and its id.

use crate::{
    clock,
    connection::Connection,
    edge::Edge,
    exchange::{Arrival, Client},
    identify,
};
use http::HeaderValue;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::{sync::Arc, time::SystemTime};
use uuid::{ContextV7, Timestamp, Uuid};

/// What is known of a request before anything is asked of it.
pub fn arrive(edge: &Edge, session: &Session) -> Result<Arrival> {
    let generation = edge.generation.load_full();
    let Some(connection) = Connection::of(session.digest()) else {
        return Error::e_explain(ErrorType::InternalError, "not a connection of ours");
    };
    let forwarded = session.req_header().headers.get_all("x-forwarded-for");
    let ip = identify::client_address(
        connection.peer.ip(),
        forwarded.iter().map(HeaderValue::as_bytes),
        &generation.trusted,
    );
    let time = SystemTime::now();
    Ok(Arrival {
        began: clock::now(),
        time,
        client: Client::new(ip, generation.config.clients.prefix),
        connection: Arc::clone(connection),
        id: request_id(time),
        generation,
    })
}

/// A new `x-request-id`: a UUID of version 7, so that ids sort by time.
fn request_id(time: SystemTime) -> HeaderValue {
    thread_local! {
        static CONTEXT: ContextV7 = const { ContextV7::new() };
    }
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let id = CONTEXT.with(|context| {
        let time = Timestamp::from_unix(context, since.as_secs(), since.subsec_nanos());
        Uuid::new_v7(time)
    });
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
