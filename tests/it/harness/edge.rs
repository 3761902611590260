//! The built `rempart` with a configuration in a folder of its own.

use super::{Authority, Curl, metrics::Metrics, process::Process, raw, wait_for};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// What `/api/*` asks of the tests.
pub const ADMIN_TOKEN: &str = "a-token-of-the-tests";

/// Three listeners (TLS for app.example.com and other.example.com, plaintext, redirect) and the
/// admin interface.
pub const HEAD: &str = r"
listeners:
  - address: 127.0.0.1:0
    tls:
      certificates:
        - { certificate: tls/app.pem, private_key: tls/app.key }
        - { certificate: tls/other.pem, private_key: tls/other.key }
  - { address: 127.0.0.1:0 }
  - { address: 127.0.0.1:0, redirect_to: https }
admin: { address: 127.0.0.1:0, token_file: secrets/admin.token }
";

/// A folder that a configuration can stand in: certificates and secrets are there.
pub struct Folder {
    pub dir: TempDir,
    pub authority: Authority,
}

impl Folder {
    pub fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
        };
        for name in ["tls", "secrets", "lists"] {
            fs::create_dir(folder.path(name)).unwrap();
        }
        folder.write("tls/ca.pem", &folder.authority.pem());
        folder.certificate("app", &["app.example.com", "localhost", "127.0.0.1"]);
        folder.certificate("other", &["other.example.com", "*.wild.example.com"]);
        folder.write("secrets/admin.token", ADMIN_TOKEN);
        folder
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file the way deployments do: whole, by rename.
    pub fn write(&self, relative: &str, content: &str) {
        let path = self.path(relative);
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Makes `tls/NAME.pem` and `tls/NAME.key`.
    pub fn certificate(&self, name: &str, names: &[&str]) {
        self.authority.pair(names).write(&self.path("tls"), name);
    }
}

/// A running `rempart run`.
pub struct Edge {
    process: Process,
    pub folder: Folder,
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// `rempart ARGUMENTS`, run to its end.
pub fn rempart(arguments: &[&str]) -> Output {
    command()
        .args(arguments)
        .output()
        .expect("the built rempart runs")
}

/// The built `rempart`, without arguments.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rempart"));
    command.env_remove("REMPART_LOG");
    command
}

