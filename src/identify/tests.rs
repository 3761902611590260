//! Stories of credentials, with keys that are made as the tests run and tokens that are signed by
//! hand: what verifies here was not written by the library that verifies.

use super::*;
use crate::config::model::{ApiKey, ApiKeys, Identity, JwksSource, Jwt};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PSS_SHA256, RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use http::{HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, jwk::JwkSet};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{sync::LazyLock, time::Duration};

mod remote;

const NOW: u64 = 1_700_000_000;
const ISSUER: &str = "https://id.example.com/realms/app";

/// The issuer's keys.
struct Issuer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    secret: [u8; 32],
}

static ISSUER_KEYS: LazyLock<Issuer> = LazyLock::new(Issuer::new);

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).unwrap();
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(
                Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref(),
            )
            .unwrap(),
            secret,
        }
    }

    fn rsa_jwk(&self, kid: &str) -> Value {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        json!({ "kty": "RSA", "kid": kid, "n": B64.encode(public.n), "e": B64.encode(public.e) })
    }

    fn jwks(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let ed = self.ed.public_key().as_ref();
        json!({ "keys": [
            self.rsa_jwk("rsa"),
            { "kty": "EC", "kid": "ec", "crv": "P-256", "use": "sig",
              "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]) },
            { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "alg": "EdDSA", "x": B64.encode(ed) },
            { "kty": "oct", "kid": "secret", "k": B64.encode(self.secret) },
        ]})
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            "RS256" | "PS256" => {
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = if algorithm == "RS256" {
                    &RSA_PKCS1_SHA256
                } else {
                    &RSA_PSS_SHA256
                };
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa
                    .sign(padding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            "ES256" => self.ec.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "HS256" => hs256(&self.secret, message),
            "none" => Vec::new(),
            other => panic!("{other}"),
        }
    }

    /// A token whose header is `header` with its `alg`, signed as that says.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let algorithm = header["alg"].as_str().unwrap();
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", B64.encode(signature))
    }
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn message(header: &Value, claims: &Value) -> String {
    let header = B64.encode(header.to_string());
    format!("{header}.{}", B64.encode(claims.to_string()))
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": ["app", "account"], "exp": NOW + 300, "nbf": NOW - 10,
            "sub": "ada", "sid": "s-1", "realm_access": { "roles": ["staff"] } })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn jwt(algorithms: &[Algorithm], keys: JwksSource) -> Jwt {
    Jwt {
        issuer: ISSUER.to_owned(),
        audience: "app".to_owned(),
        algorithms: algorithms.to_vec(),
        keys,
        user: vec!["sub".to_owned()],
        roles: Some(vec!["realm_access".to_owned(), "roles".to_owned()]),
        leeway: Duration::from_secs(30),
    }
}

fn file(jwks: Value) -> JwksSource {
    JwksSource::File(serde_json::from_value::<JwkSet>(jwks).unwrap())
}

fn identifier(algorithms: &[Algorithm], jwks: Value) -> Identifier {
    let spec = Identity {
        api_keys: Some(ApiKeys {
            header: HeaderName::from_static("x-api-key"),
            keys: vec![ApiKey {
                sha256: ring::digest::digest(&ring::digest::SHA256, b"the-key")
                    .as_ref()
                    .try_into()
                    .unwrap(),
                user: "partner".to_owned(),
                roles: vec![],
            }],
        }),
        jwt: Some(jwt(algorithms, file(jwks))),
    };
    Identifier::build(&spec, None)
}

const ALL: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
    Algorithm::HS256,
];

fn everything() -> Identifier {
    identifier(ALL, ISSUER_KEYS.jwks())
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    headers.insert("authorization", value);
    headers
}

fn user(identifier: &Identifier, token: &str) -> Result<String, CredentialError> {
    let found = identifier.identify(&bearer(token), NOW);
    assert_ne!(found.user.is_some(), found.error.is_some());
    found
        .user
        .map(|user| user.id.clone())
        .ok_or_else(|| found.error.unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "it is what `user` gives")]
fn ada() -> Result<String, CredentialError> {
    Ok("ada".to_owned())
}

