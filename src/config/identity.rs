//! `identity`: API keys and JWTs, with the files that hold their keys.

use super::{
    decode::{self, Context, Fields, quote, text},
    files,
    model::{ApiKey, ApiKeys, Identity, JwksSource, Jwt},
    problem::Place,
    yaml::{self, Kind, Node},
};
use http::HeaderName;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, JwkSet},
};
use std::collections::HashMap;

const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
];

pub fn identity(ctx: &mut Context, node: &Node) -> Option<Identity> {
    let mut fields = Fields::of(ctx, node, "`identity`")?;
    let api_keys = fields.optional(ctx, "api_keys", api_keys);
    let jwt = fields.optional(ctx, "jwt", jwt);
    fields.finish(ctx);
    Some(Identity {
        api_keys: api_keys?,
        jwt: jwt?,
    })
}

pub fn header_name(ctx: &mut Context, node: &Node) -> Option<HeaderName> {
    let text = text(ctx, node)?;
    match HeaderName::try_from(text) {
        Ok(name) => Some(name),
        Err(_) => ctx.fail(
            &node.place,
            format!("{} is not the name of a header", quote(text)),
        ),
    }
}

fn api_keys(ctx: &mut Context, node: &Node) -> Option<ApiKeys> {
    let mut fields = Fields::of(ctx, node, "`api_keys`")?;
    let header = fields.or(ctx, "header", "x-api-key", header_name);
    let keys = fields.required(ctx, "file", api_key_file);
    fields.finish(ctx);
    Some(ApiKeys {
        header: header?,
        keys: keys?,
    })
}

/// A YAML list of `{user, hash, roles}`.
fn api_key_file(ctx: &mut Context, node: &Node) -> Option<Vec<ApiKey>> {
    let file = files::read(ctx, node, files::LARGE)?;
    let text = file.text(ctx)?;
    let tree = yaml::parse(&file.name, text, &mut ctx.problems)?;
    let keys = decode::list(api_key)(ctx, &tree)?;
    let mut seen: HashMap<[u8; 32], usize> = HashMap::new();
    if let Kind::List(items) = &tree.kind {
        for (key, item) in keys.iter().zip(items) {
            if let Some(line) = seen.insert(key.sha256, item.place.line) {
                ctx.problems.add(
                    &item.place,
                    format!("this hash stands twice, first on line {line}"),
                );
            }
        }
    }
    Some(keys)
}

fn api_key(ctx: &mut Context, node: &Node) -> Option<ApiKey> {
    let mut fields = Fields::of(ctx, node, "an API key")?;
    let user = fields.required(ctx, "user", header_text);
    let sha256 = fields.required(ctx, "hash", hash);
    let roles = fields.optional(ctx, "roles", decode::list(role));
    fields.finish(ctx);
    Some(ApiKey {
        sha256: sha256?,
        user: user?,
        roles: roles?.unwrap_or_default(),
    })
}

/// Text that can be sent upstream in a header.
fn header_text(ctx: &mut Context, node: &Node) -> Option<String> {
    let text = text(ctx, node)?;
    if text.len() > 256 || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return ctx.fail(
            &node.place,
            "it is sent upstream in a header: at most 256 visible ASCII characters",
        );
    }
    Some(text.to_owned())
}

fn role(ctx: &mut Context, node: &Node) -> Option<String> {
    let role = header_text(ctx, node)?;
    if role.contains(',') {
        return ctx.fail(
            &node.place,
            "a role holds no comma: roles are sent upstream with commas between",
        );
    }
    Some(role)
}

