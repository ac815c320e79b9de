//! Printing to stdout.

use std::io::{self, Write};

use serde::Serialize;

/// Prints a document as indented JSON.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    // Whole before anything of it is printed: a document that fails midway is none.
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    out.flush()?;
    Ok(())
}

/// Prints rows as columns. Columns in `right` are aligned right, all others left.
pub(crate) fn columns<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
    right: [bool; N],
) -> io::Result<()> {
    let widths: [usize; N] =
        std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let blanks = " ".repeat(widths[c] - cell.chars().count());
            let gap = if c > 0 { "  " } else { "" };
            line.push_str(gap);
            if right[c] {
                line.push_str(&blanks);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&blanks);
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A count with its noun: `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Words as a list: `a`, `a and b`, `a, b and c`.
pub(crate) fn list(words: &[String], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {conjunction} {last}", first.join(", ")),
    }
}

/// A large number with three digits: `768`, `12.3 K`, `1.13 B`.
pub(crate) fn large(number: u64) -> String {
    let (value, unit) = match number {
        0..1000 => return number.to_string(),
        1000..999_500 => (number as f64 / 1e3, "K"),
        999_500..999_500_000 => (number as f64 / 1e6, "M"),
        _ => (number as f64 / 1e9, "B"),
    };
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A time with three significant digits.
pub(crate) fn seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 0.9995 => (s, "s"),
        s if s >= 0.9995e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|n| count(n, "tensor")), ["0 tensors", "1 tensor", "2 tensors"]);
    }

    #[test]
    fn lists_end_in_a_conjunction() {
        let words = ["a", "b", "c"].map(str::to_owned);
        assert_eq!([0, 1, 2, 3].map(|n| list(&words[..n], "or")), ["", "a", "a or b", "a, b or c"]);
    }

    #[test]
    fn large_numbers_have_three_digits() {
        let check = |number, expected: &str| assert_eq!(large(number), expected);
        check(999, "999");
        check(1000, "1.00 K");
        check(999_499, "999 K");
        check(999_500, "1.00 M");
        check(22_713_216, "22.7 M");
        check(1_134_000_000, "1.13 B");
        check(u64::MAX, "18446744074 B");
    }

    #[test]
    fn times_have_three_digits() {
        let check = |value, expected: &str| assert_eq!(seconds(value), expected);
        check(1234.5, "1234 s");
        check(1.0, "1.00 s");
        check(0.9996, "1.00 s");
        check(0.0123, "12.3 ms");
        check(0.5, "500 ms");
        check(12e-6, "12.0 µs");
        check(0.0, "0.00 µs");
    }
}
