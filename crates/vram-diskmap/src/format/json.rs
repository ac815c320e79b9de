//! A strict JSON reader (RFC 8259) for headers and indexes: one pass, no tree, nothing allocated
//! but what is kept.

use std::borrow::Cow;

use crate::fault::Fault;

/// Values nested deeper than this are refused, so that the stack is bounded.
const MOST_NESTED: usize = 100;

/// Numbers of so many digits always fit 64 bits.
const MOST_PLAIN_DIGITS: usize = 19;

/// A place in a JSON text. `base` is added to the offsets in errors.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    base: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str, base: usize) -> Cursor<'a> {
        Cursor { text, at: 0, base }
    }

    /// Offset of the next byte, as errors give it.
    pub(crate) fn offset(&self) -> usize {
        self.base + self.at
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(crate) fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The text that has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Passes over bytes that the caller has read from [`rest`](Cursor::rest): whole characters.
    pub(crate) fn pass(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// The text that has not been read.
    pub(crate) fn rest_text(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(crate) fn fault(&self, message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::invalid(self.offset(), message)
    }

    fn unexpected(&self, wanted: &'static str) -> Fault {
        match self.text[self.at..].chars().next() {
            None => self.fault(format!("the JSON ends where {wanted} is expected")),
            Some(c) => self.fault(format!("{c:?} where {wanted} is expected")),
        }
    }

    /// Passes over one byte, with the blanks before it.
    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, wanted: &'static str) -> Result<(), Fault> {
        self.blanks();
        if self.peek() != Some(byte) {
            return Err(self.unexpected(wanted));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads an object, `{` to `}`: `member` is given each key, its offset, and the cursor before
    /// the value.
    pub(crate) fn object<E: From<Fault>>(
        &mut self,
        mut member: impl FnMut(&mut Cursor<'a>, Cow<'a, str>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "an object")?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.blanks();
            let at = self.offset();
            let key = self.string()?;
            self.expect(b':', "':'")?;
            self.blanks();
            member(self, key, at)?;
            if !self.comma_or(b'}', "',' or '}'")? {
                return Ok(());
            }
        }
    }

    /// Reads an array, `[` to `]`, calling `element` before each value.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Cursor<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.expect(b'[', "an array")?;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.blanks();
            element(self)?;
            if !self.comma_or(b']', "',' or ']'")? {
                return Ok(());
            }
        }
    }

    /// Whether another member follows.
    #[inline]
    fn comma_or(&mut self, close: u8, wanted: &'static str) -> Result<bool, Fault> {
        self.blanks();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b) if b == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.unexpected(wanted)),
        }
    }

    /// Reads a string. Borrowed from the text unless it has escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        self.at += 1;
        let start = self.at;
        self.plain();
        if self.peek() == Some(b'"') {
            let text = &self.text[start..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut owned = self.text[start..self.at].to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(owned));
                }
                Some(b'\\') => owned.push(self.escape()?),
                Some(_) => return Err(self.fault("a control character in a string")),
                None => return Err(self.fault("the JSON ends inside a string")),
            }
            let from = self.at;
            self.plain();
            owned.push_str(&self.text[from..self.at]);
        }
    }

    /// Passes over the bytes of a string that stand for themselves.
    #[inline]
    fn plain(&mut self) {
        let special = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
        let (words, _) = self.rest().as_chunks::<8>();
        self.at += 8 * words.iter().take_while(|word| !any_special(**word)).count();
        let rest = self.rest();
        self.at += rest.iter().position(special).unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.at;
        self.at += 1;
        let byte = self.peek().ok_or_else(|| self.fault("the JSON ends inside a string"))?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(start),
            _ => return Err(Fault::invalid(self.base + start, "an unknown escape in a string")),
        })
    }

    fn unicode(&mut self, start: usize) -> Result<char, Fault> {
        let base = self.base;
        let lone = || Fault::invalid(base + start, "a lone surrogate in a string");
        let high = self.hex(start)?;
        let code = match high {
            0xD800..=0xDBFF => {
                if !self.rest().starts_with(b"\\u") {
                    return Err(lone());
                }
                self.at += 2;
                let low = self.hex(start)?;
                if !(0xDC00..=0xDFFF).contains(&low) {
                    return Err(lone());
                }
                0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(lone)
    }

    fn hex(&mut self, start: usize) -> Result<u32, Fault> {
        let bad = || Fault::invalid(self.base + start, "\\u wants four hexadecimal digits");
        let digits = self.rest().get(..4).ok_or_else(bad)?;
        let mut code = 0;
        for &d in digits {
            code = code * 16 + char::from(d).to_digit(16).ok_or_else(bad)?;
        }
        self.at += 4;
        Ok(code)
    }

    /// Reads a whole number that is not negative.
    #[inline]
    pub(crate) fn unsigned(&mut self) -> Result<u64, Fault> {
        let start = self.at;
        let mut value = 0u64;
        while let Some(d @ b'0'..=b'9') = self.peek() {
            value = value.wrapping_mul(10).wrapping_add(u64::from(d - b'0'));
            self.at += 1;
        }
        if self.at - start > MOST_PLAIN_DIGITS {
            // Only here can it have wrapped.
            value = self.text[start..self.at]
                .parse()
                .map_err(|_| Fault::invalid(self.base + start, "a number that does not fit 64 bits"))?;
        }
        match (self.at - start, self.peek()) {
            (0, _) => Err(self.unexpected("a whole number that is not negative")),
            (_, Some(b'.' | b'e' | b'E')) => {
                Err(Fault::invalid(self.base + start, "a fraction where a whole number is expected"))
            }
            (digits, _) if digits > 1 && self.text.as_bytes()[start] == b'0' => {
                Err(Fault::invalid(self.base + start, "a number that begins with 0"))
            }
            _ => Ok(value),
        }
    }

    /// Passes over any value.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        self.skip_nested(MOST_NESTED)
    }

    fn skip_nested(&mut self, depth: usize) -> Result<(), Fault> {
        let inner = depth.checked_sub(1).ok_or_else(|| self.fault("values are nested too deep"))?;
        match self.peek() {
            Some(b'{') => self.object(|c, _, _| c.skip_nested(inner)),
            Some(b'[') => self.array(|c| c.skip_nested(inner)),
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Fault> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.unexpected("a value")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let count = self.rest().iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.unexpected("a digit"));
        }
        self.at += count;
        Ok(())
    }
}

