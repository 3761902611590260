//! Bans as a plain list: a network a line, and behind `#` what else there is to know. Such a file is
//! also a list of the configuration, for which all behind `#` is a comment.
//!
//! ```text
//! 203.0.113.7/32 # until 2026-07-01T10:00:00Z source limit:per-login
//! 198.51.100.0/24 # until 2026-07-02T10:00:00Z source admin comment scanners
//! ```

use super::{Ban, Kind, Reason, Wanted};
use ipnet::IpNet;
use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use verdict::Nanos;

/// What is wrong with a list, at the most.
const MOST_ERRORS: usize = 100;
/// Lines of a list.
const MOST_LINES: usize = 2_000_000;

/// A mistake, and the line that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// What holds for lines that don't say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsaid<'a> {
    pub duration: Option<Duration>,
    pub comment: Option<&'a str>,
}

/// What a list says.
#[derive(Debug, Default)]
pub struct Listed {
    /// In the order of the list, with their lines.
    pub bans: Vec<(usize, Wanted)>,
    /// Whose time is over.
    pub ended: usize,
}

/// One line for a ban.
pub fn line(ban: &Ban, now: Nanos, wall: SystemTime, into: &mut String) {
    let until = OffsetDateTime::from(wall + ban.until.since(now));
    let until = until.replace_nanosecond(0).unwrap_or(until);
    let until = until.format(&Rfc3339).unwrap_or_default();
    let _ = write!(
        into,
        "{} # until {until} source {}",
        ban.network, ban.reason
    );
    if !ban.direct {
        into.push_str(" proxied");
    }
    if let Some(comment) = &ban.comment {
        into.push_str(" comment ");
        into.extend(
            comment
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c }),
        );
    }
    into.push('\n');
}

/// Reads a list whole.
///
/// # Errors
/// All that is wrong, up to a hundred mistakes.
pub fn read(text: &str, unsaid: Unsaid<'_>, wall: SystemTime) -> Result<Listed, Vec<Mistake>> {
    let mut listed = Listed::default();
    let mut mistakes = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let number = index.saturating_add(1);
        if number > MOST_LINES {
            mistakes.push(Mistake {
                line: number,
                message: format!("a list has at most {MOST_LINES} lines"),
            });
            break;
        }
        match ban(text, unsaid, wall) {
            Ok(Line::Ban(ban)) => listed.bans.push((number, ban)),
            Ok(Line::Ended) => listed.ended = listed.ended.saturating_add(1),
            Ok(Line::Nothing) => {}
            Err(message) => mistakes.push(Mistake {
                line: number,
                message,
            }),
        }
        if mistakes.len() >= MOST_ERRORS {
            break;
        }
    }
    if mistakes.is_empty() {
        Ok(listed)
    } else {
        Err(mistakes)
    }
}

enum Line {
    Nothing,
    Ended,
    Ban(Wanted),
}

fn ban(line: &str, unsaid: Unsaid<'_>, wall: SystemTime) -> Result<Line, String> {
    let (network, said) = line.split_at(line.find(['#', ';']).unwrap_or(line.len()));
    let network = network.trim();
    if network.is_empty() {
        return Ok(Line::Nothing);
    }
    let network: IpNet = network
        .parse()
        .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{}` is not a network", shortened(network)))?;
    let said = Said::read(said.get(1..).unwrap_or_default())?;
    let duration = match (said.until, unsaid.duration) {
        (Some(until), _) => match until.duration_since(wall) {
            Ok(left) if !left.is_zero() => left,
            _ => return Ok(Line::Ended),
        },
        (None, Some(duration)) => duration,
        (None, None) => {
            return Err("it does not say `# until TIME`: say for how long with --for".into());
        }
    };
    Ok(Line::Ban(Wanted {
        network,
        duration,
        reason: said.reason.unwrap_or(Reason::new(Kind::Admin, "")),
        comment: said
            .comment
            .or(unsaid.comment)
            .filter(|comment| !comment.is_empty())
            .map(Into::into),
        direct: !said.proxied,
    }))
}

fn shortened(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// What a line says besides the network.
#[derive(Default)]
struct Said<'a> {
    until: Option<SystemTime>,
    reason: Option<Reason>,
    proxied: bool,
    comment: Option<&'a str>,
}

