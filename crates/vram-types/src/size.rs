//! Sizes in bytes as people write and read them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes that prints as `1.5 MiB` and parses from `512MiB`, `6GiB`, `1.5GB`, `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` KiB (1024 bytes), saturating.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 10))
    }
    /// `n` MiB (1024 KiB), saturating.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 20))
    }
    /// `n` GiB (1024 MiB), saturating.
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n.saturating_mul(1 << 30))
    }
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let text = if self.0 < 1024 {
            format!("{} B", self.0)
        } else {
            let mut value = self.0 as f64 / 1024.0;
            let mut unit = 0;
            // 1023.96 would print as "1024.0".
            while value >= 1023.95 && unit + 1 < UNITS.len() {
                value /= 1024.0;
                unit += 1;
            }
            format!("{value:.1} {}", UNITS[unit])
        };
        f.pad(&text)
    }
}

/// The text is no size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseByteSizeError(String);

impl fmt::Display for ParseByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no size; write it as 512MiB, 6GiB, 1.5GB or a number of bytes", self.0)
    }
}

impl std::error::Error for ParseByteSizeError {}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(s: &str) -> Result<ByteSize, ParseByteSizeError> {
        let bad = || ParseByteSizeError(s.to_owned());
        let text = s.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000 * 1000,
            "gb" => 1000 * 1000 * 1000,
            "tb" => 1000 * 1000 * 1000 * 1000,
            "kib" | "ki" | "k" => 1 << 10,
            "mib" | "mi" | "m" => 1 << 20,
            "gib" | "gi" | "g" => 1 << 30,
            "tib" | "ti" | "t" => 1 << 40,
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(bad);
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
        // 2^64 as f64; anything at or above it does not fit.
        if factor == 1 || !value.is_finite() || !(0.0..18_446_744_073_709_551_616.0).contains(&value) {
            return Err(bad());
        }
        Ok(ByteSize(value as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<ByteSize>().ok().map(ByteSize::bytes), expected, "{text:?}");
        };
        check("4096", Some(4096));
        check("512MiB", Some(512 << 20));
        check(" 6 GiB ", Some(6 << 30));
        check("1.5GB", Some(1_500_000_000));
        check("0", Some(0));
        check("2g", Some(2 << 30));
        check("1Gi", Some(1 << 30));
        check("0.5Ki", Some(512));
        check("1.5", None);
        check("", None);
        check("MiB", None);
        check("-1MiB", None);
        check("1..5GB", None);
        check("12 apples", None);
        check("99999999999TiB", None);
        check("18446744073709551615", Some(u64::MAX));
        check("18446744073709551616", None);
    }

    #[test]
    fn prints_in_the_nearest_unit() {
        let check = |bytes: u64, expected: &str| assert_eq!(ByteSize(bytes).to_string(), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check((1 << 20) - 1, "1.0 MiB");
        check(128 << 20, "128.0 MiB");
        check(u64::MAX, "16.0 EiB");
    }
}
