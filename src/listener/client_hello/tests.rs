//! Published fingerprints of captured hellos, and what must hold of any bytes.

use super::{
    extension,
    ja4::{self, Ja4},
    *,
};
use proptest::prelude::*;

/// The captures with their published JA4.
fn vectors() -> Vec<(String, Vec<u8>)> {
    include_str!("../../../tests/fixtures/client_hello/vectors.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let ja4 = words.next().unwrap().to_owned();
            let hex = words.nth(1).unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (ja4, (0..hex.len()).step_by(2).map(byte).collect())
        })
        .collect()
}

fn message(bytes: &[u8]) -> Cow<'_, [u8]> {
    match assemble(bytes) {
        Parsed::Complete(message) => message,
        other => panic!("{other:?}"),
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    Ja4::of(&ClientHello::parse(&message(bytes)).unwrap()).to_string()
}

fn list(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

/// Preceded by its length in two bytes.
fn long(content: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(content.len()).unwrap().to_be_bytes(),
        content,
    ]
    .concat()
}

/// Preceded by its length in one byte.
fn short(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

/// A message with these cipher suites and extensions.
fn hello(version: u16, ciphers: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), long(content)].concat())
        .collect();
    [
        &version.to_be_bytes(),
        &[7; 32][..],
        &short(&[9; 32]),
        &long(&list(ciphers)),
        &short(&[0]),
        &long(&extensions),
    ]
    .concat()
}

/// The message in records of at most `fragment` bytes.
fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let handshake = [&[CLIENT_HELLO], &length[1..], message].concat();
    handshake
        .chunks(fragment)
        .flat_map(|part| [&[HANDSHAKE, 3, 1], &long(part)[..]].concat())
        .collect()
}

/// A hello with this ticket and these versions, and little else.
pub fn with_ticket(ticket: &[u8], versions: &[u16]) -> Vec<u8> {
    let extensions = [
        (extension::SUPPORTED_VERSIONS, short(&list(versions))),
        (extension::SESSION_TICKET, ticket.to_vec()),
    ];
    records(&hello(0x0303, &[0xc02f], &extensions), RECORD)
}

#[test]
fn captured_hellos_have_their_published_fingerprints() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for (ja4, bytes) in &vectors {
        assert!(
            matches!(assemble(bytes), Parsed::Complete(Cow::Borrowed(_))),
            "one record is not copied"
        );
        assert_eq!(&fingerprint(bytes), ja4);
        // In any number of records it is the same hello.
        for fragment in [1000, 64, 9] {
            assert_eq!(&fingerprint(&records(&message(bytes), fragment)), ja4);
        }
    }
}

/// The lists of the technical details, and what they say must come out.
#[test]
fn the_example_of_the_technical_details() {
    let ciphers = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
        0x009c, 0x009d, 0x002f, 0x0035,
    ];
    let algorithms = [
        0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
    ];
    let kinds = [
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
    ];
    let said = |algorithms: &[u16], without: &[u16], grease: bool| {
        let mut ciphers = ciphers.to_vec();
        let mut kinds: Vec<u16> = kinds
            .into_iter()
            .filter(|kind| !without.contains(kind))
            .collect();
        let mut algorithms = algorithms.to_vec();
        let mut versions = vec![0x0304, 0x0303];
        if grease {
            ciphers.insert(0, 0x3a3a);
            kinds.insert(0, 0xfafa);
            kinds.push(0x0a0a);
            algorithms.insert(1, 0x8a8a);
            versions.insert(0, 0xdada);
        }
        let extensions: Vec<_> = kinds
            .into_iter()
            .map(|kind| match kind {
                extension::SERVER_NAME => (kind, long(&[&[0][..], &long(b"example.com")].concat())),
                extension::ALPN => (kind, long(&[short(b"h2"), short(b"http/1.1")].concat())),
                extension::SIGNATURE_ALGORITHMS => (kind, long(&list(&algorithms))),
                extension::SUPPORTED_VERSIONS => (kind, short(&list(&versions))),
                _ => (kind, Vec::new()),
            })
            .collect();
        fingerprint(&records(&hello(0x0303, &ciphers, &extensions), RECORD))
    };
    for grease in [false, true] {
        assert_eq!(
            said(&algorithms, &[], grease),
            "t13d1516h2_8daaf6152771_e5627efa2ab1"
        );
        // Neither the name nor the protocols change the last part.
        assert_eq!(
            said(&algorithms, &[0], grease),
            "t13i1515h2_8daaf6152771_e5627efa2ab1"
        );
        assert_eq!(
            said(&algorithms, &[16], grease),
            "t13d151500_8daaf6152771_e5627efa2ab1"
        );
    }
    // Without signature algorithms the list ends without an underscore.
    assert_eq!(
        said(&[], &[], false),
        "t13d1516h2_8daaf6152771_6d807ffa2a79"
    );
}

