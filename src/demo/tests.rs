//! The demo: its configuration loads, its app answers.

use super::*;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Ports that were free a moment ago.
fn options() -> Options {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [port, http_port, admin_port] =
        listeners.map(|listener| listener.local_addr().unwrap().port());
    Options {
        port,
        http_port,
        admin_port,
    }
}

#[test]
fn files_are_the_users_own_and_go_in_the_end() {
    let options = options();
    let demo = prepare(&options).unwrap();
    let folder = demo.folder.0.clone();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for name in [
        "demo.key",
        "admin.token",
        "challenge.secret",
        "rempart.yaml",
    ] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    let yaml = fs::read_to_string(&demo.config).unwrap();
    let app = demo.app.local_addr().unwrap();
    assert!(yaml.contains(&format!("[\"{app}\"]")), "{yaml}");
    assert!(!yaml.contains("{{"), "{yaml}");
    for port in [options.port, options.http_port, options.admin_port] {
        assert!(yaml.contains(&format!("127.0.0.1:{port}")));
        assert!(demo.text.contains(&port.to_string()));
    }
    drop(demo);
    assert!(!folder.exists());
}

#[test]
fn a_port_that_is_taken_is_named() {
    let mut options = options();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    options.http_port = taken.local_addr().unwrap().port();
    let error = prepare(&options).unwrap_err();
    assert!(error.contains(&options.http_port.to_string()), "{error}");
    assert!(error.contains("--http-port"), "{error}");
}

/// The whole answer of the sample app to a request without a body.
async fn ask(address: SocketAddr, line: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nx-seen: yes\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_sample_app_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let app = tokio::spawn(app::serve(listener));
    for (line, expected) in [
        ("GET /", "A sample app"),
        ("GET /healthz", "ok"),
        ("PUT /api/hello?a=b", r#""x-seen":"yes""#),
        ("POST /login", "401 Unauthorized"),
        ("GET /protected", "You are in"),
        ("GET /slow", "that took a while"),
        ("GET /stream", "tick 10 of 10"),
        ("GET /nothing", "404 Not Found"),
    ] {
        let answer = ask(address, line).await;
        assert!(answer.contains(expected), "{line}: {answer}");
    }
    app.abort();
}
