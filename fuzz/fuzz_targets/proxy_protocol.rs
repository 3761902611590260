//! The PROXY header of whoever connects: anything but a header is refused, nothing panics.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rempart::fuzzing::proxy_protocol(data));
