//! Who asks: API keys and tokens; and that a bad one makes nobody of anyone.

use crate::harness::{
    Edge, Nginx,
    edge::{Folder, HEAD},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fmt::Write as _;

const ISSUER: &str = "https://id.example.com/realms/app";
const SECRET: &[u8] = b"a secret of the tests that is long enough for HS256";

/// Writes `secrets/api-keys.yaml` with the hashes of these keys.
pub fn write_api_keys(folder: &Folder, keys: &[(&str, &str)]) {
    let mut yaml = String::new();
    for (key, user) in keys {
        let hash = digest(&SHA256, key.as_bytes());
        let hex: String = hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(
            yaml,
            "- {{ user: {user}, hash: \"sha256:{hex}\", roles: [member] }}"
        )
        .unwrap();
    }
    folder.write("secrets/api-keys.yaml", &yaml);
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "app", "sub": "carol",
        "exp": now() + 600, "nbf": now() - 10,
        "realm_access": { "roles": ["editor", "member"] },
    })
}

fn sign(header: &Header, claims: &Value, secret: &[u8]) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn header() -> Header {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".into());
    header
}

fn edge(upstream: &Nginx) -> Edge {
    let folder = Folder::new();
    write_api_keys(&folder, &[("alice-key", "alice")]);
    let jwks = json!({"keys": [
        {"kty": "oct", "kid": "one", "alg": "HS256", "use": "sig", "k": BASE64.encode(SECRET)},
    ]});
    folder.write("secrets/jwks.json", &jwks.to_string());
    let yaml = format!(
        "{HEAD}identity:\n\
         \x20 api_keys: {{ header: x-api-key, file: secrets/api-keys.yaml }}\n\
         \x20 jwt: {{ issuer: \"{ISSUER}\", audience: app, algorithms: [HS256], jwks: secrets/jwks.json, user: sub, roles: realm_access.roles }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules:\n\
         \x20 - {{ name: members, when: 'request.path.startsWith(\"/members\") && !user.authenticated', then: deny }}\n\
         \x20 - {{ name: editors, when: 'request.path.startsWith(\"/edit\") && !(\"editor\" in user.roles)', then: deny }}\n",
        upstream.address
    );
    Edge::in_folder(folder, &yaml)
}

#[test]
fn an_api_key_names_its_user() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let answer = edge
        .get("/members")
        .header("x-api-key", "alice-key")
        .answer();
    assert_eq!(answer.status, 200);
    let seen = answer.json();
    assert_eq!(seen["x_rempart_user"], "alice");
    assert_eq!(seen["x_rempart_roles"], "member");
    let line = edge.logged(answer.header("x-request-id").unwrap());
    assert_eq!(line["user"]["id"], "alice");
    // Neither log shows the key.
    let text = format!("{}{:?}", edge.log(), edge.access_log());
    assert!(!text.contains("alice-key"));
}

#[test]
fn a_token_names_its_user_and_roles() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let token = sign(&header(), &claims(), SECRET);
    let bearer = format!("Bearer {token}");
    let answer = edge.get("/edit").header("authorization", &bearer).answer();
    assert_eq!(answer.status, 200);
    let seen = answer.json();
    assert_eq!(seen["x_rempart_user"], "carol");
    assert_eq!(seen["x_rempart_roles"], "editor,member");
    // An array of audiences, of which we are one.
    let mut several = claims();
    several["aud"] = json!(["another", "app"]);
    let bearer = format!("Bearer {}", sign(&header(), &several, SECRET));
    assert_eq!(
        edge.get("/edit").header("authorization", &bearer).status(),
        200
    );
}

