//! PROXY headers as tables, any bytes at all, and a real socket.

use super::*;
use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::TcpListener};

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([version_command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

fn proxied(source: &str, destination: &str) -> Proxied {
    Proxied::For {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];

fn v6() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    body.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    body.extend([0x30, 0x39, 0x01, 0xbb]);
    body
}

#[test]
fn version_1() {
    let accepted = [
        (
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n",
            proxied("192.0.2.7:12345", "198.51.100.1:443"),
        ),
        (
            "PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n",
            proxied("[2001:db8::7]:12345", "[2001:db8::1]:443"),
        ),
        ("PROXY UNKNOWN\r\n", Proxied::Local),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            Proxied::Local,
        ),
    ];
    for (line, expected) in accepted {
        let with_more = format!("{line}GET / HTTP/1.1\r\n\r\n");
        assert_eq!(
            parse(with_more.as_bytes()),
            Parsed::Complete(expected, line.len()),
            "{line:?}"
        );
    }
    let refused = [
        "GET / HTTP/1.1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345 443 5\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 12345 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 12345 443\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 12345 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 012 443\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 12 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 12 443\r\n",
        "PROXY \r\n",
        "proxy UNKNOWN\r\n",
        "PROXY TCP4 \u{ff11} 198.51.100.1 12 443\r\n",
    ];
    for line in refused {
        assert_eq!(parse(line.as_bytes()), Parsed::Invalid, "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(parse(endless.as_bytes()), Parsed::Invalid);
}

#[test]
fn version_2() {
    let mut with_tlv = V4.to_vec();
    with_tlv.extend([0x04, 0x00, 0x02, 0xaa, 0xbb]);
    let accepted = [
        (
            v2(0x21, 0x11, &V4),
            proxied("192.0.2.7:12345", "198.51.100.1:443"),
        ),
        (
            v2(0x21, 0x11, &with_tlv),
            proxied("192.0.2.7:12345", "198.51.100.1:443"),
        ),
        (
            v2(0x21, 0x21, &v6()),
            proxied("[2001:db8::7]:12345", "[2001:db8::1]:443"),
        ),
        (v2(0x20, 0x00, &[]), Proxied::Local),
        (v2(0x20, 0x11, &V4), Proxied::Local),
        (v2(0x21, 0x00, &[1, 2, 3]), Proxied::Local),
    ];
    for (header, expected) in accepted {
        let mut with_more = header.clone();
        with_more.extend(b"\x16\x03\x01");
        assert_eq!(
            parse(&with_more),
            Parsed::Complete(expected, header.len()),
            "{header:?}"
        );
    }
    let refused = [
        v2(0x11, 0x11, &V4),
        v2(0x22, 0x11, &V4),
        v2(0x21, 0x12, &V4),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x21, 0x11, &V4[..11]),
        v2(0x21, 0x21, &V4),
        v2(0x21, 0x11, &[0; V2_MAXIMUM + 1]),
    ];
    for header in refused {
        assert_eq!(parse(&header), Parsed::Invalid, "{header:?}");
    }
}

#[test]
fn any_cut_of_a_header_needs_more() {
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(),
        // The shortest that there is: found by fuzzing.
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x21, &v6()),
    ] {
        for cut in 0..header.len() {
            assert!(
                matches!(parse(&header[..cut]), Parsed::Needs(needed @ 1..) if needed <= header.len() - cut),
                "{cut} of {header:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Parsed::Complete(_, length) = parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn any_body_of_version_2_is_survived(
        command in any::<u8>(),
        family in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = v2(command, family, &body);
        if let Parsed::Complete(_, length) = parse(&header) {
            prop_assert_eq!(length, header.len());
        }
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_read_and_nothing_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut header = v2(0x21, 0x11, &V4);
    header.extend(b"hello");
    let client = tokio::spawn(async move {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        for piece in header.chunks(7) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client
    });
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(
        read(&mut server).await.unwrap(),
        proxied("192.0.2.7:12345", "198.51.100.1:443")
    );
    let mut rest = [0; 5];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"hello");
    client.await.unwrap();
}

#[tokio::test]
async fn garbage_and_silence_are_errors() {
    for (sent, kind) in [
        (&b"GET / HTTP/1.1\r\n"[..], io::ErrorKind::InvalidData),
        (&b"PROXY TCP4 "[..], io::ErrorKind::UnexpectedEof),
        (&b""[..], io::ErrorKind::UnexpectedEof),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(sent).await.unwrap();
        drop(client);
        assert_eq!(read(&mut server).await.unwrap_err().kind(), kind);
    }
}
