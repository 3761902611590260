//! What fuzz targets call: one function for each kind of bytes that a peer sends. Each holds the code
//! to what must be true of any input, and panics when it is not. Not part of the interface.

pub use crate::listener::{
    client_hello::fuzzing::client_hello,
    fuzzing::{http1_head, proxy_protocol},
    http2::fuzzing::http2_frames,
};