#[test]
fn a_public_key_verifies_and_never_signs() {
    let upstream = Nginx::start();
    let folder = Folder::new();
    let pair = rcgen::KeyPair::generate().unwrap();
    // An uncompressed point: 4, x, y.
    let point = pair.public_key_raw();
    let jwks = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "alg": "ES256",
        "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]),
    }]});
    folder.write("secrets/jwks.json", &jwks.to_string());
    let yaml = format!(
        "{HEAD}identity: {{ jwt: {{ issuer: \"{ISSUER}\", audience: app, jwks: secrets/jwks.json }} }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    );
    let edge = Edge::in_folder(folder, &yaml);
    let user = |token: &str| {
        let answer = edge
            .get("/")
            .header("authorization", &format!("Bearer {token}"))
            .answer();
        assert_eq!(answer.status, 200);
        answer.json()["x_rempart_user"].as_str().unwrap().to_owned()
    };
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("ec".into());
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let good = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    assert_eq!(user(&good), "carol");

    // The public key, which everyone has, used as a secret (RFC 8725, section 2.1).
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = Some("ec".into());
    let pem = pair.public_key_pem();
    for secret in [pem.as_bytes(), point, jwks.to_string().as_bytes()] {
        assert_eq!(user(&sign(&confused, &claims(), secret)), "");
    }
    // Another key under the same id.
    let other = rcgen::KeyPair::generate().unwrap().serialize_der();
    let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_ec_der(&other));
    assert_eq!(user(&forged.unwrap()), "");
}

#[test]
fn a_bad_credential_is_nobody_and_still_served_as_such() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = claims();
        change(&mut changed);
        sign(&header(), &changed, SECRET)
    };
    let unsigned = format!(
        "{}.{}.",
        BASE64.encode(r#"{"alg":"none","typ":"JWT"}"#),
        BASE64.encode(claims().to_string())
    );
    let good = sign(&header(), &claims(), SECRET);
    let (body, _) = good.rsplit_once('.').unwrap();
    let mut unknown = header();
    unknown.kid = Some("two".into());
    let mut other = Header::new(Algorithm::HS512);
    other.kid = Some("one".into());
    let cases = [
        ("expired", with(&|c| c["exp"] = json!(now() - 3600))),
        ("not yet", with(&|c| c["nbf"] = json!(now() + 3600))),
        (
            "another issuer",
            with(&|c| c["iss"] = json!("https://evil.example")),
        ),
        ("another audience", with(&|c| c["aud"] = json!("other"))),
        (
            "no expiry",
            with(&|c| {
                c.as_object_mut().unwrap().remove("exp");
            }),
        ),
        (
            "user of a wrong type",
            with(&|c| c["sub"] = json!({"a": 1})),
        ),
        ("alg none", unsigned),
        ("no signature", format!("{body}.")),
        (
            "another key",
            sign(
                &header(),
                &claims(),
                b"another secret that is as long as needed",
            ),
        ),
        ("an unknown key", sign(&unknown, &claims(), SECRET)),
        ("an algorithm not allowed", sign(&other, &claims(), SECRET)),
        ("garbage", "not.a.token".into()),
        ("emptiness", String::new()),
        ("length", "A".repeat(6000)),
    ];
    for (what, token) in cases {
        let bearer = format!("Bearer {token}");
        let denied = edge
            .get("/members")
            .header("authorization", &bearer)
            .answer();
        assert_eq!(denied.status, 403, "{what} opened the door");
        let open = edge.get("/").header("authorization", &bearer).answer();
        assert_eq!(open.status, 200, "{what}");
        assert_eq!(open.json()["x_rempart_user"], "", "{what}");
    }
    for key in ["", "wrong", "alice-key2", "alice-ke"] {
        let denied = edge.get("/members").header("x-api-key", key).status();
        assert_eq!(denied, 403, "{key:?}");
    }
}

#[test]
fn a_key_that_is_taken_away_opens_nothing_after_the_reload() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let ask = || {
        edge.get("/members")
            .header("x-api-key", "alice-key")
            .status()
    };
    assert_eq!(ask(), 200);
    let before = edge.reloads();
    write_api_keys(&edge.folder, &[("new-key", "alice")]);
    edge.wait_for_reload_after(before);
    assert_eq!(ask(), 403);
    assert_eq!(
        edge.get("/members").header("x-api-key", "new-key").status(),
        200
    );
}
