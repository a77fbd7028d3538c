//! The origin of a page: version, date, adapter and command.

use super::WORDS;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names and values for a page. `SOURCE_DATE_EPOCH`, in seconds since 1970, replaces the present time.
pub fn facts(adapter: &str) -> Vec<(String, String)> {
    let set = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let words = WORDS.get().into_iter().flatten().map(|word| quoted(&word.to_string_lossy()));
    let command = ["lat-wgpu".to_string()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
    [
        ("Made", format!("{} by lat-wgpu {}", date(set.unwrap_or_else(now)), env!("CARGO_PKG_VERSION"))),
        ("Adapter", adapter.to_string()),
        ("Command", command),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

/// A word as a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The date and time in UTC, to the minute.
fn date(seconds: u64) -> String {
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut days = seconds / 86_400;
    // Years repeat every 400.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02} UTC", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_795_960_715, "2026-11-29 13:58 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (12_622_780_800, "2370-01-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        for (word, wanted) in [
            ("--data=a/b.c", "--data=a/b.c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(quoted(word), wanted);
        }
    }
}