#[test]
fn every_algorithm_verifies() {
    let identifier = everything();
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "ec"),
        ("EdDSA", "ed"),
        ("HS256", "secret"),
    ] {
        for header in [
            json!({ "alg": algorithm, "kid": kid, "typ": "JWT" }),
            json!({ "alg": algorithm }),
        ] {
            let token = ISSUER_KEYS.token(&header, &claims());
            assert_eq!(user(&identifier, &token), ada(), "{header}");
            // Once more, out of the cache.
            assert_eq!(user(&identifier, &token), ada(), "{header}");
        }
    }
}

#[test]
fn a_token_names_its_user_roles_and_session() {
    let token = ISSUER_KEYS.token(&json!({ "alg": "ES256", "kid": "ec" }), &claims());
    let found = everything().identify(&bearer(&token), NOW);
    let user = found.user.unwrap();
    assert_eq!(user.id, "ada");
    assert_eq!(*user.roles, ["staff".to_owned()]);
    assert_eq!(user.session.as_deref(), Some("s-1"));
}

#[test]
fn an_algorithm_that_is_not_allowed_is_refused() {
    let identifier = identifier(&[Algorithm::RS256], ISSUER_KEYS.jwks());
    for (algorithm, kid) in [("PS256", "rsa"), ("ES256", "ec"), ("HS256", "secret")] {
        let token = ISSUER_KEYS.token(&json!({ "alg": algorithm, "kid": kid }), &claims());
        assert_eq!(
            user(&identifier, &token),
            Err(CredentialError::TokenAlgorithm)
        );
    }
}

#[test]
fn an_unsigned_token_is_refused_however_it_is_spelt() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for signature in ["", "AAAA"] {
            let message = message(&json!({ "alg": alg, "kid": "rsa" }), &claims());
            let token = format!("{message}.{signature}");
            assert_eq!(
                user(&everything(), &token),
                Err(CredentialError::TokenAlgorithm)
            );
        }
    }
    let message = message(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
    assert_eq!(
        user(&everything(), &format!("{message}.")),
        Err(CredentialError::TokenSignature)
    );
}

#[test]
fn a_public_key_is_no_secret() {
    let issuer = &*ISSUER_KEYS;
    let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(issuer.rsa.public_key());
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(
        issuer.rsa.public_key(),
    )
    .unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(der.as_ref())
    );
    let secrets: [&[u8]; 5] = [
        &rsa.n,
        der.as_ref(),
        pem.as_bytes(),
        issuer.ec.public_key().as_ref(),
        issuer.ed.public_key().as_ref(),
    ];
    for secret in secrets {
        for kid in ["rsa", "ec", "ed"] {
            let message = message(&json!({ "alg": "HS256", "kid": kid }), &claims());
            let signature = B64.encode(hs256(secret, message.as_bytes()));
            assert_eq!(
                user(&everything(), &format!("{message}.{signature}")),
                Err(CredentialError::TokenAlgorithm)
            );
        }
    }
}

#[test]
fn an_algorithm_of_another_key_type_is_refused() {
    for (algorithm, kid) in [
        ("ES256", "rsa"),
        ("RS256", "ec"),
        ("RS256", "secret"),
        ("EdDSA", "ec"),
    ] {
        let token = ISSUER_KEYS.token(&json!({ "alg": algorithm, "kid": kid }), &claims());
        assert_eq!(
            user(&everything(), &token),
            Err(CredentialError::TokenAlgorithm),
            "{algorithm} {kid}"
        );
    }
}

#[test]
fn a_key_serves_only_what_it_is_for() {
    let with = |name: &str, value: Value| {
        let mut key = ISSUER_KEYS.rsa_jwk("rsa");
        key[name] = value;
        identifier(ALL, json!({ "keys": [key] }))
    };
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
    assert_eq!(user(&with("alg", json!("RS256")), &token), ada());
    assert_eq!(user(&with("key_ops", json!(["verify"])), &token), ada());
    assert_eq!(
        user(&with("alg", json!("PS256")), &token),
        Err(CredentialError::TokenAlgorithm)
    );
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("RSA-OAEP")),
        ("key_ops", json!(["encrypt"])),
    ] {
        assert_eq!(
            user(&with(name, value), &token),
            Err(CredentialError::KeysUnavailable)
        );
    }
}

#[test]
fn a_short_secret_is_no_key() {
    let jwks = json!({ "keys": [{ "kty": "oct", "kid": "short", "k": B64.encode("secret") }] });
    let message = message(&json!({ "alg": "HS256", "kid": "short" }), &claims());
    let signature = B64.encode(hs256(b"secret", message.as_bytes()));
    assert_eq!(
        user(&identifier(ALL, jwks), &format!("{message}.{signature}")),
        Err(CredentialError::KeysUnavailable)
    );
}