#[test]
fn empty_lists_many_values_and_odd_versions() {
    let print = |version, ciphers: &[u16], extensions: &[(u16, Vec<u8>)]| {
        fingerprint(&records(&hello(version, ciphers, extensions), RECORD))
    };
    let none = "t12i000000_000000000000_000000000000";
    assert_eq!(print(0x0303, &[0x0a0a], &[]), none);
    assert_eq!(
        print(0x0303, &[0x0a0a], &[(0x1a1a, vec![])]),
        none,
        "GREASE alone is nothing"
    );
    let many: Vec<u16> = (0x4000..0x4070).collect();
    let extensions: Vec<_> = many.iter().map(|kind| (*kind, vec![])).collect();
    assert!(print(0x0303, &many, &extensions).starts_with("t12i999900_"));
    for (version, written) in [
        (0x0302, "t11"),
        (0x0301, "t10"),
        (0x0300, "ts3"),
        (0x0002, "ts2"),
        (0xfeff, "td1"),
        (0x0305, "t00"),
    ] {
        assert!(print(version, &[1], &[]).starts_with(written));
        let listed = (extension::SUPPORTED_VERSIONS, short(&list(&[version])));
        assert!(
            print(0x0303, &[1], &[listed]).starts_with(written),
            "what is listed counts"
        );
    }
}

#[test]
fn the_first_protocol_in_two_characters() {
    for (name, written) in [
        (&b""[..], "00"),
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"h", "hh"),
        (&[0xab], "ab"),
        (&[0xab, 0xcd], "ad"),
        (&[0x30, 0xab], "3b"),
        (&[0x30, 0x31, 0xab, 0xcd], "3d"),
        (&[0x30, 0xab, 0xcd, 0x31], "01"),
    ] {
        let protocols = long(&[short(name), short(b"other")].concat());
        let message = hello(0x0303, &[1], &[(extension::ALPN, protocols)]);
        let print = Ja4::of(&ClientHello::parse(&message).unwrap());
        assert_eq!(&print.as_str()[8..10], written, "{name:?}");
    }
    assert_eq!(Ja4::NONE.as_str(), "");
}

#[test]
fn names_tickets_and_identities() {
    let identity = |ticket: &[u8]| [long(ticket), vec![0; 4]].concat();
    let psk = [
        long(&[identity(b"one"), identity(b"two")].concat()),
        long(&short(&[0; 32])),
    ]
    .concat();
    let name = long(&[&[0][..], &long(b"Example.com")].concat());
    let message = hello(
        0x0303,
        &[1],
        &[
            (extension::SERVER_NAME, name),
            (extension::SESSION_TICKET, b"old".to_vec()),
            (extension::SUPPORTED_VERSIONS, short(&list(&[0x0304]))),
            (extension::PRE_SHARED_KEY, psk.clone()),
        ],
    );
    let parsed = ClientHello::parse(&message).unwrap();
    assert_eq!(parsed.server_name(), Some(&b"Example.com"[..]));
    assert_eq!(parsed.ticket(), Some(&b"old"[..]));
    assert!(parsed.offers_tls13());
    let identities: Vec<_> = parsed.identities().collect();
    assert_eq!(identities, [&b"one"[..], b"two"]);

    let misplaced = hello(
        0x0303,
        &[1],
        &[(extension::PRE_SHARED_KEY, psk), (99, vec![])],
    );
    let parsed = ClientHello::parse(&misplaced).unwrap();
    assert_eq!(parsed.identities().count(), 0, "not the last extension");
    assert!(!parsed.offers_tls13());
    assert_eq!((parsed.ticket(), parsed.server_name()), (None, None));
}

#[test]
fn what_is_no_hello_is_told_early() {
    let whole = records(&hello(0x0303, &[1], &[]), RECORD);
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x80\x2e\x01\x03",                     // SSL 2.0
        b"\x16\x02",                             // no version of TLS
        b"\x15\x03\x01\x00\x02\x01",             // an alert
        b"\x16\x03\x01\x00\x00",                 // an empty record
        b"\x16\x03\x01\x40\x01",                 // longer than records are
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", // a ServerHello
        b"\x16\x03\x01\x00\x01\x01\x17",         // its second record is data
    ] {
        assert_eq!(assemble(bytes), Parsed::Invalid, "{bytes:x?}");
    }
    assert_eq!(assemble(b""), Parsed::Needs(5));
    assert_eq!(assemble(&whole[..7]), Parsed::Needs(whole.len() - 7));
    let long = b"\x16\x03\x01\x10\x00\x01\x00\x40\x01";
    assert_eq!(assemble(long), Parsed::TooLarge, "said in its first bytes");
    let many = records(&hello(0x0303, &[1], &[]), 1);
    assert_eq!(assemble(&many), Parsed::TooLarge, "a record a byte");
    assert!(many.len() > FRAGMENTS * 6);
}

#[test]
fn the_largest_hello_is_read_and_one_byte_more_is_not() {
    let room = MAXIMUM - hello(0x0303, &[1], &[(21, vec![])]).len();
    for (padding, reads) in [(room, true), (room + 1, false)] {
        let message = hello(0x0303, &[1], &[(21, vec![0; padding])]);
        for fragment in [RECORD, 300] {
            let bytes = records(&message, fragment);
            match assemble(&bytes) {
                Parsed::Complete(read) => assert!(reads && *read == *message),
                other => assert!(!reads && other == Parsed::TooLarge, "{other:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_hold_the_invariants(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::client_hello(&bytes);
    }

    #[test]
    fn a_hello_with_broken_bytes_holds_the_invariants(
        which in 0_usize..12,
        broken in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(),
        fragment in 1_usize..600,
    ) {
        let (_, bytes) = vectors().swap_remove(which);
        let mut bytes = records(&message(&bytes), fragment);
        for (at, byte) in broken {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        fuzzing::client_hello(&bytes);
    }
}

#[test]
fn a_fingerprint_has_its_size() {
    assert_eq!(std::mem::size_of::<Ja4>(), ja4::LENGTH);
}
