//! Rates, durations, sizes and shares as the operator writes them. Pure text in, values out; the
//! error is what to write instead.

use super::model::Rate;
use std::{num::NonZeroU32, time::Duration};

/// No period, timeout or refresh is longer: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Keeps `burst x period` far from the end of 64-bit nanoseconds.
pub const LARGEST_AMOUNT: u32 = 1_000_000;

/// Digits, then the unit.
fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `500ms`, `10s`, `10m`, `24h`; `0s` is for the caller to judge.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "a duration is written like `500ms`, `10s`, `10m` or `24h`";
    let (digits, unit) = split(text);
    if digits.is_empty() {
        return Err(EXPECTED.into());
    }
    let too_long = || "a duration is at most ten years".to_owned();
    let number: u64 = digits.parse().map_err(|_| too_long())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "" => return Err(format!("lacks its unit; write `{digits}s` for seconds")),
        "sec" | "secs" | "second" | "seconds" => return Err(format!("write `{digits}s`")),
        "min" | "mins" | "minute" | "minutes" => return Err(format!("write `{digits}m`")),
        "hour" | "hours" => return Err(format!("write `{digits}h`")),
        "d" | "day" | "days" => {
            return Err(match number.checked_mul(24) {
                Some(hours) => format!("write `{hours}h`"),
                None => too_long(),
            });
        }
        _ => return Err(EXPECTED.into()),
    };
    milliseconds
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(too_long)
}

/// `20/s`, `5/m`, `100/h`.
pub fn rate(text: &str) -> Result<Rate, String> {
    const EXPECTED: &str = "a rate is written like `20/s`, `5/m` or `100/h`";
    let (digits, unit) = split(text);
    if digits.is_empty() {
        return Err(EXPECTED.into());
    }
    let seconds = match unit {
        "/s" => 1,
        "/m" => 60,
        "/h" => 3600,
        "" => {
            return Err(format!(
                "lacks its period; write `{digits}/s` for each second"
            ));
        }
        "/sec" | "/second" | "r/s" | "rps" => return Err(format!("write `{digits}/s`")),
        "/min" | "/minute" | "r/m" | "rpm" => return Err(format!("write `{digits}/m`")),
        "/hour" => return Err(format!("write `{digits}/h`")),
        _ => return Err(EXPECTED.into()),
    };
    let amount = digits
        .parse()
        .ok()
        .filter(|amount| *amount <= LARGEST_AMOUNT)
        .ok_or_else(|| format!("a rate is at most {LARGEST_AMOUNT} in its period"))?;
    let amount = NonZeroU32::new(amount)
        .ok_or("a rate of 0 would refuse everyone; use a rule with `then: deny` for that")?;
    Ok(Rate {
        amount,
        period: Duration::from_secs(seconds),
    })
}

/// `512B`, `16KiB`, `8MiB`, `1GiB`, in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "a size is written like `512B`, `16KiB` or `8MiB`";
    let (digits, unit) = split(text);
    if digits.is_empty() {
        return Err(EXPECTED.into());
    }
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "" => {
            return Err(format!(
                "lacks its unit; write `{digits}B` or `{digits}KiB`"
            ));
        }
        "K" | "KB" | "kB" | "kb" | "k" | "Ki" | "kib" => {
            return Err(format!("write `{digits}KiB`"));
        }
        "M" | "MB" | "mb" | "m" | "Mi" | "mib" => return Err(format!("write `{digits}MiB`")),
        "G" | "GB" | "gb" | "g" | "Gi" | "gib" => return Err(format!("write `{digits}GiB`")),
        _ => return Err(EXPECTED.into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes <= 1 << 50)
        .ok_or_else(|| "a size is at most 1 PiB".to_owned())
}

/// `1KiB/s`: bytes a second.
pub fn throughput(text: &str) -> Result<u64, String> {
    text.strip_suffix("/s")
        .and_then(|amount| size(amount).ok())
        .ok_or_else(|| "a throughput is written like `512B/s` or `1KiB/s`".to_owned())
}

/// `20%` or `0.2`, as 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    value
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "a share is written like `20%` or `0.2`, from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_contract_writes_is_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        let five = rate("5/m").unwrap();
        assert_eq!((five.amount.get(), five.period.as_secs()), (5, 60));
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("8MiB"), Ok(8_388_608));
        assert_eq!(throughput("1KiB/s"), Ok(1024));
        assert_eq!(share("20%"), Ok(0.2));
        assert_eq!(share("0.2"), Ok(0.2));
    }

    #[test]
    fn near_misses_are_told_what_to_write() {
        assert_eq!(
            duration("10"),
            Err("lacks its unit; write `10s` for seconds".into())
        );
        assert_eq!(duration("7d"), Err("write `168h`".into()));
        assert_eq!(rate("10/min"), Err("write `10/m`".into()));
        assert_eq!(size("16kb"), Err("write `16KiB`".into()));
    }

    #[test]
    fn nothing_overflows() {
        for digits in [
            "18446744073709551615",
            "99999999999999999999999",
            "4294967296",
        ] {
            for unit in ["ms", "s", "m", "h", "d", "/s", "/h", "GiB", "MiB", "%"] {
                let text = format!("{digits}{unit}");
                let _ = duration(&text);
                assert!(rate(&text).is_err());
                let _ = size(&text);
                assert!(share(&text).is_err());
            }
        }
        assert!(duration("18446744073709551615h").is_err());
        assert!(size("18446744073709551615GiB").is_err());
    }
}
