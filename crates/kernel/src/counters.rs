//! The kernel's counters of TCP and UDP, from `/proc/net`. Anybody may read them; they are those of the
//! network namespace in which this process opened them.
//!
//! The files are opened once and read from their beginning each time, into a buffer that is kept. What
//! they say is found by name: kernels add and leave out columns. What a field is good for is said at
//! [`Counters`].

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use verdict::pressure::Counters;

/// What one read takes at first; `netstat` has some 7 KiB.
const USUAL: usize = 16 * 1024;
/// No file is read beyond this.
const LARGEST: usize = 256 * 1024;

/// Reads the counters again and again.
#[derive(Debug)]
pub struct CounterReader {
    netstat: Source,
    snmp: Source,
    /// Not there on a host without IPv6.
    snmp6: Source,
    buffer: Vec<u8>,
}

impl CounterReader {
    /// Of this process's network namespace.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Path::new("/proc/net"))
    }

    fn of(folder: &Path) -> Self {
        let source = |name| Source {
            path: folder.join(name),
            file: None,
        };
        Self {
            netstat: source("netstat"),
            snmp: source("snmp"),
            snmp6: source("snmp6"),
            buffer: vec![0; USUAL],
        }
    }

    /// The counters as they are now. What can't be read is `None` in them.
    ///
    /// # Errors
    /// When none of the files can be read.
    pub fn read(&mut self) -> io::Result<Counters> {
        let mut counters = Counters::default();
        let buffer = &mut self.buffer;
        let netstat = self.netstat.read(buffer);
        if let Ok(text) = &netstat {
            tables(text, |table, name, value| {
                netstat_field(&mut counters, table, name, value);
            });
        }
        let netstat = netstat.map(drop);
        let snmp = self.snmp.read(buffer);
        if let Ok(text) = &snmp {
            tables(text, |table, name, value| {
                snmp_field(&mut counters, table, name, value);
            });
        }
        let snmp = snmp.map(drop);
        if let Ok(text) = self.snmp6.read(buffer) {
            lines(text, |name, value| snmp6_field(&mut counters, name, value));
        }
        match (netstat, snmp) {
            (Err(error), Err(_)) => Err(error),
            _ => Ok(counters),
        }
    }
}

impl Default for CounterReader {
    fn default() -> Self {
        Self::new()
    }
}

/// A file that is kept open.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: Option<File>,
}

