//! The head of an HTTP/1 request, as it is judged before anything else sees it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rempart::fuzzing::http1_head(data));
