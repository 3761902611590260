//! The configuration as types that can't be wrong: every value here was checked at load, and every
//! file that the YAML names was read. Nothing here knows of YAML.

use arc_swap::ArcSwap;
use http::{HeaderName, Method};
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use rustls::sign::CertifiedKey;
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};
use verdict::{
    decision::Rung,
    policy::PolicySpec,
    prefix::PrefixLengths,
    pressure::{States, Thresholds},
};

/// A whole configuration. A request sees one of these from start to end.
#[derive(Debug)]
pub struct Config {
    /// The YAML file and every file it names, absolute: what the watcher watches.
    pub files: Vec<PathBuf>,
    pub listeners: Vec<Listener>,
    pub admin: Option<Admin>,
    pub clients: Clients,
    pub connections: Connections,
    /// `None`: nobody looks.
    pub pressure: Option<Pressure>,
    pub identity: Identity,
    pub upstreams: Vec<Upstream>,
    pub routes: Vec<Route>,
    /// Lists, rules and limits; its `routes` are in the order of [`Self::routes`].
    pub policy: PolicySpec,
    pub challenge: Challenge,
    pub bans: Bans,
    pub access_log: AccessLog,
    pub shutdown: Shutdown,
    /// The configuration as the admin API shows it: secrets masked, defaults filled in.
    pub masked: serde_json::Value,
    /// What an operator should know and that stops nothing: an expired certificate, a limit that no
    /// route uses.
    pub warnings: Vec<super::problem::Problem>,
}

/// One address to listen on.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub kind: ListenerKind,
    pub protocols: Protocols,
    /// PROXY v1/v2 is required from trusted proxies and refused from anyone else.
    pub proxy_protocol: bool,
}

impl Listener {
    /// The label for metrics and logs: the address.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }
}

#[derive(Clone, Debug)]
pub enum ListenerKind {
    /// Terminates TLS and forwards.
    Tls(Tls),
    /// Forwards plaintext HTTP.
    Plain,
    /// Redirects everything to `https://` with 308.
    Redirect,
}

#[derive(Clone, Debug)]
pub struct Tls {
    /// The first is served when no name matches the SNI.
    pub certificates: Vec<Certificate>,
    pub minimum_version: TlsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A certificate chain with its key, which were checked to fit each other.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// DNS names of the certificate, lower case; `*.example.com` is a wildcard.
    pub names: Vec<String>,
    /// Seconds since 1970 at which it expires.
    pub not_after: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub h2: bool,
    pub http1: bool,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub address: SocketAddr,
    /// What `authorization: Bearer` must carry for `/api/*`; `None`: the API is off.
    pub token: Option<Secret>,
}

/// Bytes that never show in a log.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves, to be used and not kept.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Constant-time comparison (the length alone may show).
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(given).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug)]
pub struct Clients {
    pub trusted_proxies: Vec<IpNet>,
    pub prefix: PrefixLengths,
}

/// Budgets of a client prefix, enforced before the TLS handshake.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Open connections of one client; `None`: no bound but `total`.
    pub per_client: Option<NonZeroU32>,
    /// New connections of one client.
    pub rate_per_client: Option<Rate>,
    /// Open connections of all clients.
    pub total: NonZeroU32,
    pub handshakes: Handshakes,
    pub http1: Http1Limits,
    pub http2: Http2Limits,
    pub timeouts: ClientTimeouts,
    /// What holds instead while the network is under pressure.
    pub under_pressure: Option<UnderPressure>,
}

impl Connections {
    /// What holds while these are raised, if that is anything else.
    #[must_use]
    pub fn under(&self, raised: States) -> Option<&UnderPressure> {
        let pressed = self.under_pressure.as_ref();
        pressed.filter(|pressed| pressed.during.meets(raised))
    }
}

/// What connections are held to while one of these states is raised.
#[derive(Clone, Debug, PartialEq)]
pub struct UnderPressure {
    pub during: States,
    /// Where it is shorter than usual.
    pub handshake: Option<Duration>,
    pub rate_per_client: Option<Rate>,
    /// Half of the places, and half of the handshake budget, are for clients that behaved of late.
    pub known_first: bool,
}