impl Source {
    /// The whole of it, or as much as is read of any.
    fn read<'b>(&mut self, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let mut length = 0;
        // A file that fails is opened anew the next time.
        loop {
            let room = buffer.get_mut(length..).unwrap_or_default();
            match file.read_at(room, length as u64) {
                Ok(0) => break,
                Ok(read) => length = length.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if length >= buffer.len() {
                if buffer.len() >= LARGEST {
                    break;
                }
                let more = buffer.len().saturating_mul(2).min(LARGEST);
                buffer.resize(more, 0);
            }
        }
        self.file = Some(file);
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

/// Pairs of lines: the names of a table, then its values, both after the table's name.
fn tables(text: &[u8], mut each: impl FnMut(&[u8], &[u8], u64)) {
    let mut lines = text.split(|byte| *byte == b'\n');
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let mut names = words(names);
        let mut values = words(values);
        let table = names.next();
        if table.is_none() || table != values.next() {
            // Not a pair: nothing behind it would be one.
            return;
        }
        for (name, value) in names.zip(values) {
            if let Some(value) = number(value) {
                each(table.unwrap_or_default(), name, value);
            }
        }
    }
}

/// A name and its value a line.
fn lines(text: &[u8], mut each: impl FnMut(&[u8], u64)) {
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = words(line);
        if let (Some(name), Some(value)) = (words.next(), words.next().and_then(number)) {
            each(name, value);
        }
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// `None` for what is negative (`MaxConn` is -1), too large or no number.
fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn netstat_field(counters: &mut Counters, table: &[u8], name: &[u8], value: u64) {
    if table != b"TcpExt:" {
        return;
    }
    let field = match name {
        b"SyncookiesSent" => &mut counters.cookies_sent,
        b"SyncookiesRecv" => &mut counters.cookies_received,
        b"ListenOverflows" => &mut counters.listen_overflows,
        b"ListenDrops" => &mut counters.listen_drops,
        b"TCPReqQFullDrop" => &mut counters.syn_drops,
        b"TCPSynRetrans" => &mut counters.syn_retransmits,
        b"TCPAbortOnData" | b"TCPAbortOnClose" | b"TCPAbortOnMemory" | b"TCPAbortOnTimeout"
        | b"TCPAbortOnLinger" => return add(&mut counters.aborts, value),
        _ => return,
    };
    *field = Some(value);
}

fn snmp_field(counters: &mut Counters, table: &[u8], name: &[u8], value: u64) {
    let field = match (table, name) {
        (b"Tcp:", b"PassiveOpens") => &mut counters.passive_opens,
        (b"Tcp:", b"ActiveOpens") => &mut counters.active_opens,
        (b"Tcp:", b"OutRsts") => &mut counters.resets_sent,
        (b"Udp:", b"NoPorts") => return add(&mut counters.udp_no_ports, value),
        (b"Udp:", b"RcvbufErrors") => return add(&mut counters.udp_overflows, value),
        _ => return,
    };
    *field = Some(value);
}

fn snmp6_field(counters: &mut Counters, name: &[u8], value: u64) {
    match name {
        b"Udp6NoPorts" => add(&mut counters.udp_no_ports, value),
        b"Udp6RcvbufErrors" => add(&mut counters.udp_overflows, value),
        _ => {}
    }
}

fn add(field: &mut Option<u64>, value: u64) {
    *field = Some(field.unwrap_or(0).saturating_add(value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fs, net::TcpListener, net::TcpStream, net::UdpSocket};

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn fields_are_found_by_their_names_wherever_they_stand() {
        let folder = folder(&[
            (
                "netstat",
                b"TcpExt: New SyncookiesRecv TCPAbortOnData SyncookiesSent TCPAbortOnClose\n\
                  TcpExt: 9 2 10 1 20\nIpExt: SyncookiesSent\nIpExt: 77\n",
            ),
            (
                "snmp",
                b"Tcp: MaxConn PassiveOpens OutRsts\nTcp: -1 5 6\nUdp: NoPorts RcvbufErrors\nUdp: 3 4\n",
            ),
            ("snmp6", b"Udp6NoPorts     \t30\nUdp6RcvbufErrors\t40\n"),
        ]);
        let counters = CounterReader::of(folder.path()).read().unwrap();
        let expected = Counters {
            cookies_sent: Some(1),
            cookies_received: Some(2),
            aborts: Some(30),
            passive_opens: Some(5),
            resets_sent: Some(6),
            udp_no_ports: Some(33),
            udp_overflows: Some(44),
            ..Counters::default()
        };
        assert_eq!(counters, expected);
    }

    #[test]
    fn a_file_that_is_missing_or_cut_off_takes_only_its_own_fields() {
        let folder = folder(&[(
            "netstat",
            b"TcpExt: SyncookiesSent SyncookiesRecv\nTcpExt: 7",
        )]);
        let counters = CounterReader::of(folder.path()).read().unwrap();
        let expected = Counters {
            cookies_sent: Some(7),
            ..Counters::default()
        };
        assert_eq!(counters, expected);
        let nothing = tempfile::tempdir().unwrap();
        assert!(CounterReader::of(nothing.path()).read().is_err());
    }

    #[test]
    fn no_more_than_the_bound_is_read() {
        let mut long = b"TcpExt: SyncookiesSent\nTcpExt: 7\n".to_vec();
        long.resize(LARGEST * 2, b'x');
        let folder = folder(&[("netstat", &long)]);
        let mut reader = CounterReader::of(folder.path());
        assert_eq!(reader.read().unwrap().cookies_sent, Some(7));
        assert_eq!(reader.buffer.len(), LARGEST);
    }

    #[test]
    fn the_kernel_s_own_move_with_what_happens() {
        let mut reader = CounterReader::new();
        let before = reader.read().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        }
        let nobody = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            // That nobody is there is told with the next one.
            let _ = socket.send_to(b"x", nobody);
        }
        // Through the descriptors that are open.
        let after = reader.read().unwrap();
        let moved =
            |field: fn(&Counters) -> Option<u64>| field(&after).unwrap() - field(&before).unwrap();
        assert!(moved(|counters| counters.passive_opens) >= 10);
        assert!(moved(|counters| counters.active_opens) >= 10);
        assert!(moved(|counters| counters.udp_no_ports) >= 10);
        for field in [
            after.cookies_sent,
            after.syn_drops,
            after.aborts,
            after.udp_overflows,
        ] {
            assert!(field.is_some(), "{after:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_survived(
            netstat in prop_oneof![
                "(TcpExt: [A-Za-z0-9 -]{0,40}\n){0,4}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..200),
            ],
            snmp in "(Tcp: [0-9 -]{0,40}\n){0,4}",
        ) {
            let folder = folder(&[("netstat", &netstat), ("snmp", snmp.as_bytes())]);
            prop_assert!(CounterReader::of(folder.path()).read().is_ok());
        }
    }
}
