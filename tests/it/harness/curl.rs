//! curl as the client: the real program, for h1, h2, TLS versions and names.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

/// A request to be made by curl.
#[derive(Clone, Debug)]
pub struct Curl {
    url: String,
    arguments: Vec<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// curl's exit code: 0 when an answer came.
    pub exit: i32,
    /// curl's own words about a failure.
    pub error: String,
    /// 0 when none came.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }
}

impl Curl {
    /// A request for `https://HOST:PORT/PATH`, whose host is looked for at `address`, and whose
    /// certificate the authority in `ca` must have signed.
    pub fn https(address: SocketAddr, host: &str, path: &str, ca: &Path) -> Self {
        let port = address.port();
        let url = format!("https://{host}:{port}{path}");
        let arguments = vec![
            "--resolve".into(),
            format!("{host}:{port}:{}", address.ip()),
            "--cacert".into(),
            ca.display().to_string(),
        ];
        Self { url, arguments }
    }

    /// A request for `http://ADDRESS/PATH`.
    pub fn http(address: SocketAddr, path: &str) -> Self {
        Self {
            url: format!("http://{address}{path}"),
            arguments: Vec::new(),
        }
    }

    /// Any further arguments.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.with(&["-H", &format!("{name}: {value}")])
    }

    pub fn method(self, method: &str) -> Self {
        self.with(&["-X", method])
    }

    /// Connects from this address of the loopback range.
    pub fn from(self, source: &str) -> Self {
        self.with(&["--interface", source])
    }

    pub fn http1(self) -> Self {
        self.with(&["--http1.1"])
    }

    pub fn http2(self) -> Self {
        self.with(&["--http2"])
    }

    /// Posts these bytes.
    pub fn data(self, data: &str) -> Self {
        self.with(&["--data-binary", data])
    }

    /// What a browser's navigation sends.
    pub fn navigating(self) -> Self {
        self.header("accept", "text/html,application/xhtml+xml")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
    }

    /// Makes the request; a failure is an answer too.
    pub fn send(&self) -> Response {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "30",
                "--noproxy",
                "*",
            ])
            .arg("--output")
            .arg(path("body"))
            .arg("--dump-header")
            .arg(path("headers"))
            .args(["--write-out", "%{http_code} %{http_version}"])
            .args(&self.arguments)
            .arg(&self.url)
            .output()
            .unwrap_or_else(|e| panic!("curl: {e}; run `make test`"));
        let facts = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, version) = facts.split_once(' ').unwrap_or(("0", ""));
        let raw = std::fs::read(path("headers")).unwrap_or_default();
        let raw = String::from_utf8_lossy(&raw).into_owned();
        // After redirects or 100-continue there are several blocks: the last is the answer's.
        let block = raw.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
        let headers = block
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Response {
            exit: output.status.code().unwrap_or(-1),
            error: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            status: status.parse().unwrap_or(0),
            version: version.to_owned(),
            headers,
            body: std::fs::read(path("body")).unwrap_or_default(),
        }
    }

    /// Makes the request, which must be answered.
    #[track_caller]
    pub fn answer(&self) -> Response {
        let response = self.send();
        assert!(
            response.status != 0,
            "no answer to {self:?}: {}",
            response.error
        );
        response
    }

    /// Makes the request and gives its status.
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.answer().status
    }
}
