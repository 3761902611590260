//! `rempart demo`: a sample app behind the full proxy, with a configuration that shows what each
//! part does. The configuration is written to a folder of its own, which goes when the demo ends;
//! serving it is the same code that serves any other.

mod app;

use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// How long the proxy may take to listen before the demo gives up telling what to try.
const START: Duration = Duration::from_secs(30);

/// Serve a sample app behind the full proxy, and say what to try.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port for HTTPS.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub port: u16,
    /// Port for HTTP, which redirects to HTTPS.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Port of the admin listener.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    pub admin_port: u16,
}

/// A demo that is ready to be served.
#[derive(Debug)]
pub struct Demo {
    /// The configuration to serve.
    pub config: PathBuf,
    /// What to open and what to try, for a terminal.
    pub text: String,
    app: TcpListener,
    https: SocketAddr,
    folder: Folder,
}

/// Runs the demo: starts the sample app and has `serve` serve the configuration until it ends.
pub fn run(options: &Options, serve: impl FnOnce(&Path) -> ExitCode) -> ExitCode {
    let demo = match prepare(options) {
        Ok(demo) => demo,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let Demo {
        config,
        text,
        app,
        https,
        folder,
    } = demo;
    // Both threads end with the process.
    thread::spawn(move || app::run(app));
    thread::spawn(move || announce(https, &text));
    let code = serve(&config);
    drop(folder);
    code
}

/// Checks the ports, starts listening for the sample app and writes the configuration.
///
/// # Errors
/// A port is taken, or the folder can't be written: in words for the user.
pub fn prepare(options: &Options) -> Result<Demo, String> {
    let ports = [
        (options.port, "--port"),
        (options.http_port, "--http-port"),
        (options.admin_port, "--admin-port"),
    ];
    for (port, option) in ports {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            format!("port {port} can't be listened on ({error}); pick another with {option}")
        })?;
    }
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|app| app.local_addr().map(|address| (app, address)));
    let (app, address) = app.map_err(|error| format!("the sample app can't listen: {error}"))?;
    let folder =
        Folder::create().map_err(|error| format!("no folder for the demo's files: {error}"))?;
    let config = write_files(&folder, options, address)
        .map_err(|error| format!("the demo's files can't be written: {error}"))?;
    Ok(Demo {
        text: instructions(options, &config, &folder.0),
        config,
        app,
        https: (Ipv4Addr::LOCALHOST, options.port).into(),
        folder,
    })
}

/// Prints the text once the proxy listens.
fn announce(https: SocketAddr, text: &str) {
    let end = Instant::now() + START;
    while TcpStream::connect_timeout(&https, START).is_err() {
        if Instant::now() > end {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn write_files(folder: &Folder, options: &Options, app: SocketAddr) -> io::Result<PathBuf> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    folder.write("demo.pem", &made.cert.pem())?;
    folder.write("demo.key", &made.signing_key.serialize_pem())?;
    folder.write("admin.token", &random_hex()?)?;
    folder.write("challenge.secret", &random_hex()?)?;
    folder.write("rempart.yaml", &configuration(options, app))
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("no random bytes"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The YAML that the demo serves.
fn configuration(options: &Options, app: SocketAddr) -> String {
    let Options {
        port,
        http_port,
        admin_port,
    } = options;
    format!(
        r#"# What `rempart demo` serves. Change it while it runs: it reloads.

listeners:
  - address: 127.0.0.1:{port}
    tls:
      certificates:
        - {{ certificate: demo.pem, private_key: demo.key }}
    protocols: [h2, http/1.1]
  - {{ address: 127.0.0.1:{http_port}, redirect_to: https }}

admin:
  address: 127.0.0.1:{admin_port}
  token_file: admin.token

access_log: access.log

# Loopback is one client here, so it may open connections faster than a visitor would.
connections:
  per_client: 256
  rate_per_client: 200/s

challenge:
  secret_file: challenge.secret

upstreams:
  app:
    endpoints: ["{app}"]
    health_check: {{ path: /healthz, every: 2s }}

routes:                              # first match wins
  - {{ name: login, path: /login, methods: [POST], upstream: app, limits: [per-login] }}
  - {{ name: slow, path: /slow, upstream: app, limits: [slow] }}
  - {{ name: protected, path: /protected, upstream: app }}
  - {{ name: app, path: /, upstream: app }}

limits:
  per-ip:    {{ key: [client.ip], rate: 20/s, burst: 40, over: throttle, all: true }}
  # A short ban, for in the demo it is you who is banned.
  per-login: {{ key: [client.ip, route], rate: 5/m, burst: 5, over: {{ ban: 30s }} }}
  slow:      {{ key: [route], concurrent: 4, queue: 4, wait: 2s, over: throttle }}

rules:
  - {{ name: prove-it, when: 'route == "protected"', then: challenge }}
  - {{ name: repository, when: 'request.path.startsWith("/.git")', then: deny }}
  # Counted and logged as if it bit; take `mode: shadow` away and it does.
  - {{ name: probes, when: 'request.path.startsWith("/wp-")', then: deny, mode: shadow }}
"#
    )
}

/// What the user sees in the end.
fn instructions(options: &Options, config: &Path, folder: &Path) -> String {
    let Options {
        port,
        http_port,
        admin_port,
    } = options;
    let config = config.display();
    let log = folder.join("access.log");
    let log = log.display();
    format!(
        r"
  Rempart stands in front of a sample app.

  Open      https://localhost:{port}/             (the certificate is self-signed: go past the warning)
            https://localhost:{port}/protected    asks the browser for a proof of work first

  Try       in another terminal:

    a flood gets 429 after 40 requests, until it slows down
      curl -sk -o /dev/null -w '%{{http_code}}\n' 'https://localhost:{port}/api/hello?n=[1-60]' | sort | uniq -c

    what a refusal looks like to a program, and to a browser
      curl -sk -i https://localhost:{port}/.git/config
      curl -sk -i -H 'accept: text/html' -H 'sec-fetch-mode: navigate' https://localhost:{port}/.git/config

    a rule in the shadow: counted, and not enforced
      curl -sk -o /dev/null -w '%{{http_code}}\n' https://localhost:{port}/wp-login.php
      curl -s http://127.0.0.1:{admin_port}/metrics | grep rempart_decisions_total

    plain HTTP is redirected, streams stream
      curl -si http://localhost:{http_port}/ | head -n 3
      curl -skN https://localhost:{port}/stream

    ten at once where four may pass and four may wait for them
      seq 10 | xargs -P 10 -I N curl -sk -o /dev/null -w '%{{http_code}}\n' https://localhost:{port}/slow | sort | uniq -c

    guessing passwords gets this client banned for 30 s: connections just close
      for i in 1 2 3 4 5 6 7; do curl -sk -o /dev/null -w '%{{http_code}}\n' -d user=a https://localhost:{port}/login; done
      rempart bans list   --config {config}
      rempart bans remove --config {config} 127.0.0.1

  Look at   {config}    (edit it: it reloads)
            {log}
            http://127.0.0.1:{admin_port}/metrics   /healthz   /readyz

  Ctrl-C ends it.

"
    )
}

/// A folder of this user's own, removed in the end.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn create() -> io::Result<Self> {
        let name = format!("rempart-demo-{}", uuid::Uuid::now_v7().simple());
        let path = std::env::temp_dir().join(name);
        // Fails if somebody else has made it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?
            .write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