#[test]
fn headers_that_must_be_understood_are_refused() {
    for (header, error) in [
        (
            json!({ "crit": ["b64"], "b64": false }),
            CredentialError::TokenCritical,
        ),
        (json!({ "crit": [] }), CredentialError::TokenCritical),
        (json!({ "crit": null }), CredentialError::TokenCritical),
        (json!({ "typ": "logout+jwt" }), CredentialError::TokenType),
        (json!({ "typ": "dpop+jwt" }), CredentialError::TokenType),
        (json!({ "kid": 7 }), CredentialError::TokenMalformed),
        (json!({ "typ": ["JWT"] }), CredentialError::TokenMalformed),
        (json!({ "kid": "nobody" }), CredentialError::UnknownKey),
    ] {
        let mut full = json!({ "alg": "RS256", "kid": "rsa" });
        for (name, value) in header.as_object().unwrap() {
            full[name] = value.clone();
        }
        let token = ISSUER_KEYS.token(&full, &claims());
        assert_eq!(user(&everything(), &token), Err(error), "{header}");
    }
    for typ in [
        "JWT",
        "jwt",
        "at+jwt",
        "application/at+jwt",
        "APPLICATION/JWT",
    ] {
        let header = json!({ "alg": "RS256", "kid": "rsa", "typ": typ });
        let token = ISSUER_KEYS.token(&header, &claims());
        assert_eq!(user(&everything(), &token), ada(), "{typ}");
    }
}

#[test]
fn a_key_in_the_token_is_not_believed() {
    let stranger = Issuer::new();
    let header = json!({ "alg": "RS256", "kid": "rsa", "jwk": stranger.rsa_jwk("rsa"),
                         "jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/x" });
    assert_eq!(
        user(&everything(), &stranger.token(&header, &claims())),
        Err(CredentialError::TokenSignature)
    );
}

#[test]
fn claims_are_judged() {
    use CredentialError::*;
    for (claims, error) in [
        (with("exp", json!(NOW - 31)), TokenExpired),
        (with("exp", json!("9999999999")), TokenClaims),
        (with("nbf", json!(NOW + 31)), TokenNotYetValid),
        (with("iss", json!("https://evil.example")), TokenIssuer),
        (with("aud", json!("other")), TokenAudience),
        (with("sub", json!(null)), TokenUser),
        (json!([1]), TokenClaims),
    ] {
        let identifier = everything();
        let token = ISSUER_KEYS.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims);
        assert_eq!(user(&identifier, &token), Err(error), "{claims}");
        assert_eq!(user(&identifier, &token), Err(error), "cached: {claims}");
    }
}

#[test]
fn a_cached_token_expires_too() {
    let identifier = everything();
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
    let at = |now| identifier.identify(&bearer(&token), now);
    assert!(at(NOW).user.is_some());
    assert!(at(NOW + 329).user.is_some());
    assert_eq!(at(NOW + 330).error, Some(CredentialError::TokenExpired));
}

#[test]
fn a_refusal_in_the_cache_does_not_outlive_its_reason() {
    let identifier = everything();
    let claims = with("nbf", json!(NOW + 40));
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "rsa" }), &claims);
    assert_eq!(
        user(&identifier, &token),
        Err(CredentialError::TokenNotYetValid)
    );
    assert!(
        identifier
            .identify(&bearer(&token), NOW + 10)
            .user
            .is_some()
    );
}

#[test]
fn every_change_of_a_token_is_noticed() {
    let identifier = everything();
    for algorithm in ["RS256", "ES256", "EdDSA", "HS256"] {
        let token = ISSUER_KEYS.token(&json!({ "alg": algorithm }), &claims());
        assert_eq!(user(&identifier, &token), ada());
        for at in (0..token.len()).step_by(7) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(
                user(&identifier, &changed).is_err(),
                "{algorithm} byte {at}"
            );
        }
        for length in (0..token.len()).step_by(11) {
            assert!(user(&identifier, &token[..length]).is_err());
        }
        assert!(user(&identifier, &format!("{token}=")).is_err());
        assert!(user(&identifier, &format!("{token}.")).is_err());
        assert!(user(&identifier, &format!("{token}.{token}")).is_err());
    }
}

