//! The keys that verify tokens, from a JSON Web Key Set (RFC 7517). Where the set comes from is
//! left to others.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// More keys than any issuer shows at once.
const MAX_KEYS: usize = 64;

/// How many keys of the same name (or without one) a token is tried against.
const MAX_CANDIDATES: usize = 4;

/// Keys that are fit to verify, each with the algorithms that it is fit for.
#[derive(Debug, Default)]
pub struct KeySet {
    source: Vec<Jwk>,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    verifying: DecodingKey,
}

/// The keys that a token may have been signed with.
#[derive(Debug)]
pub enum Candidates<'a> {
    /// At least one. `named` says that the token's `kid` is theirs.
    Keys {
        keys: Vec<&'a DecodingKey>,
        named: bool,
    },
    /// The key exists, but is none for the token's algorithm.
    Unfit,
    Unknown,
}

impl KeySet {
    /// Keeps the keys that can verify a signature and leaves out the others, as RFC 7517 (section 5)
    /// asks for: of unknown type, for encryption, too short, broken.
    #[must_use]
    pub fn new(source: Vec<Jwk>) -> Self {
        let keys = source.iter().take(MAX_KEYS).filter_map(Key::new).collect();
        Self { source, keys }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    #[must_use]
    pub fn is_of(&self, source: &[Jwk]) -> bool {
        self.source == source
    }

    /// The keys of the name `id` that fit `algorithm`. Keys without a name may belong to any token,
    /// and a token without one may belong to any key; either way only a few are tried.
    #[must_use]
    pub fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Candidates<'_> {
        let named = id.is_some_and(|id| self.keys.iter().any(|key| key.id.as_deref() == Some(id)));
        let mut concerned = self
            .keys
            .iter()
            .filter(|key| match (named, id) {
                (true, id) => key.id.as_deref() == id,
                (false, Some(_)) => key.id.is_none(),
                (false, None) => true,
            })
            .peekable();
        if concerned.peek().is_none() {
            return Candidates::Unknown;
        }
        let keys: Vec<_> = concerned
            .filter(|key| key.algorithms.contains(&algorithm))
            .map(|key| &key.verifying)
            .take(MAX_CANDIDATES)
            .collect();
        if keys.is_empty() {
            Candidates::Unfit
        } else {
            Candidates::Keys { keys, named }
        }
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        if let Some(operations) = &common.key_operations
            && !operations.contains(&KeyOperations::Verify)
        {
            return None;
        }
        let verifying = DecodingKey::from_jwk(jwk).ok()?;
        let mut algorithms = algorithms_for(jwk, &verifying);
        if let Some(only) = common.key_algorithm {
            let only = Algorithm::try_from(only).ok()?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        (!algorithms.is_empty()).then(|| Self {
            id: common.key_id.clone(),
            algorithms,
            verifying,
        })
    }
}

/// What a key's type and size allow. A public key is never a secret and the other way round, so that
/// no token can pick how its key is understood.
fn algorithms_for(jwk: &Jwk, key: &DecodingKey) -> Vec<Algorithm> {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match &jwk.algorithm {
        // Sizes of RSA keys (2,048 to 8,192 bits) are checked with each signature.
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 if bytes == 65 => vec![ES256],
            EllipticCurve::P384 if bytes == 97 => vec![ES384],
            _ => vec![],
        },
        AlgorithmParameters::OctetKeyPair(pair) => match pair.curve {
            EllipticCurve::Ed25519 if bytes == 32 => vec![EdDSA],
            _ => vec![],
        },
        // RFC 7518, 3.2: a secret is at least as long as the hash.
        AlgorithmParameters::OctetKey(_) => [(HS256, 32), (HS384, 48), (HS512, 64)]
            .into_iter()
            .filter(|(_, least)| bytes >= *least)
            .map(|(algorithm, _)| algorithm)
            .collect(),
        _ => vec![],
    }
}

/// Reads a key set that came over the network: keys that are not understood are left out, and so are
/// secrets, which nobody can publish.
///
/// # Errors
/// A sentence when it is no key set at all, or has no key to verify with.
pub fn parse_public(json: &[u8]) -> Result<Vec<Jwk>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|e| format!("not a JWKS: {e}"))?;
    let keys: Vec<Jwk> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter(|key| !matches!(key.algorithm, AlgorithmParameters::OctetKey(_)))
        .take(MAX_KEYS)
        .collect();
    if keys.iter().all(|key| Key::new(key).is_none()) {
        return Err("the JWKS has no key that can verify a signature".to_owned());
    }
    Ok(keys)
}
