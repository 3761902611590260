//! Tables of raw requests, as readable files: `tests/it/requests/*.txt` say their format.

use super::file;
use std::fs;

/// One request as it goes on the wire.
#[derive(Debug)]
pub struct Case {
    pub status: u16,
    pub what: String,
    pub bytes: Vec<u8>,
}

impl Case {
    /// Whether its answer has no body.
    pub fn is_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// Whether the connection ends with its answer, rightly.
    pub fn is_last(&self) -> bool {
        let text = String::from_utf8_lossy(&self.bytes).to_ascii_lowercase();
        let keeps = text.contains("connection: keep-alive");
        text.contains(", close") || (text.contains("http/1.0") && !keeps)
    }
}

/// The cases of `tests/it/requests/NAME`.
pub fn cases(name: &str) -> Vec<Case> {
    let path = file("tests/it/requests").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut cases: Vec<Case> = Vec::new();
    let mut lines: Vec<&str> = Vec::new();
    let finish = |cases: &mut Vec<Case>, lines: &mut Vec<&str>| {
        if let Some(case) = cases.last_mut() {
            // The empty line before the next case.
            assert_eq!(lines.pop(), Some(""), "{}", case.what);
            case.bytes = lines.drain(..).flat_map(unescape_line).collect();
        }
        lines.clear();
    };
    for line in text.split('\n') {
        match line.strip_prefix("== ") {
            Some(title) => {
                finish(&mut cases, &mut lines);
                let (status, what) = title.split_once(' ').expect("a status and a name");
                cases.push(Case {
                    status: status.parse().expect("a status"),
                    what: what.to_owned(),
                    bytes: Vec::new(),
                });
            }
            None if line.starts_with('#') && cases.is_empty() => {}
            None => lines.push(line),
        }
    }
    finish(&mut cases, &mut lines);
    cases
}

fn unescape_line(line: &str) -> Vec<u8> {
    let (line, end) = match line.strip_suffix('\\') {
        Some(line) => (line, ""),
        None => (line, "\r\n"),
    };
    let mut bytes = expand(line);
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

/// `{BYTES*COUNT}` and escapes.
fn expand(text: &str) -> Vec<u8> {
    if let Some((before, rest)) = text.split_once('{')
        && let Some((inside, after)) = rest.split_once('}')
        && let Some((repeated, count)) = inside.rsplit_once('*')
        && let Ok(count) = count.parse()
    {
        let mut bytes = unescape(before);
        bytes.extend(unescape(repeated).repeat(count));
        bytes.extend(expand(after));
        return bytes;
    }
    unescape(text)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("an escape {other:?} in {text:?}"),
        });
    }
    bytes
}
