//! Where HTTP/2 frames begin and end in a stream of bytes (RFC 9113, section 4.1), however the bytes
//! are cut, and the few payload bytes that accounts need. What frames mean is left to
//! [`super::ledger`]; whether they are well formed, to the h2 crate.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// RFC 9218, section 7.1.
pub const PRIORITY_UPDATE: u8 = 16;

/// The same bit on SETTINGS and PING says ACK.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Bytes of a frame's header.
const HEADER: usize = 9;
/// Bytes that a client sends before its first frame (RFC 9113, section 3.4).
pub const PREFACE: u32 = 24;
/// Bytes of one setting.
const SETTING: usize = 6;

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub length: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    fn of(bytes: [u8; HEADER]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, high, middle, low]),
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What the bytes tell, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame begins.
    Begins(Head),
    /// This many more bytes of a frame's payload.
    Payload(Head, u32),
    /// A setting, by its number.
    Setting(u16, u32),
    /// A frame is complete; with it the first eight bytes of its payload (zeros where it is shorter),
    /// unless it is DATA, HEADERS or CONTINUATION.
    Ends(Head, [u8; 8]),
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub struct Frames {
    /// Bytes before the next thing that matters.
    skip: u32,
    /// The beginning of a header, or of a payload or a setting in it.
    gathered: [u8; HEADER],
    filled: u8,
    head: Head,
    /// Bytes of the payload that are still to come; `None` outside of a frame.
    left: Option<u32>,
}

impl Frames {
    /// Begins after `skip` bytes that are no frame.
    #[must_use]
    pub fn after(skip: u32) -> Self {
        Self {
            skip,
            gathered: [0; HEADER],
            filled: 0,
            head: Head::default(),
            left: None,
        }
    }

    /// Whether the last byte seen ended a frame (or what comes before the first).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.skip == 0 && self.left.is_none() && self.filled == 0
    }

    /// Whether nothing was seen, of so many bytes before the first frame.
    #[must_use]
    pub fn is_untouched(&self, before: u32) -> bool {
        self.skip == before
    }

    /// The frame that has begun, and how much of it is to come.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Head, u32)> {
        self.left.map(|left| (self.head, left))
    }

    /// What the next of `bytes` tell; they are taken off its front. `None` when they are used up.
    #[inline]
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        if self.skip > 0 {
            let (skipped, rest) = cut(bytes, self.skip);
            self.skip = self.skip.saturating_sub(skipped);
            *bytes = rest;
        }
        match self.left {
            Some(0) => {
                self.left = None;
                self.filled = 0;
                let mut first = [0; 8];
                if let Some(gathered) = self.gathered.first_chunk() {
                    first = *gathered;
                }
                Some(Event::Ends(self.head, first))
            }
            Some(left) => self.payload(left, bytes),
            None => self.header(bytes),
        }
    }

    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Option<Event> {
        let whole = match bytes.split_first_chunk::<HEADER>() {
            Some((whole, rest)) if self.filled == 0 => {
                *bytes = rest;
                *whole
            }
            _ => {
                self.gather(bytes, HEADER)?;
                self.gathered
            }
        };
        self.head = Head::of(whole);
        self.left = Some(self.head.length);
        self.gathered = [0; HEADER];
        self.filled = 0;
        Some(Event::Begins(self.head))
    }

    fn payload(&mut self, left: u32, bytes: &mut &[u8]) -> Option<Event> {
        if bytes.is_empty() {
            return None;
        }
        let (taken, rest) = cut(bytes, left);
        match self.head.kind {
            DATA | HEADERS | CONTINUATION => {}
            SETTINGS => {
                // One setting after the other.
                let before = bytes.len();
                let mut within = bytes.get(..taken as usize).unwrap_or_default();
                let after = rest.len();
                let whole = self.gather(&mut within, SETTING);
                *bytes = bytes
                    .get(before.saturating_sub(after.saturating_add(within.len()))..)
                    .unwrap_or_default();
                let used = u32::try_from(before.saturating_sub(bytes.len())).unwrap_or(left);
                self.left = Some(left.saturating_sub(used));
                return Some(match (whole, self.gathered) {
                    (Some(()), [high, low, value @ .., _, _, _]) => {
                        self.filled = 0;
                        let number = u16::from_be_bytes([high, low]);
                        Event::Setting(number, u32::from_be_bytes(value))
                    }
                    _ => Event::Payload(self.head, used),
                });
            }
            _ => {
                let mut within = bytes.get(..taken as usize).unwrap_or_default();
                // What does not fit is of no interest.
                let _ = self.gather(&mut within, 8);
            }
        }
        *bytes = rest;
        self.left = Some(left.saturating_sub(taken));
        Some(Event::Payload(self.head, taken))
    }

    /// Gathers up to `wanted` bytes: whether they are all there.
    fn gather(&mut self, bytes: &mut &[u8], wanted: usize) -> Option<()> {
        let filled = usize::from(self.filled);
        let room = self.gathered.get_mut(filled..wanted)?;
        let taken = room.len().min(bytes.len());
        let (bytes_in, rest) = bytes.split_at_checked(taken)?;
        room.get_mut(..taken)?.copy_from_slice(bytes_in);
        *bytes = rest;
        self.filled = u8::try_from(filled.saturating_add(taken)).unwrap_or(u8::MAX);
        (usize::from(self.filled) == wanted).then_some(())
    }
}