impl<'a> Said<'a> {
    /// A comment that does not begin with `until` is any text: the lists of others have such.
    fn read(text: &'a str) -> Result<Self, String> {
        let mut said = Self::default();
        let Some(rest) = word(text, "until") else {
            said.comment = Some(text.trim()).filter(|text| !text.is_empty());
            return Ok(said);
        };
        let (time, mut rest) = next(rest);
        let until = OffsetDateTime::parse(time, &Rfc3339);
        let until = until.map_err(|_| {
            let time = shortened(time);
            format!("`{time}` is not a time like 2026-07-01T10:00:00Z")
        })?;
        said.until = Some(until.into());
        if let Some(more) = word(rest, "source") {
            let (source, more) = next(more);
            let reason = Reason::parse(source);
            said.reason = Some(reason.ok_or_else(|| {
                let source = shortened(source);
                format!("`{source}` is not a source like `admin` or `limit:per-login`")
            })?);
            rest = more;
        }
        if let Some(more) = word(rest, "proxied") {
            said.proxied = true;
            rest = more;
        }
        if let Some(comment) = word(rest, "comment") {
            said.comment = Some(comment.trim());
        } else if !rest.trim().is_empty() {
            let (unknown, _) = next(rest);
            let unknown = shortened(unknown);
            return Err(format!(
                "`{unknown}` stands where `source`, `proxied` or `comment` was expected"
            ));
        }
        Ok(said)
    }
}

/// What follows `word`, if that comes next.
fn word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (found, rest) = next(text);
    (found == word).then_some(rest)
}

fn next(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALL: Duration = Duration::from_secs(1_790_000_000);

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + WALL
    }

    fn reading(text: &str) -> Result<Listed, Vec<Mistake>> {
        let unsaid = Unsaid {
            duration: Some(Duration::from_secs(60)),
            comment: None,
        };
        read(text, unsaid, wall())
    }

    fn shown(ban: &Wanted) -> Ban {
        Ban {
            network: ban.network,
            reason: ban.reason.clone(),
            comment: ban.comment.clone(),
            age: Duration::ZERO,
            until: Nanos(0).after(ban.duration),
            offences: 1,
            hits: 0,
            direct: ban.direct,
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let ban = |network: &str, source: &str, comment: Option<&str>, direct| Wanted {
            network: network.parse().unwrap(),
            duration: Duration::from_secs(600),
            reason: Reason::parse(source).unwrap(),
            comment: comment.map(Into::into),
            direct,
        };
        let bans = [
            ban("203.0.113.7/32", "limit:per-login", None, true),
            ban(
                "198.51.100.0/24",
                "admin",
                Some("scanners # and ; more"),
                true,
            ),
            ban("2001:db8::/64", "rule:probes", Some("until source"), false),
        ];
        let mut text = String::from("# a head\n\n");
        for ban in &bans {
            line(&shown(ban), Nanos(0), wall(), &mut text);
        }
        assert!(
            text.contains("203.0.113.7/32 # until 2026-09-21T14:23:20Z source limit:per-login\n"),
            "{text}"
        );
        let listed = reading(&text).unwrap();
        let read: Vec<_> = listed.bans.into_iter().map(|(_, ban)| ban).collect();
        assert_eq!(read, bans);
    }

    #[test]
    fn lists_of_others_are_read_too() {
        let text = "; Spamhaus DROP List\n1.10.16.0/20 ; SBL256894\n# netset\n192.0.2.1\n";
        let listed = reading(text).unwrap();
        let read: Vec<_> = listed
            .bans
            .iter()
            .map(|(line, ban)| (*line, ban.network.to_string(), ban.comment.as_deref()))
            .collect();
        assert_eq!(
            read,
            [
                (2, "1.10.16.0/20".to_owned(), Some("SBL256894")),
                (4, "192.0.2.1/32".to_owned(), None)
            ]
        );
        let untimed = read_untimed(text);
        assert_eq!(untimed.len(), 2);
        assert!(untimed[0].message.contains("--for"), "{untimed:?}");
    }

    fn read_untimed(text: &str) -> Vec<Mistake> {
        read(text, Unsaid::default(), wall()).unwrap_err()
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let text = "192.0.2.1\nnobody\n192.0.2.2 # until tomorrow\n\
                    192.0.2.3 # until 2020-01-01T00:00:00Z\n\
                    192.0.2.4 # until 2036-01-01T00:00:00Z source x\n\
                    192.0.2.5 # until 2036-01-01T00:00:00Z sauce admin\n";
        let mistakes = reading(text).unwrap_err();
        let told: Vec<_> = mistakes
            .iter()
            .map(|mistake| (mistake.line, mistake.message.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (2, "`nobody` is not a network"),
                (3, "`tomorrow` is not a time like 2026-07-01T10:00:00Z"),
                (5, "`x` is not a source like `admin` or `limit:per-login`"),
                (
                    6,
                    "`sauce` stands where `source`, `proxied` or `comment` was expected"
                ),
            ]
        );
        let ended = reading("192.0.2.3 # until 2020-01-01T00:00:00Z\n").unwrap();
        assert_eq!((ended.bans.len(), ended.ended), (0, 1));
        let many = "x\n".repeat(1000);
        assert_eq!(reading(&many).unwrap_err().len(), MOST_ERRORS);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "\\PC*", tail in "(until|source|[#; 0-9.:a-zTZ-])*") {
            let _ = reading(&text);
            let _ = reading(&format!("192.0.2.1 # until {tail}"));
        }
    }
}
