//! `routes`: which requests go where. First match wins, so a route that an earlier one hides is an
//! error.

use super::{
    addresses,
    decode::{self, Context, Fields, hint, nearest, quote, text},
    model::{HostMatch, PathMatch, Route},
    problem::Place,
    yaml::{Kind, Node},
};
use http::Method;
use std::{fmt::Write as _, sync::Arc};
use verdict::policy::RouteSpec;

const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "QUERY",
    "SEARCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "PURGE",
];

/// Names that routes may refer to, in the order of their definition.
pub struct Names<'a> {
    pub upstreams: Vec<&'a str>,
    pub limits: Vec<&'a str>,
}

pub fn routes(
    ctx: &mut Context,
    node: &Node,
    names: &Names<'_>,
) -> Option<(Vec<Route>, Vec<RouteSpec>)> {
    decode::at_most(ctx, node, 5_000, "routes")?;
    let routes = decode::some(|ctx, node| {
        let route = route(ctx, node, names);
        // Kept apart, so that one bad route does not hide what is wrong between the good ones.
        Some((route, node.place.clone()))
    })(ctx, node)?;
    let good: Vec<(&Route, &Place)> = routes
        .iter()
        .filter_map(|(route, place)| Some((&route.as_ref()?.0, place)))
        .collect();
    for (index, (route, place)) in good.iter().enumerate() {
        let mut earlier = good.iter().take(index);
        if let Some((other, at)) = earlier.clone().find(|(other, _)| other.name == route.name) {
            let message = format!("a second route `{}`, first on line {}", other.name, at.line);
            ctx.problems.add(place, message);
        } else if let Some((other, at)) = earlier.find(|(other, _)| hides(other, route)) {
            let message = format!(
                "route `{}` never matches: `{}` on line {} takes all its requests; move it up",
                route.name, other.name, at.line
            );
            ctx.problems.add(place, message);
        }
    }
    let routes: Option<Vec<_>> = routes.into_iter().map(|(route, _)| route).collect();
    Some(routes?.into_iter().unzip())
}

fn route(ctx: &mut Context, node: &Node, names: &Names<'_>) -> Option<(Route, RouteSpec)> {
    let mut fields = Fields::of(ctx, node, "a route")?;
    let name = fields.required(ctx, "name", decode::name);
    let host = fields.optional(ctx, "host", host);
    let prefix = fields.take("path");
    let exact = fields.take("path_exact");
    let path = match (prefix, exact) {
        (Some(_), Some(exact)) => ctx.fail(
            &exact.place,
            "a route has either `path` (and all below it) or `path_exact`, not both",
        ),
        (_, Some(exact)) => path(ctx, exact).map(PathMatch::Exact),
        (Some(prefix), None) => path(ctx, prefix).map(|path| {
            let cut = path.trim_end_matches('/');
            PathMatch::Prefix(if cut.is_empty() { "/" } else { cut }.to_owned())
        }),
        (None, None) => {
            fields.note(ctx, "path", "/");
            Some(PathMatch::Prefix("/".into()))
        }
    };
    let methods = fields.optional(ctx, "methods", methods);
    let upstream = fields.required(ctx, "upstream", |ctx, node| {
        reference(ctx, node, "upstream", "upstreams", &names.upstreams)
    });
    let limits = fields.optional(
        ctx,
        "limits",
        decode::list(|ctx, node| reference(ctx, node, "limit", "limits", &names.limits)),
    );
    let challenge = fields.or(ctx, "challenge", "true", decode::flag);
    fields.finish(ctx);
    let name: Arc<str> = name?;
    let mut limits = limits?.unwrap_or_default();
    limits.sort_unstable();
    limits.dedup();
    Some((
        Route {
            name: Arc::clone(&name),
            host: host?.unwrap_or(HostMatch::Any),
            path: path?,
            methods: methods?.unwrap_or_default(),
            upstream: upstream?,
            challenge: challenge?,
        },
        RouteSpec { name, limits },
    ))
}

/// The index of the name that a node gives.
fn reference(
    ctx: &mut Context,
    node: &Node,
    kind: &str,
    section: &str,
    names: &[&str],
) -> Option<usize> {
    let word = text(ctx, node)?;
    if let Some(index) = names.iter().position(|name| *name == word) {
        return Some(index);
    }
    let hint = match nearest(word, names.iter().copied()) {
        None if names.is_empty() => format!("; `{section}` defines none"),
        _ => hint(word, names.iter().copied()),
    };
    ctx.fail(
        &node.place,
        format!("there is no {kind} {}{hint}", quote(word)),
    )
}