/// How the kernel's counters are read, and what they mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    pub every: Duration,
    pub thresholds: Thresholds,
}

/// What TLS handshakes may take while they come faster than they can be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Handshakes {
    /// Share of each worker's time, 0.01 to 1, that handshakes of unknown clients may take; `None`:
    /// no budget.
    pub cpu: Option<f64>,
    /// Unknown clients that may wait for it, for each worker.
    pub waiting: NonZeroU32,
}

/// How large the head of an HTTP/1 request may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http1Limits {
    /// Bytes of the request line.
    pub request_line: usize,
    /// Bytes of request line and headers together.
    pub header_bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// What an HTTP/2 connection may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Limits {
    /// Streams open at once.
    pub streams: NonZeroU32,
    /// Bytes of one request's headers, decoded.
    pub header_bytes: u32,
    /// `None`: odd frames are not scored.
    pub abuse: Option<AbuseLimits>,
}

/// When frames that only cost amount to abuse.
#[derive(Clone, Debug, PartialEq)]
pub struct AbuseLimits {
    /// Points at which a connection ends.
    pub points: NonZeroU32,
    /// How fast points are forgiven.
    pub recovery: Rate,
    /// Connections of one client that may end this way within ten minutes.
    pub strikes: NonZeroU32,
    /// How long the client is banned after that; `None`: never.
    pub ban: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub amount: NonZeroU32,
    pub period: Duration,
}

#[derive(Clone, Debug)]
pub struct ClientTimeouts {
    pub handshake: Duration,
    /// From the first byte of a request (or the end of the handshake) to complete headers.
    pub headers: Duration,
    /// Between requests of a connection.
    pub idle: Duration,
    /// Bytes a second that a request body must keep up; 0: any progress will do.
    pub body_minimum_rate: u64,
    /// Bytes a second that a client must take of an answer; 0: any progress will do.
    pub response_minimum_rate: u64,
    /// A request from first byte to last; it lives on while bytes move.
    pub request: Duration,
    /// How long streams of no foreseeable end (WebSocket, gRPC, event streams) may be silent in both
    /// directions.
    pub stream_idle: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub api_keys: Option<ApiKeys>,
    pub jwt: Option<Jwt>,
}

#[derive(Clone, Debug)]
pub struct ApiKeys {
    pub header: HeaderName,
    pub keys: Vec<ApiKey>,
}

#[derive(Clone)]
pub struct ApiKey {
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    pub user: String,
    pub roles: Vec<String>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({}, {:?}, ***)", self.user, self.roles)
    }
}

#[derive(Clone, Debug)]
pub struct Jwt {
    pub issuer: String,
    pub audience: String,
    /// Never `none`; symmetric ones only when the JWKS is a local file.
    pub algorithms: Vec<Algorithm>,
    pub keys: JwksSource,
    /// Claim that names the user, as a path of object keys.
    pub user: Vec<String>,
    /// Claim that lists the roles, as a path of object keys.
    pub roles: Option<Vec<String>>,
    /// Clock difference that `exp` and `nbf` forgive.
    pub leeway: Duration,
}

#[derive(Clone)]
pub enum JwksSource {
    File(jsonwebtoken::jwk::JwkSet),
    /// Fetched in the background, refreshed, and refetched (rate-limited) on an unknown `kid`.
    Url {
        url: String,
        refresh: Duration,
    },
}

impl std::fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // A set may hold symmetric keys.
            Self::File(set) => write!(f, "File({} keys, ***)", set.keys.len()),
            Self::Url { url, refresh } => write!(f, "Url({url}, {refresh:?})"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoints: Endpoints,
    pub balance: Balance,
    pub protocol: UpstreamProtocol,
    /// `None`: plaintext.
    pub tls: Option<UpstreamTls>,
    pub health_check: Option<HealthCheck>,
    pub ejection: Ejection,
    pub retries: Retries,
    pub timeouts: UpstreamTimeouts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Addresses, or names that are resolved in the background.
    List(Vec<HostPort>),
    /// Every A and AAAA address of the name.
    Dns { target: HostPort, refresh: Duration },
    /// Targets and ports of an SRV record.
    Srv { name: String, refresh: Duration },
}

