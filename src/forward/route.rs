//! Which route a request takes: the first that matches its host, path and method.

use super::path;
use crate::config::model::{HostMatch, PathMatch, Route};
use http::Method;
use std::collections::HashMap;

/// The routes of a configuration, indexed by host.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Compiled>,
    /// For each host that some route names exactly: every route that takes it, in order.
    exact: HashMap<Box<[u8]>, Box<[usize]>>,
    /// Routes that take hosts that none names exactly, in order.
    others: Box<[usize]>,
}

#[derive(Debug)]
struct Compiled {
    host: HostMatch,
    path: CompiledPath,
    methods: Box<[Method]>,
}

#[derive(Debug)]
enum CompiledPath {
    Any,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
}

impl Router {
    #[must_use]
    pub fn build(routes: &[Route]) -> Self {
        let compiled: Vec<Compiled> = routes.iter().map(Compiled::from).collect();
        let matching = |takes: &dyn Fn(&HostMatch) -> bool| -> Box<[usize]> {
            let all = compiled.iter().enumerate();
            all.filter(|(_, route)| takes(&route.host))
                .map(|(index, _)| index)
                .collect()
        };
        let exact = compiled
            .iter()
            .filter_map(|route| match &route.host {
                HostMatch::Exact(name) => Some(name.as_bytes()),
                _ => None,
            })
            .map(|name| (name.into(), matching(&|host| takes_host(host, name))))
            .collect();
        let others = matching(&|host| !matches!(host, HostMatch::Exact(_)));
        Self {
            routes: compiled,
            exact,
            others,
        }
    }

    /// Index of the first route that takes a request. `host` as [`super::host::normalise`] and `path`
    /// as [`path::normalise`] give them. Allocates nothing.
    #[must_use]
    pub fn find(&self, host: &[u8], path: &[u8], method: &Method) -> Option<usize> {
        let known = self.exact.get(host);
        let candidates = known.unwrap_or(&self.others);
        candidates.iter().copied().find(|index| {
            self.routes.get(*index).is_some_and(|route| {
                (known.is_some() || takes_host(&route.host, host)) && route.takes(path, method)
            })
        })
    }
}

impl From<&Route> for Compiled {
    fn from(route: &Route) -> Self {
        let normal = |text: &String| path::normalise(text.as_bytes()).into_owned().into();
        Self {
            host: route.host.clone(),
            path: match &route.path {
                PathMatch::Prefix(prefix) if prefix == "/" => CompiledPath::Any,
                PathMatch::Prefix(prefix) => CompiledPath::Prefix(normal(prefix)),
                PathMatch::Exact(exact) => CompiledPath::Exact(normal(exact)),
            },
            methods: route.methods.clone().into(),
        }
    }
}

impl Compiled {
    fn takes(&self, path: &[u8], method: &Method) -> bool {
        let path_fits = match &self.path {
            CompiledPath::Any => true,
            CompiledPath::Exact(exact) => path == &**exact,
            CompiledPath::Prefix(prefix) => path.strip_prefix(&**prefix).is_some_and(|rest| {
                rest.is_empty() || rest.first() == Some(&b'/') || prefix.last() == Some(&b'/')
            }),
        };
        path_fits && (self.methods.is_empty() || self.methods.contains(method))
    }
}

fn takes_host(pattern: &HostMatch, host: &[u8]) -> bool {
    match pattern {
        HostMatch::Any => true,
        HostMatch::Exact(name) => name.as_bytes() == host,
        // Longer than the suffix: at least one label in front.
        HostMatch::Wildcard(suffix) => {
            host.len() > suffix.len() && host.ends_with(suffix.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: PathMatch, methods: &[Method]) -> Route {
        Route {
            name: host.into(),
            host: match host {
                "" => HostMatch::Any,
                _ if host.starts_with("*.") => HostMatch::Wildcard(host[1..].into()),
                _ => HostMatch::Exact(host.into()),
            },
            path,
            methods: methods.to_vec(),
            upstream: 0,
            challenge: true,
        }
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    #[test]
    fn the_first_match_wins() {
        let router = Router::build(&[
            route("app.example", prefix("/login"), &[Method::POST]),
            route("*.example", prefix("/static"), &[]),
            route("app.example", prefix("/"), &[]),
            route("", PathMatch::Exact("/healthz".into()), &[]),
            route("*.example", prefix("/"), &[Method::GET]),
            route("", prefix("/files/"), &[]),
        ]);
        let find = |method: Method, host: &str, path: &str| {
            router.find(host.as_bytes(), path.as_bytes(), &method)
        };
        assert_eq!(find(Method::POST, "app.example", "/login"), Some(0));
        assert_eq!(find(Method::POST, "app.example", "/login/x"), Some(0));
        assert_eq!(find(Method::GET, "app.example", "/login"), Some(2));
        assert_eq!(find(Method::POST, "app.example", "/loginx"), Some(2));
        assert_eq!(find(Method::GET, "app.example", "/static/a"), Some(1));
        assert_eq!(find(Method::GET, "app.example", "/healthz"), Some(2));
        assert_eq!(find(Method::GET, "other.example", "/healthz"), Some(3));
        assert_eq!(find(Method::GET, "a.b.example", "/x"), Some(4));
        assert_eq!(find(Method::POST, "a.b.example", "/x"), None);
        assert_eq!(find(Method::GET, "example", "/x"), None);
        assert_eq!(find(Method::GET, ".example", "/x"), None);
        assert_eq!(find(Method::GET, "x.test", "/healthz/"), None);
        assert_eq!(find(Method::GET, "x.test", "/files/a"), Some(5));
        assert_eq!(find(Method::GET, "x.test", "/files"), None);
    }

    #[test]
    fn routes_are_normalised_too() {
        let router = Router::build(&[route("", prefix("/%61dmin"), &[])]);
        assert_eq!(router.find(b"x", b"/admin/users", &Method::GET), Some(0));
    }
}
