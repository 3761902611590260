//! The frames of an HTTP/2 client, as they are counted against it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rempart::fuzzing::http2_frames(data));
