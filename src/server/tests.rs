//! The whole process, as `rempart run` is one: this test binary once more, with a configuration in
//! its environment. Only here can a worker be made to panic.

use super::run;
use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    num::NonZeroUsize,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

const CONFIG: &str = "REMPART_TEST_CONFIG";
/// Seconds until a test that would hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

const DOOMED: &str = "REMPART_TEST_DOOMED";

/// Called at the start: a vital task that panics when the first bytes come to the address that the
/// environment names.
pub fn doom(vital: &mut super::Vital) {
    if let Ok(address) = env::var(DOOMED) {
        vital.spawn("a doomed task", async move {
            let mut trigger = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut trigger, &mut byte).await;
            panic!("the test asked: {read:?}");
        });
    }
}

/// Called within the accept loops.
pub fn panic_for(address: IpAddr) {
    assert_ne!(address, IpAddr::from([127, 0, 0, 77]), "the test asked");
}

/// No test by itself: the process that the others start.
#[test]
fn process() {
    if let Some(config) = env::var_os(CONFIG) {
        crate::logs::start();
        let code = run(Path::new(&config), NonZeroUsize::new(2));
        std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 70 });
    }
}

struct Process {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Process {
    fn start(config: &Path, environment: &[(&str, String)]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "server::tests::process", "--nocapture"])
            .env(CONFIG, config)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line with this message.
    fn wait_for(&self, message: &str) -> serde_json::Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect(message);
            match serde_json::from_str::<serde_json::Value>(&line) {
                Ok(value)
                    if value["message"]
                        .as_str()
                        .is_some_and(|m| m.contains(message)) =>
                {
                    return value;
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it goes on");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

fn configuration(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let config = folder.path().join("rempart.yaml");
    let yaml = "listeners: [{ address: 127.0.0.1:0 }, { address: 127.0.0.1:0, redirect_to: https }]\n\
                upstreams: { app: { endpoints: [127.0.0.1:1] } }\n\
                routes: [{ name: app, path: /, upstream: app }]\n";
    std::fs::write(&config, yaml).unwrap();
    config
}

#[test]
fn a_listener_that_dies_ends_the_process_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(&configuration(&folder), &[]);
    let address = process.wait_for("listening")["address"].clone();
    let address = address.as_str().unwrap().parse().unwrap();
    process.wait_for("serving");
    let mut client = connect([127, 0, 0, 1], address);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    assert!(process.child.try_wait().unwrap().is_none());
    let hostile = connect([127, 0, 0, 77], address);
    let panic = process.wait_for("a panic")["message"].clone();
    assert!(
        panic.as_str().unwrap().contains("the test asked"),
        "{panic}"
    );
    let error = process.wait_for("stopped")["error"].clone();
    assert!(error.as_str().unwrap().contains("panicked"), "{error}");
    assert_eq!(process.wait(), Some(70));
    drop(hostile);
}

#[test]
fn a_vital_task_that_dies_ends_the_process_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = trigger.local_addr().unwrap().to_string();
    let mut process = Process::start(&configuration(&folder), &[(DOOMED, address)]);
    process.wait_for("serving");
    assert!(process.child.try_wait().unwrap().is_none());
    trigger.accept().unwrap().0.write_all(b"!").unwrap();
    let error = process.wait_for("stopped")["error"].clone();
    let error = error.as_str().unwrap();
    assert!(
        error.starts_with("a doomed task: ") && error.contains("panicked"),
        "{error}"
    );
    assert_eq!(process.wait(), Some(70));
}
