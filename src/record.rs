//! What happened, written once: one structured [`Record`] a request, from which the line in the
//! access log and the metrics are both made.
//!
//! [`metrics`] owns the figures, [`access_log`] the lines. Nobody else counts or logs a request.

pub mod access_log;
pub mod metrics;
pub mod timestamp;

use crate::config::model;
use access_log::{AccessLog, Server};
use metrics::{Metrics, RouteMetrics};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use verdict::{
    decision::{Action, Finding},
    prefix::Prefix,
};

/// All there is to say of one request, borrowed from where it lies. Filled once, at its end.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When its first byte came.
    pub time: SystemTime,
    pub request_id: &'a str,
    pub client: Client<'a>,
    pub user: User<'a>,
    pub listener: &'a str,
    /// Where the client connected to.
    pub destination: SocketAddr,
    /// `None` in plaintext.
    pub tls: Option<Tls<'a>>,
    pub request: Request<'a>,
    pub response: Response,
    /// The handle of the route that took it; that of [`metrics::NO_ROUTE`] when none did.
    pub route: &'a RouteMetrics,
    /// Where it was forwarded to, if it was.
    pub upstream: Option<Upstream<'a>>,
    pub decision: Outcome<'a>,
    /// Why it went wrong, if it did.
    pub error: Option<Error<'a>>,
    /// From the first byte of the request to the end of the answer.
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub ip: IpAddr,
    pub network: Prefix,
    /// Empty when not known.
    pub ja4: &'a str,
    pub port: u16,
}

/// Empty texts where nobody is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct User<'a> {
    pub id: &'a str,
    pub session: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    pub version: &'a str,
    pub sni: &'a str,
}

/// Method, host and path are a client's bytes, however long; `path` comes without its query.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    pub host: &'a [u8],
    pub path: &'a [u8],
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Body bytes received.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// 0: closed without an answer.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    pub name: &'a str,
    /// The last one tried.
    pub endpoint: Option<SocketAddr>,
    /// From the first try to the end of its answer.
    pub took: Duration,
}

/// What was done, and every finding that was made on the way.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub action: Action,
    /// The enforced finding behind the action.
    pub finding: Option<&'a Finding>,
    /// Findings that did not bite.
    pub observed: &'a [Finding],
}

/// What went wrong: a word of this program, and a text that may quote others.
#[derive(Clone, Copy, Debug)]
pub struct Error<'a> {
    pub code: &'static str,
    pub text: &'a str,
}

impl<'a> Record<'a> {
    /// The route's name, when one took the request.
    #[must_use]
    pub fn route_name(&self) -> Option<&'a str> {
        let name = self.route.name();
        (name != metrics::NO_ROUTE).then_some(name)
    }
}

/// Writes records. Shared by all workers.
#[derive(Debug)]
pub struct Recorder {
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    server: Server,
}

impl Recorder {
    /// Opens the access log and starts its writer.
    ///
    /// # Errors
    /// The log's file can't be opened.
    pub fn start(destination: &model::AccessLog, metrics: Arc<Metrics>) -> io::Result<Self> {
        let access_log = AccessLog::start(destination, metrics.access_log_dropped())?;
        Ok(Self {
            metrics,
            access_log,
            server: Server::here(),
        })
    }

    /// Counts a request and writes its line. Blocks on nothing.
    pub fn record(&self, record: &Record<'_>) {
        let Outcome {
            action,
            finding,
            observed,
        } = record.decision;
        record
            .route
            .request(action, record.response.status, record.duration);
        for finding in finding.into_iter().chain(observed) {
            self.metrics.decision(finding);
        }
        self.access_log.write(record, &self.server);
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// To redirect it on a reload, reopen it after a rotation and flush it at the end.
    #[must_use]
    pub fn access_log(&self) -> &AccessLog {
        &self.access_log
    }
}