impl Edge {
    /// Starts with [`HEAD`] and this.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::in_folder(Folder::new(), &format!("{HEAD}{yaml}"))
    }

    /// Starts with this configuration and no other, in a prepared folder.
    #[track_caller]
    pub fn in_folder(folder: Folder, yaml: &str) -> Self {
        folder.write("rempart.yaml", &roomy(yaml));
        let file = folder.path("rempart.yaml");
        Self::run(folder, &file)
    }

    /// Starts with a file that is there already.
    #[track_caller]
    pub fn run(folder: Folder, file: &Path) -> Self {
        Self::started(folder, file, &mut command())
    }

    /// Starts this command, which is a `rempart` with what it needs before its arguments.
    #[track_caller]
    pub fn started(folder: Folder, file: &Path, command: &mut Command) -> Self {
        let mut process = Process::start(command.arg("run").arg("--config").arg(file));
        // The admin address is bound last: when it is known, all are. Without one, /readyz can't
        // be asked, and the listeners are counted instead.
        let yaml = fs::read_to_string(file).unwrap();
        let expected = yaml.matches("address:").count();
        let bound = wait_for("rempart listening", 20, || {
            if let Some(status) = process.ended() {
                panic!(
                    "rempart ended at start ({status}):\n{}\n{yaml}",
                    process.stderr().join("\n")
                );
            }
            let bound: Vec<_> = process
                .stderr()
                .iter()
                .filter_map(|l| listening(l))
                .collect();
            (bound.len() >= expected).then_some(bound)
        });
        let mut listeners = Vec::new();
        let mut admin = None;
        for (name, address) in bound {
            if name == "admin" {
                admin = Some(address);
            } else {
                listeners.push(address);
            }
        }
        let edge = Self {
            process,
            folder,
            listeners,
            admin,
        };
        if edge.admin.is_some() {
            wait_for("/readyz", 20, || {
                (edge.admin_get("/readyz").send().status == 200).then_some(())
            });
        }
        edge
    }

    /// The address of the listener at this place in the configuration.
    pub fn listener(&self, index: usize) -> SocketAddr {
        *self
            .listeners
            .get(index)
            .unwrap_or_else(|| panic!("listener {index} of {:?}", self.listeners))
    }

    pub fn tls(&self) -> SocketAddr {
        self.listener(0)
    }

    pub fn plain(&self) -> SocketAddr {
        self.listener(1)
    }

    pub fn redirect(&self) -> SocketAddr {
        self.listener(2)
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path("tls/ca.pem")
    }

    /// A request to app.example.com over TLS.
    pub fn get(&self, path: &str) -> Curl {
        self.get_host("app.example.com", path)
    }

    pub fn get_host(&self, host: &str, path: &str) -> Curl {
        Curl::https(self.tls(), host, path, &self.ca())
    }

    /// A request to the admin interface, without a token.
    pub fn admin_get(&self, path: &str) -> Curl {
        Curl::http(self.admin(), path)
    }

    /// A request to the admin interface, with the token.
    pub fn api(&self, path: &str) -> Curl {
        self.admin_get(path)
            .header("authorization", &format!("Bearer {ADMIN_TOKEN}"))
    }

    /// A TLS connection of rustls to app.example.com, from a source address.
    pub fn connect(&self, source: &str) -> raw::Tls {
        let tcp = raw::connect(source, self.tls()).expect("a connection");
        raw::tls(
            tcp,
            "app.example.com",
            &self.folder.authority,
            &[b"http/1.1"],
        )
        .expect("a handshake")
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin_get("/metrics").answer().text())
    }

    /// The sum of the series of this name and these labels, now.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// The access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        self.process
            .stdout()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}")))
            .collect()
    }

    /// The line of the request with this id, as soon as it is written.
    #[track_caller]
    pub fn logged(&self, request_id: &str) -> Value {
        wait_for("a line in the access log", 10, || {
            self.access_log()
                .into_iter()
                .find(|line| line["request_id"] == request_id)
        })
    }

    /// What it says of itself, so far.
    pub fn log(&self) -> String {
        self.process.stderr().join("\n")
    }

    /// Writes a new configuration ([`HEAD`] and this), and waits until it is in force or refused:
    /// until `rempart_config_reloads_total` of either moved.
    #[track_caller]
    pub fn reload(&self, yaml: &str) {
        let before = self.reloads();
        self.folder
            .write("rempart.yaml", &roomy(&format!("{HEAD}{yaml}")));
        self.wait_for_reload_after(before);
    }

    pub fn reloads(&self) -> f64 {
        self.metric("rempart_config_reloads_total", &[])
    }

    #[track_caller]
    pub fn wait_for_reload_after(&self, before: f64) {
        wait_for("a reload", 15, || (self.reloads() > before).then_some(()));
    }

    /// What is left when it has ended.
    pub fn into_folder(self) -> Folder {
        self.folder
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

/// curl connects anew for each request: a test that says nothing of connections has no budget of
/// them to run into.
fn roomy(yaml: &str) -> String {
    if yaml.contains("\nconnections:") {
        yaml.to_owned()
    } else {
        format!("{yaml}\nconnections: {{ per_client: off, rate_per_client: off }}\n")
    }
}

/// The log line, if it has this message.
pub fn message(line: &str, message: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value.get("message")?.as_str()? == message).then_some(value)
}

/// The listener's name and bound address, of a log line that says so.
fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let fields = message(line, "listening")?;
    let name = fields.get("listener")?.as_str()?.to_owned();
    let address = fields.get("address")?.as_str()?.parse().ok()?;
    Some((name, address))
}
