//! The lines of a state file. Each carries a checksum of its own, so that one that was torn or
//! changed is known and the rest is read all the same; times are wall-clock times, so that time
//! spent down counts.
//!
//! ```text
//! rempart bans 1
//! 5f0a9c1e + 203.0.113.7/32 1790000600000 1790006600000 1790000000 1 0 d limit:per-login
//! 02b91c77 - 203.0.113.7/32
//! ```
//!
//! A ban: its end, when it is forgotten (milliseconds since 1970), when it was placed (seconds since
//! 1970), offences, hits, `d`irect or `p`roxied, reason, and a comment as a JSON string.

use crate::bans::Carried;
use ipnet::IpNet;
use std::fmt::Write as _;

pub(super) const HEAD: &str = "rempart bans 1";
/// Bytes of a line: the longest comment, escaped whole, fits.
pub(super) const LONGEST: usize = 4096;

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    Placed(Carried),
    Removed(IpNet),
}

/// Writes a ban; `wall` is the time in milliseconds since 1970.
pub(super) fn placed(ban: &Carried, wall: u64, into: &mut String) {
    let until = wall.saturating_add(ban.remaining);
    let forgotten = until.saturating_add(ban.remembered);
    let since = (wall / 1000).saturating_sub(ban.age);
    let reach = if ban.direct { 'd' } else { 'p' };
    checked(into, |text| {
        let _ = write!(
            text,
            "+ {} {until} {forgotten} {since} {} {} {reach} {}",
            ban.network, ban.offences, ban.hits, ban.source
        );
        if let Some(comment) = &ban.comment
            && let Ok(comment) = serde_json::to_string(comment)
        {
            text.push(' ');
            text.push_str(&comment);
        }
    });
}

pub(super) fn removed(network: IpNet, into: &mut String) {
    checked(into, |text| {
        let _ = write!(text, "- {network}");
    });
}

fn checked(into: &mut String, write: impl FnOnce(&mut String)) {
    let start = into.len();
    into.push_str("00000000 ");
    write(into);
    let said = into.get(start.saturating_add(9)..).unwrap_or_default();
    let sum = format!("{:08x}", crc32fast::hash(said.as_bytes()));
    into.replace_range(start..start.saturating_add(8), &sum);
    into.push('\n');
}

/// Reads a line, without its end. `None`: it is not what was written.
pub(super) fn read(line: &[u8], wall: u64) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, said) = line.split_once(' ')?;
    let right =
        sum.len() == 8 && u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(said.as_bytes());
    if !right {
        return None;
    }
    if let Some(network) = said.strip_prefix("- ") {
        return network.parse().ok().map(Line::Removed);
    }
    let mut words = said.strip_prefix("+ ")?.splitn(9, ' ');
    let network = words.next()?.parse().ok()?;
    let until: u64 = words.next()?.parse().ok()?;
    let forgotten: u64 = words.next()?.parse().ok()?;
    let since: u64 = words.next()?.parse().ok()?;
    let offences = words.next()?.parse().ok()?;
    let hits = words.next()?.parse().ok()?;
    let direct = match words.next()? {
        "d" => true,
        "p" => false,
        _ => return None,
    };
    let source = words.next()?.to_owned();
    let comment = match words.next() {
        Some(comment) => Some(serde_json::from_str(comment).ok()?),
        None => None,
    };
    // By a clock that was set back, nobody is banned for longer than at first.
    let begun = wall.max(since.saturating_mul(1000));
    Some(Line::Placed(Carried {
        network,
        source,
        comment,
        remaining: until.saturating_sub(begun),
        remembered: forgotten.saturating_sub(until.max(wall)),
        age: (wall / 1000).saturating_sub(since),
        offences,
        hits,
        direct,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn ban()(
            address in any::<std::net::Ipv6Addr>(),
            length in 0..=128_u8,
            numbers in (any::<u32>(), any::<u32>(), 0..1_000_000_000_u32, any::<u32>(), any::<u32>()),
            direct in any::<bool>(),
            comment in proptest::option::of("\\PC{0,40}[\n\t\"\\\\]?"),
        ) -> Carried {
            let (remaining, remembered, age, offences, hits) = numbers;
            Carried {
                network: IpNet::new(address.into(), length).unwrap(),
                source: "limit:per-login".into(),
                comment: comment.map(Into::into),
                remaining: remaining.into(),
                remembered: remembered.into(),
                age: age.into(),
                offences,
                hits: hits.into(),
                direct,
            }
        }
    }

    const WALL: u64 = 1_790_000_000_000;

    proptest! {
        #[test]
        fn lines_are_read_as_they_were_written(ban in ban()) {
            let mut text = String::new();
            placed(&ban, WALL, &mut text);
            prop_assert!(text.ends_with('\n') && text.len() < LONGEST);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let read = read(text.trim_end_matches('\n').as_bytes(), WALL);
            prop_assert_eq!(read, Some(Line::Placed(ban)));
        }

        #[test]
        fn time_passes_between_writing_and_reading(ban in ban(), passed in 0..1_u64 << 33) {
            let mut text = String::new();
            placed(&ban, WALL, &mut text);
            let read = read(text.trim_end_matches('\n').as_bytes(), WALL + passed);
            let Some(Line::Placed(later)) = read else {
                return Err(TestCaseError::fail("not a ban"));
            };
            prop_assert_eq!(later.remaining, ban.remaining.saturating_sub(passed));
            let forgotten = (ban.remaining + ban.remembered).saturating_sub(passed);
            prop_assert_eq!(later.remaining + later.remembered, forgotten);
        }

        #[test]
        fn whatever_else_stands_there_is_no_line(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            ban in ban(),
            (at, flip) in (0..100_usize, 1..=255_u8),
        ) {
            prop_assert_eq!(read(&bytes, WALL), None);
            let mut text = String::new();
            placed(&ban, WALL, &mut text);
            bytes = text.trim_end_matches('\n').as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            // The digits of a checksum may be written in capitals; nothing else may change.
            let same = text.get(..8).is_some_and(|sum| {
                bytes.get(..8).is_some_and(|changed| changed.eq_ignore_ascii_case(sum.as_bytes()))
            });
            prop_assert!(read(&bytes, WALL).is_none() || at < 8 && same);
        }
    }

    #[test]
    fn a_removal_is_read() {
        let mut text = String::new();
        let network = "2001:db8::/64".parse().unwrap();
        removed(network, &mut text);
        let read = read(text.trim_end().as_bytes(), 0);
        assert_eq!(read, Some(Line::Removed(network)));
    }
}