/// `sha256:` and 64 hexadecimal digits. What is given is not repeated: it may be the key itself.
fn hash(ctx: &mut Context, node: &Node) -> Option<[u8; 32]> {
    const EXPECTED: &str = "a hash is written `sha256:` and 64 hexadecimal digits; \
                            make it with `printf %s KEY | sha256sum`";
    let text = match &node.kind {
        Kind::Scalar { text, .. } => text.as_str(),
        _ => return ctx.fail(&node.place, EXPECTED),
    };
    let hash = text.strip_prefix("sha256:").and_then(|digits| {
        let mut hash = [0; 32];
        let mut pairs = digits.as_bytes().chunks_exact(2);
        if digits.len() != 64 {
            return None;
        }
        for byte in &mut hash {
            let [high, low] = pairs.next()? else {
                return None;
            };
            let high = char::from(*high).to_digit(16)?;
            let low = char::from(*low).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(hash)
    });
    match hash {
        Some(hash) => Some(hash),
        None => ctx.fail(&node.place, EXPECTED),
    }
}

fn jwt(ctx: &mut Context, node: &Node) -> Option<Jwt> {
    let mut fields = Fields::of(ctx, node, "`jwt`")?;
    let issuer = fields.required(ctx, "issuer", decode::owned_text);
    let audience = fields.required(ctx, "audience", decode::owned_text);
    let algorithms = fields.or(ctx, "algorithms", "RS256, ES256, EdDSA", algorithms);
    let refresh = fields.or(ctx, "refresh", "10m", decode::duration);
    let has_refresh = fields.take("refresh").is_some();
    let keys = fields.required(ctx, "jwks", |ctx, node| jwks(ctx, node, refresh));
    let user = fields.or(ctx, "user", "sub", claim);
    let roles = fields.optional(ctx, "roles", claim);
    let leeway = fields.or(ctx, "leeway", "30s", decode::duration_or_zero);
    if let (Some(keys), Some(algorithms)) = (&keys, &algorithms) {
        let place = fields.take("algorithms").map_or(node, |list| list);
        check_algorithms(ctx, &place.place, keys, algorithms);
        if has_refresh && matches!(keys, JwksSource::File(_)) {
            ctx.problems.add(
                fields.key_place("refresh"),
                "`refresh` is for a JWKS from a URL; a file is watched",
            );
        }
    }
    fields.finish(ctx);
    Some(Jwt {
        issuer: issuer?,
        audience: audience?,
        algorithms: algorithms?,
        keys: keys?,
        user: user?,
        roles: roles?,
        leeway: leeway?,
    })
}

fn algorithms(ctx: &mut Context, node: &Node) -> Option<Vec<Algorithm>> {
    // The default, which is noted as text.
    if matches!(&node.kind, Kind::Scalar { text, .. } if text == "RS256, ES256, EdDSA") {
        return Some(vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    }
    decode::some(|ctx, item| {
        if matches!(&item.kind, Kind::Scalar { text, .. } if text.eq_ignore_ascii_case("none")) {
            return ctx.fail(
                &item.place,
                "`none` would accept tokens that nobody signed; it can't be turned on",
            );
        }
        decode::word(ALGORITHMS)(ctx, item)
    })(ctx, node)
}

/// Symmetric keys come from a local file only, or whoever can read the URL could sign.
fn check_algorithms(ctx: &mut Context, place: &Place, keys: &JwksSource, given: &[Algorithm]) {
    let symmetric = given
        .iter()
        .find(|algorithm| algorithm.family() == AlgorithmFamily::Hmac);
    let Some(symmetric) = symmetric else {
        return;
    };
    match keys {
        JwksSource::Url { .. } => ctx.problems.add(
            place,
            format!("{symmetric:?} needs a `jwks` file: a secret key is not fetched from a URL"),
        ),
        JwksSource::File(set) => {
            let secret = |key: &jsonwebtoken::jwk::Jwk| {
                matches!(key.algorithm, AlgorithmParameters::OctetKey(_))
            };
            if !set.keys.iter().any(secret) {
                ctx.problems.add(
                    place,
                    format!("{symmetric:?} needs a key of type `oct`, and the JWKS holds none"),
                );
            }
        }
    }
}

/// `sub`, `realm_access.roles`, or a list of keys where one of them holds a dot.
fn claim(ctx: &mut Context, node: &Node) -> Option<Vec<String>> {
    if matches!(node.kind, Kind::List(_)) {
        return decode::some(decode::owned_text)(ctx, node);
    }
    let text = text(ctx, node)?;
    let path: Vec<String> = text.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return ctx.fail(
            &node.place,
            format!(
                "{} is not the path of a claim, like `sub` or `realm_access.roles`",
                quote(text)
            ),
        );
    }
    Some(path)
}

fn jwks(
    ctx: &mut Context,
    node: &Node,
    refresh: Option<std::time::Duration>,
) -> Option<JwksSource> {
    let text = text(ctx, node)?;
    if !text.contains("://") {
        return jwks_file(ctx, node).map(JwksSource::File);
    }
    let uri: http::Uri = match text.parse() {
        Ok(uri) => uri,
        Err(_) => return ctx.fail(&node.place, format!("{} is not a URL", quote(text))),
    };
    let host = uri.host().unwrap_or_default();
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return ctx.fail(&node.place, "a URL must not hold a user name or password");
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if loopback => {}
        Some("http") => {
            return ctx.fail(
                &node.place,
                "keys fetched in plaintext could be anyone's; write `https://` \
                 (`http://` is for 127.0.0.1 only)",
            );
        }
        _ => {
            return ctx.fail(
                &node.place,
                format!("{} is neither `https://` nor a path", quote(text)),
            );
        }
    }
    Some(JwksSource::Url {
        url: text.to_owned(),
        refresh: refresh?,
    })
}

fn jwks_file(ctx: &mut Context, node: &Node) -> Option<JwkSet> {
    let file = files::read(ctx, node, files::SMALL)?;
    let set: JwkSet = match serde_json::from_slice(&file.bytes) {
        Ok(set) => set,
        Err(error) => {
            let place = Place::new(&file.name, error.line().max(1), error.column().max(1));
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            return ctx.fail(&place, format!("not a JWKS (RFC 7517): {message}"));
        }
    };
    let top = Place::top(&file.name);
    if set.keys.is_empty() {
        return ctx.fail(&top, "this JWKS holds no key: no token could ever be valid");
    }
    let mut good = Some(());
    for (index, key) in set.keys.iter().enumerate() {
        let name = match &key.common.key_id {
            Some(kid) => format!("key {}", quote(kid)),
            None => format!("key {} of the list", index.saturating_add(1)),
        };
        if let AlgorithmParameters::OctetKey(secret) = &key.algorithm
            && secret.value.len() < 43
        {
            good = ctx.fail(
                &top,
                format!("{name} is too short to be a secret: at least 32 bytes are needed"),
            );
        } else if let AlgorithmParameters::Other(_) = &key.algorithm {
            ctx.warn(&top, format!("{name} is of an unknown type and ignored"));
        } else if DecodingKey::from_jwk(key).is_err() {
            good = ctx.fail(&top, format!("{name} is damaged"));
        }
    }
    good?;
    Some(set)
}