/// Whether one of eight bytes does not stand for itself in a string; may err towards yes on bytes
/// above 0x7F.
fn any_special(word: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word);
    // The highest bit of each byte of `x - n` where the byte was below `n`, for bytes under 0x80.
    let below = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (quote | backslash | below(word, 0x20)) & (ONES << 7) != 0
}

/// Appends a JSON string.
pub(crate) fn quote(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    #[test]
    fn eight_bytes_at_a_time_find_each_special_byte() {
        for place in 0..8 {
            for byte in 0..=255u8 {
                let mut word = *b"abcdefgh";
                word[place] = byte;
                let special = byte == b'"' || byte == b'\\' || byte < 0x20;
                assert_eq!(any_special(word), special, "{byte:#x} at {place}");
            }
        }
    }

    use super::*;

    #[test]
    fn strings() {
        let check = |text: &str, expected: Option<&str>| {
            let got = Cursor::new(text, 0).string().ok();
            assert_eq!(got.as_deref(), expected, "{text}");
        };
        check(r#""abc" "#, Some("abc"));
        check(r#""a\"\\\/\b\f\n\r\tz""#, Some("a\"\\/\u{8}\u{c}\n\r\tz"));
        check(r#""\u00e9\uD83D\uDE00é""#, Some("é😀é"));
        check(r#""\u0000""#, Some("\0"));
        check(r#""\uD83D""#, None);
        check(r#""\uD83Dx""#, None);
        check(r#""\uD83D\u0041""#, None);
        check(r#""\uDE00""#, None);
        check(r#""\u12"#, None);
        check(r#""\u+123""#, None);
        check(r#""\x41""#, None);
        check("\"a\nb\"", None);
        check("\"abc", None);
        check("\"abc\\", None);
        check("abc", None);
    }

    #[test]
    fn whole_numbers() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(Cursor::new(text, 0).unsigned().ok(), expected, "{text}");
        };
        check("0", Some(0));
        check("18446744073709551615,", Some(u64::MAX));
        check("18446744073709551616", None);
        check("01", None);
        check("00", None);
        check("-1", None);
        check("1.0", None);
        check("1e3", None);
        check("", None);
    }

    #[test]
    fn skips_values_as_serde_json_accepts_them() {
        for text in [
            "{}",
            "[]",
            "[1,2]",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" : [ true , false , null ] }",
            "-0",
            "-",
            "1.",
            "1.5e-3",
            "1e",
            "01",
            "tru",
            "\"x\"",
            "{a:1}",
            "[1 2]",
            "{\"a\":{\"b\":[[[]]]}}",
            "nul",
            "+1",
            ".5",
            "1E+2",
        ] {
            let mut c = Cursor::new(text, 0);
            let ours = c.skip().is_ok() && c.rest().is_empty();
            assert_eq!(ours, serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(Cursor::new(&deep, 0).skip().is_err());
    }
}
