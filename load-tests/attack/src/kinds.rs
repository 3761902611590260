//! The table of attacks: a line each.

/// Which layer an attack works on, and with it which file carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    H2,
    Tls,
    H1,
}

/// One way of attacking.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub family: Family,
    /// What it does, in a line.
    pub does: &'static str,
    /// Where it is known from, if it has a name there.
    pub known_as: &'static str,
    /// Forms that it takes; the first is the default.
    pub variants: &'static [&'static str],
    /// Units (frames, bytes, handshakes) a second on each connection unless told; `None`: as many as go.
    pub rate: Option<f64>,
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

const fn kind(
    family: Family,
    name: &'static str,
    rate: Option<f64>,
    known_as: &'static str,
    does: &'static str,
) -> Kind {
    Kind {
        name,
        family,
        does,
        known_as,
        variants: &[],
        rate,
    }
}

const fn with(kind: Kind, variants: &'static [&'static str]) -> Kind {
    Kind { variants, ..kind }
}

const fn h2(name: &'static str, rate: Option<f64>, cve: &'static str, does: &'static str) -> Kind {
    kind(Family::H2, name, rate, cve, does)
}

const fn tls(name: &'static str, rate: Option<f64>, does: &'static str) -> Kind {
    kind(Family::Tls, name, rate, "", does)
}

const fn h1(
    name: &'static str,
    rate: Option<f64>,
    known: &'static str,
    does: &'static str,
) -> Kind {
    kind(Family::H1, name, rate, known, does)
}

/// Every kind, by family.
#[rustfmt::skip] // a table
pub static KINDS: &[Kind] = &[
    h2("rapid-reset", None, "CVE-2023-44487", "asks, and takes it back at once"),
    with(h2("made-you-reset", None, "CVE-2025-8671", "asks, and makes the server reset the stream"),
        &["window-zero", "window-overflow", "data-after-end", "headers-after-end", "priority-self", "priority-length"]),
    h2("malformed-streams", None, "", "requests that break the rules of HTTP/2 messages, one a stream"),
    h2("many-streams", None, "", "opens streams beyond the limit and finishes none"),
    h2("connect-flood", None, "", "CONNECT and extended CONNECT, one after another"),
    with(h2("continuation-flood", None, "CVE-2024-27316", "a header block that never ends"),
        &["filled", "empty"]),
    h2("huge-header-list", None, "", "complete header blocks far beyond any limit"),
    h2("hpack-bomb", None, "CVE-2016-6581", "thousands of references to one large table entry"),
    with(h2("empty-headers", None, "CVE-2019-9516", "headers without name or value"),
        &["names", "blocks"]),
    with(h2("settings-flood", None, "CVE-2019-9515", "SETTINGS that each demand an answer"),
        &["empty", "entries"]),
    h2("ping-flood", None, "CVE-2019-9512", "PINGs that each demand an answer"),
    h2("priority-flood", None, "CVE-2019-9513", "reshuffles priorities without end"),
    h2("window-flood", None, "", "opens the connection's window by one byte, without end"),
    h2("empty-data", None, "CVE-2019-9518", "DATA frames with nothing in them"),
    h2("unknown-frames", None, "", "frames of types that nobody knows"),
    h2("window-stall", None, "CVE-2019-9517", "asks for something large and never opens the window"),
    h2("window-dribble", Some(10.0), "CVE-2019-9511", "takes a large answer a byte at a time"),
    h2("slow-upload", Some(2.0), "", "uploads a byte now and then"),
    with(h2("stuck-frame", None, "", "stops in the midst of a frame and says no more"),
        &["headers", "data", "header-block"]),
    h2("no-preface", None, "", "agrees on HTTP/2 and says nothing"),
    h2("no-request", Some(2.0), "", "PINGs for ever and asks for nothing"),
    tls("silent", None, "connects and says nothing"),
    tls("drip", Some(1.0), "a ClientHello, a byte a second"),
    tls("half-hello", None, "half a ClientHello, then silence"),
    tls("half-handshake", None, "a ClientHello, then silence"),
    tls("garbage", None, "random bytes where a handshake should be"),
    with(tls("huge-hello", None, "a ClientHello that never ends"), &["length", "fragments"]),
    tls("handshake-flood", Some(200.0), "full handshakes without tickets, one after another"),
    h1("slow-headers", Some(2.0), "Slowloris", "headers, a byte now and then"),
    h1("slow-body", Some(2.0), "R.U.D.Y.", "a body, a byte now and then"),
    h1("slow-read", Some(100.0), "Slow Read", "takes a large answer through a tiny window"),
    h1("idle-hoard", None, "", "asks once and keeps the connection"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lines_short() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert!(
                KINDS
                    .iter()
                    .skip(at + 1)
                    .all(|other| other.name != kind.name),
                "{}",
                kind.name
            );
            assert!(kind.does.len() <= 70, "{}", kind.name);
        }
    }
}
