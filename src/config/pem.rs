//! PEM files (RFC 7468) as blocks that know their lines, and the certificates and keys in them.

use super::{
    decode::{Context, quote},
    files::{self, File},
    problem::Place,
    yaml::Node,
};
use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// One `-----BEGIN …` to `-----END …`.
struct Block {
    label: String,
    line: usize,
    der: Vec<u8>,
}

/// A certificate chain, and what its first certificate says.
pub struct Chain {
    pub certificates: Vec<CertificateDer<'static>>,
    /// DNS names, lower case.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// All blocks of a file. Text around them is ignored, as RFC 7468 has it.
fn blocks(ctx: &mut Context, file: &File) -> Option<Vec<Block>> {
    if file.bytes.first() == Some(&0x30) && file.bytes.get(1).is_some_and(|byte| *byte >= 0x80) {
        return ctx.fail(
            &Place::top(&file.name),
            "this looks like DER; convert it to PEM with `openssl x509 -inform der` \
             or `openssl pkey -inform der`",
        );
    }
    let text = file.text(ctx)?;
    let mut found = Vec::new();
    let mut open: Option<(String, usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index.saturating_add(1);
        let line = line.trim();
        let place = Place::new(&file.name, number, 1);
        if let Some(label) = delimiter(line, "-----BEGIN ") {
            if let Some((label, line, _)) = open.take() {
                return ctx.fail(
                    &Place::new(&file.name, line, 1),
                    format!("`-----BEGIN {label}-----` without its `-----END {label}-----`"),
                );
            }
            open = Some((label.to_owned(), number, String::new()));
        } else if let Some(label) = delimiter(line, "-----END ") {
            let Some((begun, line, body)) = open.take() else {
                return ctx.fail(
                    &place,
                    format!("`-----END {label}-----` without its `-----BEGIN {label}-----`"),
                );
            };
            if begun != label {
                return ctx.fail(
                    &place,
                    format!("`-----END {label}-----` ends what began as `{begun}`"),
                );
            }
            match base64::engine::general_purpose::STANDARD.decode(&body) {
                Ok(der) => found.push(Block {
                    label: begun,
                    line,
                    der,
                }),
                Err(_) => {
                    return ctx.fail(
                        &Place::new(&file.name, line, 1),
                        format!("the base64 of this {begun} is cut off or damaged"),
                    );
                }
            }
        } else if let Some((label, _, body)) = &mut open {
            if line.contains(':') && line.contains("ENCRYPTED") {
                return ctx.fail(&place, ENCRYPTED);
            }
            let bad = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='));
            if let Some(at) = line.chars().position(bad) {
                let place = Place::new(&file.name, number, at.saturating_add(1));
                return ctx.fail(
                    &place,
                    format!("this character does not belong into the base64 of a {label}"),
                );
            }
            body.push_str(line);
        }
    }
    if let Some((label, line, _)) = open {
        return ctx.fail(
            &Place::new(&file.name, line, 1),
            format!("`-----BEGIN {label}-----` without its `-----END {label}-----`"),
        );
    }
    Some(found)
}

const ENCRYPTED: &str = "this key is locked with a passphrase; Rempart needs it unlocked \
                         (`openssl pkey -in KEY -out KEY.unlocked`)";

fn delimiter<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

fn labels(blocks: &[Block]) -> String {
    match blocks.first() {
        None => "nothing in PEM (`-----BEGIN …`)".into(),
        Some(block) => format!("a {}", block.label),
    }
}

/// A file of certificates, the end entity's first.
pub fn chain(ctx: &mut Context, node: &Node) -> Option<Chain> {
    let file = files::read(ctx, node, files::SMALL)?;
    let blocks = blocks(ctx, &file)?;
    let is_certificate = |block: &&Block| block.label == "CERTIFICATE";
    if !blocks.iter().any(|block| is_certificate(&block)) {
        return ctx.fail(
            &Place::top(&file.name),
            format!(
                "expected `-----BEGIN CERTIFICATE-----`, found {}",
                labels(&blocks)
            ),
        );
    }
    let mut first: Option<(Vec<String>, i64)> = None;
    let mut certificates = Vec::new();
    let mut good = Some(());
    for block in blocks.iter().filter(is_certificate) {
        let place = Place::new(&file.name, block.line, 1);
        let Ok((_, parsed)) = X509Certificate::from_der(&block.der) else {
            good = ctx.fail(
                &place,
                "this is not an X.509 certificate, though it says so",
            );
            continue;
        };
        let (begins, ends) = (
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        );
        if ends <= ctx.now {
            let date = parsed.validity().not_after;
            ctx.warn(&place, format!("this certificate expired on {date}"));
        } else if begins > ctx.now {
            let date = parsed.validity().not_before;
            ctx.warn(
                &place,
                format!("this certificate is not valid before {date}"),
            );
        }
        first.get_or_insert_with(|| (dns_names(&parsed), ends));
        certificates.push(CertificateDer::from(block.der.clone()));
    }
    good?;
    let (names, not_after) = first?;
    Some(Chain {
        certificates,
        names,
        not_after,
    })
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice());
    names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// The one private key of a file: PKCS#8, PKCS#1 or SEC1.
pub fn private_key(ctx: &mut Context, node: &Node) -> Option<PrivateKeyDer<'static>> {
    let file = files::read(ctx, node, files::SMALL)?;
    let blocks = blocks(ctx, &file)?;
    for block in &blocks {
        let der = block.der.clone();
        return Some(match block.label.as_str() {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(der.into()),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
            "ENCRYPTED PRIVATE KEY" => {
                return ctx.fail(&Place::new(&file.name, block.line, 1), ENCRYPTED);
            }
            _ => continue,
        });
    }
    let swapped = if blocks.iter().any(|block| block.label == "CERTIFICATE") {
        "; are `certificate` and `private_key` swapped?"
    } else {
        ""
    };
    ctx.fail(
        &Place::top(&file.name),
        format!(
            "expected `-----BEGIN PRIVATE KEY-----`, found {}{swapped}",
            labels(&blocks)
        ),
    )
}

/// A chain and its key, in the keys `certificate` and `private_key` of a map; they fit.
pub fn pair(
    ctx: &mut Context,
    chain: Option<Chain>,
    key: Option<PrivateKeyDer<'static>>,
    certificate_node: &Node,
    key_node: &Node,
) -> Option<(Chain, PrivateKeyDer<'static>, rustls::sign::CertifiedKey)> {
    let (chain, key) = (chain?, key?);
    let Ok(signing) = rustls::crypto::ring::sign::any_supported_type(&key) else {
        return ctx.fail(
            &key_node.place,
            "this key can't be used: RSA (2048 bits or more), ECDSA (P-256, P-384) \
             and Ed25519 keys can",
        );
    };
    let certified = rustls::sign::CertifiedKey::new(chain.certificates.clone(), signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let shown = match &certificate_node.kind {
                super::yaml::Kind::Scalar { text, .. } => quote(text),
                _ => String::new(),
            };
            return ctx.fail(
                &key_node.place,
                format!("this key does not fit the certificate {shown}"),
            );
        }
        Err(error) => {
            return ctx.fail(
                &certificate_node.place,
                format!("this certificate can't be used: {error}"),
            );
        }
    }
    Some((chain, key, certified))
}