/// Up to `most` bytes off the front: how many they are, and the rest.
fn cut(bytes: &[u8], most: u32) -> (u32, &[u8]) {
    match usize::try_from(most)
        .ok()
        .and_then(|most| bytes.get(most..))
    {
        Some(rest) => (most, rest),
        None => (u32::try_from(bytes.len()).unwrap_or(u32::MAX), &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// All events, with neighbouring pieces of one payload put together.
    fn events(frames: &mut Frames, pieces: &[&[u8]]) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            let mut piece = *piece;
            while let Some(event) = frames.next(&mut piece) {
                if let (Event::Payload(head, more), Some(Event::Payload(last, sum))) =
                    (event, events.last_mut())
                {
                    assert_eq!(head, *last);
                    *sum += more;
                } else {
                    events.push(event);
                }
            }
            assert!(piece.is_empty());
        }
        events
    }

    #[test]
    fn frames_are_found() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9]));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        bytes.extend(frame(WINDOW_UPDATE, 0, 0x8000_0003, &[0, 0, 1, 0]));
        bytes.extend(frame(DATA, END_STREAM, 3, &[7; 300]));
        let mut frames = Frames::after(PREFACE);
        let found = events(&mut frames, &[&bytes]);
        let head = |length, kind, flags, stream| Head {
            length,
            kind,
            flags,
            stream,
        };
        let update = head(4, WINDOW_UPDATE, 0, 3);
        let data = head(300, DATA, END_STREAM, 3);
        assert_eq!(
            found,
            [
                Event::Begins(head(12, SETTINGS, 0, 0)),
                Event::Setting(4, 0x1_0000),
                Event::Setting(3, 9),
                Event::Ends(head(12, SETTINGS, 0, 0), [0, 3, 0, 0, 0, 9, 0, 0]),
                Event::Begins(head(0, SETTINGS, ACK, 0)),
                Event::Ends(head(0, SETTINGS, ACK, 0), [0; 8]),
                Event::Begins(update),
                Event::Payload(update, 4),
                Event::Ends(update, [0, 0, 1, 0, 0, 0, 0, 0]),
                Event::Begins(data),
                Event::Payload(data, 300),
                Event::Ends(data, [0; 8]),
            ]
        );
        assert!(frames.at_boundary());
    }

    proptest! {
        #[test]
        fn any_bytes_tell_the_same_however_they_are_cut(
            bytes in proptest::collection::vec(prop_oneof![4 => 0_u8..10, 1 => any::<u8>()], 0..400),
            cuts in proptest::collection::vec(0_usize..400, 0..8),
            skip in 0_u32..30,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let (mut whole, mut cut) = (Frames::after(skip), Frames::after(skip));
            // Settings that are cut tell of their parts, which say nothing.
            let telling = |events: Vec<Event>| -> Vec<Event> {
                let says = |event: &Event| !matches!(event, Event::Payload(head, _) if head.kind == SETTINGS);
                events.into_iter().filter(says).collect()
            };
            prop_assert_eq!(
                telling(events(&mut whole, &[&bytes])),
                telling(events(&mut cut, &pieces))
            );
            prop_assert_eq!(whole.at_boundary(), cut.at_boundary());
            prop_assert_eq!(whole.unfinished(), cut.unfinished());
        }
    }
}