/// `host` is an IP address without brackets or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    /// Consistent, by client prefix.
    Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    /// h2 over TLS, h2c with prior knowledge in plaintext.
    H2,
}

/// Verification is always on; there is no way to turn it off.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// DER certificates that may sign the upstream's; `None`: the system's.
    pub ca: Option<Vec<rustls::pki_types::CertificateDer<'static>>>,
    /// Never empty (an empty one would turn pingora's verification off).
    pub server_name: String,
    /// Chain and key that Rempart shows to the upstream, PKCS#8 or SEC1 or PKCS#1 DER.
    pub client: Option<Arc<ClientCertificate>>,
}

pub struct ClientCertificate {
    pub chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    pub key: rustls::pki_types::PrivateKeyDer<'static>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientCertificate({} in chain, ***)", self.chain.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub path: String,
    pub every: Duration,
    pub timeout: Duration,
    /// Good answers in a row until an endpoint takes requests again.
    pub healthy: u32,
    /// Bad answers in a row until it takes none.
    pub unhealthy: u32,
}

/// Passive: an endpoint that fails real requests rests for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Failures in a row (refused, reset, timed out, 502, 503, 504); 0 turns it off.
    pub failures: u32,
    pub rest: Duration,
    /// Share of the endpoints that may rest at once, 0 to 1.
    pub maximum: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retries {
    /// Further tries after the first.
    pub attempts: u32,
    /// Share of recent requests that may be retries, 0 to 1.
    pub budget: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// To the response headers, and between two reads of a body.
    pub response: Duration,
}

#[derive(Clone, Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub host: HostMatch,
    pub path: PathMatch,
    /// Empty: any.
    pub methods: Vec<Method>,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// Whether its visitors may be challenged.
    pub challenge: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    Any,
    /// Lower case, no port.
    Exact(String),
    /// `*.example.com` as `.example.com`: one label or more in front.
    Wildcard(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// By whole segments: `/a` takes `/a` and `/a/b`, not `/ab`; `/` takes all.
    Prefix(String),
    Exact(String),
}

#[derive(Clone, Debug)]
pub struct Challenge {
    /// Seal challenges and clearances: the first seals, all of them open. None: a random one, of this
    /// process alone.
    pub secrets: Vec<Secret>,
    /// Name of the clearance cookie.
    pub cookie: String,
    /// How long a clearance lasts.
    pub lifetime: Duration,
    /// What `challenge` without a rung picks from; at least one, mildest first.
    pub ladder: Vec<Rung>,
    /// Challenges a second, of this process, above which it counts as under load.
    pub load: u32,
    pub silent: Silent,
    pub proof_of_work: ProofOfWork,
    pub captcha: Captcha,
    /// `None`: there is no such rung.
    pub third_party: Option<ThirdParty>,
    /// The longest body of a challenged POST that is sent again after the climb, in bytes; 0: none.
    pub replay: u32,
    /// Not challenged once they are verified.
    pub crawlers: Vec<Crawler>,
    /// The DNS server that is asked about crawlers; `None`: the system's.
    pub resolver: Option<SocketAddr>,
    pub page: ChallengePage,
}

