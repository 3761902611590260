//! What the tests of several modules need.

use crate::config::model::Certificate;
use rustls::{
    crypto::ring::sign::any_supported_type, pki_types::PrivateKeyDer, sign::CertifiedKey,
};
use std::sync::Arc;

/// A self-signed certificate for these names.
pub fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    Certificate {
        key: Arc::new(CertifiedKey::new(
            vec![made.cert.der().clone()],
            any_supported_type(&key).unwrap(),
        )),
        names,
        not_after: i64::MAX,
    }
}

pub mod client;
pub mod edge;