fn host(ctx: &mut Context, node: &Node) -> Option<HostMatch> {
    let host = text(ctx, node)?;
    if host == "*" {
        return ctx.fail(&node.place, "leave out `host` to match any");
    }
    let (wildcard, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host),
    };
    if name.contains('*') {
        return ctx.fail(
            &node.place,
            format!(
                "{}: a wildcard is the first label alone, like `*.example.com`",
                quote(host)
            ),
        );
    }
    if !wildcard && (name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[')) {
        return Some(HostMatch::Exact(name.to_ascii_lowercase()));
    }
    if let Some((bare, port)) = name.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        let star = if wildcard { "*." } else { "" };
        return ctx.fail(
            &node.place,
            format!("a host is matched without its port; write `{star}{bare}`"),
        );
    }
    let name = addresses::dns_name(ctx, &node.place, name)?;
    let name = name.trim_end_matches('.');
    Some(if wildcard {
        HostMatch::Wildcard(format!(".{name}"))
    } else {
        HostMatch::Exact(name.to_owned())
    })
}

fn path(ctx: &mut Context, node: &Node) -> Option<String> {
    let path = text(ctx, node)?;
    check_path(ctx, &node.place, path)?;
    Some(path.to_owned())
}

/// Whether a path is in the form that requests are compared in (RFC 3986, 6.2.2): any other would
/// never match.
pub fn check_path(ctx: &mut Context, place: &Place, path: &str) -> Option<()> {
    let shown = quote(path);
    if !path.starts_with('/') {
        return ctx.fail(place, format!("{shown} is not a path; write `/{path}`"));
    }
    if path.contains(['?', '#']) {
        return ctx.fail(place, format!("{shown}: a path has no `?` or `#`"));
    }
    if path.contains('*') {
        return ctx.fail(
            place,
            format!("{shown}: there are no wildcards; `path: /a` takes `/a` and all below it"),
        );
    }
    if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        return ctx.fail(
            place,
            format!("{shown} never matches: `//`, `.` and `..` are resolved before comparing"),
        );
    }
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic()) {
        let mut bytes = [0; 4];
        let mut encoded = String::new();
        for byte in c.encode_utf8(&mut bytes).bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
        return ctx.fail(
            place,
            format!("{shown}: write {} as `{encoded}`", quote(&c.to_string())),
        );
    }
    check_percent(ctx, place, path)
}

fn check_percent(ctx: &mut Context, place: &Place, path: &str) -> Option<()> {
    for (at, _) in path.match_indices('%') {
        let digits = path.get(at.saturating_add(1)..at.saturating_add(3));
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else {
            return ctx.fail(
                place,
                format!("{}: `%` is followed by two hexadecimal digits", quote(path)),
            );
        };
        let byte = u8::from_str_radix(digits, 16).unwrap_or_default();
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
            return ctx.fail(
                place,
                format!("{}: write `{c}` instead of `%{digits}`", quote(path)),
            );
        }
        if digits.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let upper = digits.to_ascii_uppercase();
            return ctx.fail(
                place,
                format!("{}: write `%{upper}` instead of `%{digits}`", quote(path)),
            );
        }
    }
    Some(())
}

fn methods(ctx: &mut Context, node: &Node) -> Option<Vec<Method>> {
    let methods = decode::some(|ctx, item| {
        let text = text(ctx, item)?;
        let known = METHODS.contains(&text);
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if known => Some(method),
            _ => ctx.fail(
                &item.place,
                format!(
                    "{} is not a method{}",
                    quote(text),
                    hint(text, METHODS.iter().copied())
                ),
            ),
        }
    })(ctx, node)?;
    let Kind::List(items) = &node.kind else {
        return None;
    };
    for (index, (method, item)) in methods.iter().zip(items).enumerate() {
        if methods.iter().take(index).any(|other| other == method) {
            ctx.problems
                .add(&item.place, format!("method `{method}` stands twice"));
        }
    }
    Some(methods)
}

/// Whether every request of `later` is one of `earlier`.
fn hides(earlier: &Route, later: &Route) -> bool {
    let host = match (&earlier.host, &later.host) {
        (HostMatch::Any, _) => true,
        (a, b) if a == b => true,
        (HostMatch::Wildcard(wide), HostMatch::Exact(name)) => {
            name.len() > wide.len() && name.ends_with(wide.as_str())
        }
        (HostMatch::Wildcard(wide), HostMatch::Wildcard(narrow)) => narrow.ends_with(wide.as_str()),
        _ => false,
    };
    let path = match (&earlier.path, &later.path) {
        (a, b) if a == b => true,
        (PathMatch::Prefix(wide), PathMatch::Prefix(path) | PathMatch::Exact(path)) => {
            wide == "/"
                || path
                    .strip_prefix(wide.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (PathMatch::Exact(_), _) => false,
    };
    let methods = earlier.methods.is_empty()
        || (!later.methods.is_empty()
            && later
                .methods
                .iter()
                .all(|method| earlier.methods.contains(method)));
    host && path && methods
}
