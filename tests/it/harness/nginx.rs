//! A real nginx as upstream, in the foreground, in a folder of its own.

use super::{process::Process, wait_for};
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};
use tempfile::TempDir;

/// A running nginx. Its access log counts what reached it.
pub struct Nginx {
    // Before the folder, so that nginx ends before its folder goes.
    process: Process,
    pub address: SocketAddr,
    folder: TempDir,
}

/// `/` answers with what nginx saw of the request; `/slow` takes a second over its body;
/// `/big` is 8 MiB; `/upload` takes a body and says how long it was.
pub const SITE: &str = r#"
    location / {
        default_type application/json;
        return 200 '{"host":"$http_host","method":"$request_method","uri":"$request_uri","protocol":"$server_protocol","x_forwarded_for":"$http_x_forwarded_for","x_forwarded_proto":"$http_x_forwarded_proto","x_forwarded_host":"$http_x_forwarded_host","x_request_id":"$http_x_request_id","x_rempart_user":"$http_x_rempart_user","x_rempart_roles":"$http_x_rempart_roles","forwarded":"$http_forwarded","x_real_ip":"$http_x_real_ip","connection":"$http_connection","te":"$http_te","cookie":"$http_cookie","authorization":"$http_authorization","x_hop":"$http_x_hop","x_api_key":"$http_x_api_key","length":"$http_content_length","coding":"$http_transfer_encoding","subject":"$ssl_client_s_dn"}';
    }
    location = /page { default_type text/html; return 200 "<h1>hello</h1>"; }
    location = /healthz { return 200 "ok"; }
    location = /sick { return 503 "sick"; }
    location = /big { root html; default_type application/octet-stream; }
    location = /slow { root html; limit_rate 512k; default_type application/octet-stream; }
"#;

impl Nginx {
    /// Plain HTTP/1.1 with [`SITE`].
    pub fn start() -> Self {
        Self::with("", "", SITE)
    }

    /// `listen` adds words to the listen directive (`ssl`, `http2`), `server` lines to the server,
    /// `locations` are its locations.
    pub fn with(listen: &str, server: &str, locations: &str) -> Self {
        // Another process may take the port between finding and binding it: then the next.
        for _ in 0..10 {
            let address = free_address();
            if let Some(nginx) = Self::try_at(address, listen, server, locations) {
                return nginx;
            }
        }
        panic!("nginx found no port");
    }

    /// At a given address, as when an upstream returns.
    pub fn at(address: SocketAddr) -> Self {
        Self::try_at(address, "", "", SITE).expect("nginx at the address it had")
    }

    fn try_at(address: SocketAddr, listen: &str, server: &str, locations: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // Workers of nginx as root change to another user, who must reach the files.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(path.join("html")).unwrap();
        let bytes: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
        fs::write(path.join("html/big"), &bytes).unwrap();
        fs::write(path.join("html/slow"), &bytes[..1 << 20]).unwrap();
        fs::write(
            path.join("nginx.conf"),
            format!(
                r"
daemon off;
pid nginx.pid;
error_log error.log info;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log access.log;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 1000000;
  client_max_body_size 64m;
  server {{
    listen {address} {listen};
    {server}
    {locations}
  }}
}}
"
            ),
        )
        .unwrap();
        let mut process = Process::start(
            Command::new(program())
                .arg("-p")
                .arg(path)
                .arg("-c")
                .arg(path.join("nginx.conf"))
                .arg("-e")
                .arg(path.join("error.log")),
        );
        let up = wait_for("nginx listening", 20, || {
            if process.ended().is_some() {
                return Some(false);
            }
            TcpStream::connect(address).is_ok().then_some(true)
        });
        if !up || process.ended().is_some() {
            let log = fs::read_to_string(path.join("error.log")).unwrap_or_default();
            assert!(log.contains("Address already in use"), "nginx: {log}");
            return None;
        }
        Some(Self {
            process,
            address,
            folder,
        })
    }

    /// Requests that reached nginx, health checks aside.
    pub fn requests(&self) -> Vec<String> {
        fs::read_to_string(self.folder.path().join("access.log"))
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.contains("/healthz"))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Ends it as its master would: workers with it.
    pub fn stop(mut self) -> SocketAddr {
        self.process.signal("TERM");
        self.process.wait(10);
        self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM lets the master take its worker along; the kill that follows would orphan it.
        if self.process.ended().is_none() {
            self.process.signal("TERM");
            self.process.wait(10);
        }
    }
}

/// An address of the loopback that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn program() -> &'static Path {
    // Debian keeps it where a user's PATH doesn't look.
    let sbin = Path::new("/usr/sbin/nginx");
    if sbin.exists() {
        sbin
    } else {
        Path::new("nginx")
    }
}
