//! Chunked bodies, well-formed and not.

use super::*;
use proptest::prelude::*;

#[test]
fn the_end_is_found_however_the_body_is_cut() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00A;name=value\r\n0123456789\r\n0\r\nx-sum: 5\r\ny:\r\n\r\n",
        "1;a\r\n\r\r\n0\r\n\r\n",
        "1 ; a = b;c=\"d\\\"\t;\" ;e\r\n\n\r\n0;last\r\n\r\n",
        "00000000000000f\r\n0123456789abcde\r\n000\r\n\r\n",
    ] {
        let stream = format!("{body}GET / HTTP/1.1\r\n");
        for cut in 0..=stream.len() {
            let mut chunked = Chunked::new();
            let (first, second) = stream.as_bytes().split_at(cut);
            let taken = chunked.advance(first).unwrap();
            let taken = taken + chunked.advance(second).unwrap();
            assert!(chunked.done());
            assert_eq!(taken, body.len(), "{body:?} cut at {cut}");
        }
    }
}

#[test]
fn what_parsers_disagree_about_is_malformed() {
    let extension = format!("1;{}\r\n", "x".repeat(300));
    let trailers = format!("0\r\n{}", "x: y\r\n".repeat(3000));
    let extensions = "1;xxxxxxxxxxxxxxxxxxxxxxxx\r\nx\r\n".repeat(1000);
    for body in [
        &extensions,
        // A size
        "1 \r\n",
        "1 2\r\n",
        " 1\r\n",
        "1_0\r\n",
        "1h\r\n",
        "1.\r\n",
        "0000000000000001\r\n",
        // An extension
        "1;\r\n",
        "1;;a\r\n",
        "1;a=\r\n",
        "1;a \r\n",
        "1;a b\r\n",
        "1;a=\"b\r\n",
        "1;a=\"b\nc\"\r\n",
        "1;a=\"b\rc\"\r\n",
        "1;a=\"b\r\nc\"\r\n",
        "1;a=\"b\"c\r\n",
        "1;a\0\r\n",
        "1;a\r\r\n",
        "1;\n",
        "1;a\u{e4}\r\n",
        // A trailer
        "0\r\nx\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        "0\r\nx: y\nz: a\r\n\r\n",
        "0\r\nx: y\rz\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
        "\r\n",
        ";x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        "g\r\n",
        "5\nhello",
        "5\r\nhello!",
        "5\r\nhello\n",
        "0\r\n\n",
        "0\n\n",
        "1\rx",
        "5;a\nb\r\n",
        "11111111111111111\r\n",
        &extension,
        &trailers,
    ] {
        let mut chunked = Chunked::new();
        assert_eq!(
            chunked.advance(body.as_bytes()),
            Err(Malformed),
            "{:?}",
            body.get(..40)
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(taken) = Chunked::new().advance(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn chunks_of_any_size_end_where_they_should(
        chunks in proptest::collection::vec(1_usize..3000, 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = Vec::new();
        for size in chunks {
            body.extend(format!("{size:x}\r\n").into_bytes());
            body.extend(vec![b'\n'; size]);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let length = body.len();
        body.extend(b"next");
        let (first, second) = body.split_at(cut.index(body.len()));
        let mut chunked = Chunked::new();
        let taken = chunked.advance(first).unwrap() + chunked.advance(second).unwrap();
        prop_assert_eq!(taken, length);
        prop_assert!(chunked.done());
    }
}
