//! Header blocks without Huffman coding and with full control of the table (RFC 7541).

/// Entries of the static table that requests use.
const AUTHORITY: usize = 1;
const METHOD_GET: usize = 2;
const METHOD_POST: usize = 3;
const PATH: usize = 4;
const SCHEME_HTTPS: usize = 7;
/// The first entry of the dynamic table: the one added last.
pub const NEWEST: usize = 62;

/// A header block being written.
#[derive(Clone, Debug, Default)]
pub struct Block(pub Vec<u8>);

impl Block {
    /// The pseudo-headers of a GET.
    pub fn get(path: &str, authority: &str) -> Self {
        Self::default().indexed(METHOD_GET).rest(path, authority)
    }

    /// The pseudo-headers of a POST.
    pub fn post(path: &str, authority: &str) -> Self {
        Self::default().indexed(METHOD_POST).rest(path, authority)
    }

    fn rest(self, path: &str, authority: &str) -> Self {
        self.indexed(SCHEME_HTTPS)
            .named(PATH, path.as_bytes())
            .named(AUTHORITY, authority.as_bytes())
    }

    /// A whole entry of either table (section 6.1).
    pub fn indexed(mut self, entry: usize) -> Self {
        integer(&mut self.0, 0x80, 7, entry);
        self
    }

    /// A value under an entry's name, not kept in the table (section 6.2.2).
    pub fn named(mut self, entry: usize, value: &[u8]) -> Self {
        integer(&mut self.0, 0, 4, entry);
        self.string(value)
    }

    /// A header not kept in the table; any bytes.
    pub fn literal(mut self, name: &[u8], value: &[u8]) -> Self {
        self.0.push(0);
        self.string(name).string(value)
    }

    /// A header kept in the table (section 6.2.1).
    pub fn kept(mut self, name: &[u8], value: &[u8]) -> Self {
        self.0.push(0x40);
        self.string(name).string(value)
    }

    fn string(mut self, bytes: &[u8]) -> Self {
        integer(&mut self.0, 0, 7, bytes.len());
        self.0.extend_from_slice(bytes);
        self
    }
}

/// An integer behind the bits of a prefix (section 5.1).
fn integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let limit = 1_usize
        .checked_shl(bits)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let low = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    if value < limit {
        out.push(first | low(value));
        return;
    }
    out.push(first | low(limit));
    let mut rest = value.saturating_sub(limit);
    while rest >= 128 {
        out.push(low(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_rfc() {
        // Appendix C.1.
        for (first, bits, value, expected) in [
            (0, 5, 10, vec![10]),
            (0, 5, 1337, vec![31, 154, 10]),
            (0, 8, 42, vec![42]),
            (0x80, 7, 62, vec![0xbe]),
        ] {
            let mut out = Vec::new();
            integer(&mut out, first, bits, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn headers_are_those_of_the_rfc() {
        // Appendix C.2.1 and C.2.2.
        let kept = Block::default().kept(b"custom-key", b"custom-header").0;
        assert_eq!(kept, b"\x40\x0acustom-key\x0dcustom-header");
        let path = Block::default().named(PATH, b"/sample/path").0;
        assert_eq!(path, b"\x04\x0c/sample/path");
        assert_eq!(Block::default().literal(b"", b"").0, [0, 0, 0]);
        assert_eq!(
            Block::get("/", "a").0,
            [0x82, 0x87, 0x04, 1, b'/', 0x01, 1, b'a']
        );
    }
}