#[test]
fn what_is_not_a_bearer_token_is_left_alone() {
    let identifier = everything();
    for value in ["Basic YTpi", "Bearerx abc", "", "Digest x"] {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(value).unwrap());
        assert_eq!(identifier.identify(&headers, NOW), Identified::default());
    }
    assert_eq!(
        identifier.identify(&HeaderMap::new(), NOW),
        Identified::default()
    );
    for value in [
        "Bearer",
        "bearer ",
        "BEARER abc",
        "Bearer a.b",
        "Bearer a.b.c.d",
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(value).unwrap());
        assert_eq!(
            identifier.identify(&headers, NOW).error,
            Some(CredentialError::TokenMalformed),
            "{value}"
        );
    }
}

#[test]
fn sizes_and_counts_are_bounded() {
    let identifier = everything();
    assert_eq!(
        user(&identifier, &"a".repeat(8 * 1024 + 1)),
        Err(CredentialError::TokenTooLong)
    );
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256" }), &claims());
    let mut headers = bearer(&token);
    headers.append("authorization", HeaderValue::from_static("Basic YTpi"));
    assert_eq!(
        identifier.identify(&headers, NOW).error,
        Some(CredentialError::TokenRepeated)
    );
}

#[test]
fn the_token_counts_before_the_api_key() {
    let identifier = everything();
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256" }), &claims());
    let mut headers = bearer(&token);
    headers.insert("x-api-key", HeaderValue::from_static("the-key"));
    assert_eq!(identifier.identify(&headers, NOW).user.unwrap().id, "ada");

    let mut headers = bearer("a.b.c");
    headers.insert("x-api-key", HeaderValue::from_static("the-key"));
    let found = identifier.identify(&headers, NOW);
    assert_eq!(found.user, None);
    assert_eq!(found.error, Some(CredentialError::TokenMalformed));

    headers.remove("authorization");
    assert_eq!(
        identifier.identify(&headers, NOW).user.unwrap().id,
        "partner"
    );
}

#[test]
fn keys_of_the_same_name_are_both_tried() {
    let other = Issuer::new();
    let jwks = json!({ "keys": [other.rsa_jwk("rsa"), ISSUER_KEYS.rsa_jwk("rsa")] });
    let identifier = identifier(ALL, jwks);
    let header = json!({ "alg": "RS256", "kid": "rsa" });
    assert_eq!(
        user(&identifier, &ISSUER_KEYS.token(&header, &claims())),
        ada()
    );
    assert_eq!(user(&identifier, &other.token(&header, &claims())), ada());
}

#[test]
fn a_key_without_a_name_serves_any_token() {
    let mut key = ISSUER_KEYS.rsa_jwk("rsa");
    key.as_object_mut().unwrap().remove("kid");
    let identifier = identifier(ALL, json!({ "keys": [key] }));
    let header = json!({ "alg": "RS256", "kid": "whatever" });
    assert_eq!(
        user(&identifier, &ISSUER_KEYS.token(&header, &claims())),
        ada()
    );
    assert_eq!(
        user(&identifier, &Issuer::new().token(&header, &claims())),
        Err(CredentialError::UnknownKey)
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..300)) {
        static IDENTIFIER: LazyLock<Identifier> = LazyLock::new(everything);
        if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", value.as_slice()].concat()) {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value);
            prop_assert_eq!(IDENTIFIER.identify(&headers, NOW).user, None);
        }
    }

    #[test]
    fn no_header_or_claims_panic(header in "[ -~]{0,60}", claims in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        static IDENTIFIER: LazyLock<Identifier> = LazyLock::new(everything);
        let token = format!("{}.{}.{}", B64.encode(header), B64.encode(claims), B64.encode(signature));
        prop_assert!(user(&IDENTIFIER, &token).is_err());
    }

    #[test]
    fn signed_nonsense_names_nobody(payload in any::<Vec<u8>>()) {
        static IDENTIFIER: LazyLock<Identifier> = LazyLock::new(everything);
        let header = B64.encode(r#"{"alg":"HS256","kid":"secret"}"#);
        let message = format!("{header}.{}", B64.encode(payload));
        let signature = B64.encode(hs256(&ISSUER_KEYS.secret, message.as_bytes()));
        prop_assert_eq!(
            user(&IDENTIFIER, &format!("{message}.{signature}")),
            Err(CredentialError::TokenClaims)
        );
    }
}
