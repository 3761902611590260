//! The first bytes of a TLS connection, as they are read for the fingerprint.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rempart::fuzzing::client_hello(data));
