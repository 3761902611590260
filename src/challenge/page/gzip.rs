//! Pages as gzip (RFC 1952): what stands fast was compressed when it was made, and what a visit puts
//! in between goes as it is. Deflate (RFC 1951) allows both: a fragment ends at a byte and refers to
//! nothing before it, so fragments and stored blocks follow each other at will.

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};
use http::{HeaderMap, header::ACCEPT_ENCODING};

/// Magic, deflate, no flags, no time, no hint, no system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty block, the last.
const END: [u8; 2] = [3, 0];

/// Shorter texts are not worth a block of their own.
const SHORT: usize = 48;

/// The most that a stored block holds.
const STORED: usize = 0xffff;

/// More members of a header are not looked at.
const MEMBERS: usize = 32;

/// Text that stands fast, compressed.
#[derive(Debug)]
pub struct Fragment {
    text: String,
    /// Whole deflate blocks, the last of them empty; `None` where it is not worth it.
    deflated: Option<(Box<[u8]>, Hasher)>,
}

impl Fragment {
    pub fn new(text: String) -> Self {
        let deflated = Some(text.as_bytes())
            .filter(|text| text.len() >= SHORT)
            .and_then(deflate);
        let deflated = deflated.map(|deflated| {
            let mut checksum = Hasher::new();
            checksum.update(text.as_bytes());
            (deflated.into_boxed_slice(), checksum)
        });
        Self { text, deflated }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn compressed_length(&self) -> usize {
        let deflated = self.deflated.as_ref();
        deflated.map_or(self.text.len(), |(deflated, _)| deflated.len())
    }
}

/// As deflate blocks that end at a byte; `None` when the compressor did not take all of it.
fn deflate(text: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compress::new(Compression::best(), false);
    // Deflate's own bound for text that can't be compressed is smaller.
    let mut deflated = Vec::with_capacity(text.len().saturating_add(text.len() / 8 + 256));
    compressor
        .compress_vec(text, &mut deflated, FlushCompress::Full)
        .ok()?;
    let whole = compressor.total_in() == text.len() as u64 && deflated.len() < deflated.capacity();
    (whole && deflated.ends_with(&[0, 0, 0xff, 0xff])).then_some(deflated)
}

/// A gzip file in the making.
#[derive(Debug)]
pub struct Gzip {
    out: Vec<u8>,
    checksum: Hasher,
    length: usize,
    /// Where the stored block begins that is being written.
    stored: Option<usize>,
}

impl Gzip {
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&HEADER);
        Self {
            out,
            checksum: Hasher::new(),
            length: 0,
            stored: None,
        }
    }

    pub fn fragment(&mut self, fragment: &Fragment) {
        let Some((deflated, checksum)) = &fragment.deflated else {
            return self.text(&fragment.text);
        };
        self.close();
        self.out.extend_from_slice(deflated);
        self.checksum.combine(checksum);
        self.length = self.length.wrapping_add(fragment.text.len());
    }

    /// Goes in as it is.
    pub fn text(&mut self, text: &str) {
        self.checksum.update(text.as_bytes());
        self.length = self.length.wrapping_add(text.len());
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let start = *self.stored.get_or_insert_with(|| {
                let start = self.out.len();
                self.out.extend_from_slice(&[0; 5]);
                start
            });
            let used = self.out.len().saturating_sub(start).saturating_sub(5);
            let room = STORED.saturating_sub(used).min(rest.len());
            if room == 0 {
                self.close();
                continue;
            }
            let (now, later) = rest.split_at(room);
            self.out.extend_from_slice(now);
            rest = later;
        }
    }

    /// Writes the length of the stored block, and its complement.
    fn close(&mut self) {
        let Some(start) = self.stored.take() else {
            return;
        };
        let length = self.out.len().saturating_sub(start).saturating_sub(5);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        let ([a, b], [c, d]) = (length.to_le_bytes(), (!length).to_le_bytes());
        let head = self.out.iter_mut().skip(start);
        head.zip([0, a, b, c, d]).for_each(|(to, from)| *to = from);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.close();
        self.out.extend_from_slice(&END);
        let checksum = self.checksum.finalize().to_le_bytes();
        self.out.extend_from_slice(&checksum);
        // Modulo 2^32, says the RFC.
        let length = u32::try_from(self.length & 0xffff_ffff).unwrap_or_default();
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out
    }
}

/// Whether the client takes gzip (RFC 9110, 12.5.3). Where nothing is said, it gets none.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    let members = headers.get_all(ACCEPT_ENCODING).iter();
    let members = members.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut any = None;
    let mut gzip = None;
    for member in members.take(MEMBERS) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let taken = super::language::quality(parts).is_some_and(|quality| quality > 0);
        if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
            gzip = Some(gzip.unwrap_or(false) || taken);
        } else if name == b"*" {
            any = Some(taken);
        }
    }
    gzip.or(any).unwrap_or(false)
}