#[derive(Clone, Copy, Debug)]
pub struct Silent {
    /// Give the cookie with every page that is forwarded, so that it is there when it is wanted.
    pub ahead: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct ProofOfWork {
    /// Mean hashes that a visitor computes; where the adaptation begins.
    pub effort: u32,
    /// Whether the effort follows the time that visitors take.
    pub adapt: bool,
    /// What the median visitor is to take.
    pub solve_time: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Captcha {
    /// Wrong answers that a client may give within ten minutes.
    pub tries: u32,
}

/// A provider of captchas, asked by `siteverify`.
#[derive(Clone, Debug)]
pub struct ThirdParty {
    pub provider: Provider,
    /// Stands in the page.
    pub site_key: String,
    pub secret: Secret,
    /// `None`: the provider's own.
    pub verify_url: Option<String>,
    /// `None`: the provider's own.
    pub script_url: Option<String>,
    /// reCAPTCHA v3: from 0 (a bot) to 1.
    pub minimum_score: f64,
    /// For one answer of the provider.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Turnstile,
    Hcaptcha,
    /// Version 2: a box to tick.
    Recaptcha,
    /// Nothing to do: a score.
    RecaptchaV3,
}

/// The table of bans, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bans {
    /// Bans of single clients at once, memories included.
    pub capacity: u32,
    /// Absolute; `None`: a restart forgets bans.
    pub state_file: Option<PathBuf>,
    /// Not banned, whatever they do.
    pub never: Vec<IpNet>,
    /// Names of lists that are dropped below the socket as well.
    pub feeds: Vec<Arc<str>>,
    /// `None`: bans are enforced in user space alone.
    pub kernel: Option<Kernel>,
}

/// Who speaks to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// A process that this one starts.
    Own {
        backend: KernelBackend,
        /// Empty: the guard finds them.
        interfaces: Vec<String>,
        ports: KernelPorts,
        /// Whether floods that are reflected here are dropped while they last.
        drop_reflected: bool,
    },
    /// One that listens there.
    Shared(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelBackend {
    /// The best that works here.
    Auto,
    Xdp,
    Nftables,
}

/// Of packets to which ports a banned client is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPorts {
    /// Those that Rempart listens on.
    Listeners,
    All,
}

/// As if nothing had been written.
impl Default for Bans {
    fn default() -> Self {
        Self {
            capacity: 200_000,
            state_file: None,
            never: Vec::new(),
            feeds: Vec::new(),
            kernel: None,
        }
    }
}

/// A search engine's crawler, told by its address: the reverse name lies in one of the domains, and
/// leads back to the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crawler {
    pub name: Arc<str>,
    /// What its `user-agent` has in it.
    pub agent: String,
    /// Lower case, without a leading dot.
    pub domains: Vec<String>,
}

/// As if nothing had been written.
impl Default for Challenge {
    fn default() -> Self {
        Self {
            secrets: Vec::new(),
            cookie: "rempart-clearance".to_owned(),
            lifetime: Duration::from_secs(4 * 3600),
            ladder: vec![Rung::Silent, Rung::ProofOfWork, Rung::Captcha],
            load: 100,
            silent: Silent { ahead: false },
            proof_of_work: ProofOfWork {
                effort: 500_000,
                adapt: true,
                solve_time: Duration::from_millis(500),
            },
            captcha: Captcha { tries: 10 },
            third_party: None,
            replay: 32 * 1024,
            crawlers: Vec::new(),
            resolver: None,
            page: ChallengePage::default(),
        }
    }
}

/// What operators may change of the page.
#[derive(Clone, Debug, Default)]
pub struct ChallengePage {
    /// The site's name, shown above.
    pub name: Option<String>,
    pub logo: Option<Logo>,
    /// How to get help, by language tag; under an empty tag for all the others.
    pub help: Vec<(String, String)>,
}

/// A picture for the page.
#[derive(Clone, Debug)]
pub struct Logo {
    /// `image/svg+xml` or `image/png`.
    pub media_type: &'static str,
    pub bytes: Arc<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// How long open requests may still take after SIGTERM.
    pub grace: Duration,
}

/// The configuration in force, swapped whole.
pub type Current = Arc<ArcSwap<Config>>;

/// Without bounds that a test did not ask for.
#[cfg(test)]
mod lenient {
    use super::{Handshakes, Http1Limits, Http2Limits, NonZeroU32};

    impl Default for Handshakes {
        fn default() -> Self {
            Self {
                cpu: None,
                waiting: NonZeroU32::MIN,
            }
        }
    }

    impl Default for Http1Limits {
        fn default() -> Self {
            Self {
                request_line: 16 * 1024,
                header_bytes: 64 * 1024,
                headers: 128,
            }
        }
    }

    impl Default for Http2Limits {
        fn default() -> Self {
            Self {
                streams: NonZeroU32::MIN.saturating_add(127),
                header_bytes: 64 * 1024,
                abuse: None,
            }
        }
    }
}
