//! The key-value pairs of a GGUF file: read, checked, and kept as text.

use vram_types::SourceErrorKind;

use crate::catalog::contents::Split;
use crate::fault::{Fault, quoted};
use crate::format::json::quote;

/// Deepest nesting of arrays.
const MOST_NESTED: u32 = 4;
/// What the pairs may take as text for each byte of the file, and beyond that.
const TEXT_BYTES: (usize, usize) = (5, 16 << 10);

/// Why parsing ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The text ends; the fault is for when the file does, too.
    More(Fault),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// Little-endian values one after the other.
pub(super) struct Values<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Values<'a> {
    pub(super) fn new(text: &'a [u8]) -> Values<'a> {
        Values { text, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that have not been read.
    pub(super) fn rest(&self) -> usize {
        self.text.len() - self.at
    }

    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], Stop> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| self.text.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => {
                let message = format!("{len} bytes are to follow, the file ends at byte {}", self.text.len());
                let fault = Fault::new(SourceErrorKind::Truncated, message);
                Err(Stop::More(Fault { at: Some(self.at as u64), ..fault }))
            }
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let bytes = self.bytes(N as u64)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.number().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.number().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Stop> {
        let len = self.u64()?;
        self.bytes(len)
    }

    /// A string that must be UTF-8.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, Stop> {
        let at = self.at;
        std::str::from_utf8(self.string()?)
            .map_err(|_| Fault::invalid(at, format!("{what} is not UTF-8")).into())
    }
}

/// The pairs as a JSON object of strings.
pub(super) struct Metadata {
    json: String,
    /// The array that is being read.
    value: String,
    most: usize,
    /// What `general.alignment` says.
    pub(super) alignment: Option<u64>,
    /// What `split.no`, `split.count` and `split.tensors.count` say.
    split: [Option<u64>; 3],
}

/// The keys of a file that is one of several.
const SPLIT: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

impl Metadata {
    /// For a file whose beginning of so many bytes is at hand.
    pub(super) fn new(text_bytes: usize) -> Metadata {
        let most = text_bytes.saturating_mul(TEXT_BYTES.0).saturating_add(TEXT_BYTES.1);
        Metadata { json: String::from("{"), value: String::new(), most, alignment: None, split: [None; 3] }
    }

    /// Reads one pair.
    pub(super) fn pair(&mut self, values: &mut Values<'_>) -> Result<(), Stop> {
        let at = values.offset();
        let key = values.text("a key")?;
        let kind = values.u32()?;
        self.value.clear();
        self.value_of(kind, values, 0).map_err(|stop| match stop {
            Stop::Fault(fault) => Stop::Fault(Fault {
                message: format!("the value of {}: {}", quoted(key), fault.message).into(),
                ..fault
            }),
            more => more,
        })?;
        if key == "general.alignment" {
            let alignment = (kind == 4).then(|| self.value.parse().ok()).flatten();
            let message = "general.alignment is no 32-bit number";
            self.alignment = Some(alignment.ok_or_else(|| Fault::invalid(at, message))?);
        }
        if let Some(place) = SPLIT.iter().position(|split| *split == key) {
            let number = self.value.parse().ok();
            let message = || Fault::invalid(at, format!("{key} is no number that counts anything"));
            self.split[place] = Some(number.ok_or_else(message)?);
        }
        let value = std::mem::take(&mut self.value);
        grow(&mut self.json, value.len() + key.len() + 8);
        quote(&mut self.json, key);
        self.json.push(':');
        quote(&mut self.json, &value);
        self.json.push(',');
        self.value = value;
        self.checked(at)
    }

    /// The place in a set of files, if there are several.
    pub(super) fn split(&self) -> Result<Option<Split>, Fault> {
        match self.split {
            [_, None | Some(0 | 1), _] => Ok(None),
            [Some(number), Some(of), tensors] => Ok(Some(Split { number, of, tensors })),
            [None, Some(of), _] => {
                let message = format!("one of {of} files, without the key split.no that says which");
                Err(Fault::new(SourceErrorKind::Invalid, message))
            }
        }
    }

    /// The whole object.
    pub(super) fn finish(mut self) -> Box<str> {
        if self.json.len() == 1 {
            return Box::default();
        }
        self.json.pop();
        self.json.push('}');
        self.json.into()
    }

    fn checked(&self, at: usize) -> Result<(), Stop> {
        if self.json.len() + self.value.len() > self.most {
            return Err(Fault::invalid(at, "its text is several times as long as the file's own").into());
        }
        Ok(())
    }

    /// Appends a value: a string as it is, arrays as JSON.
    fn value_of(&mut self, kind: u32, values: &mut Values<'_>, depth: u32) -> Result<(), Stop> {
        let at = values.offset();
        let number = |value: &mut String, text: String| value.push_str(&text);
        match kind {
            0 => number(&mut self.value, values.number::<1>()?[0].to_string()),
            1 => number(&mut self.value, i8::from_le_bytes(values.number()?).to_string()),
            2 => number(&mut self.value, u16::from_le_bytes(values.number()?).to_string()),
            3 => number(&mut self.value, i16::from_le_bytes(values.number()?).to_string()),
            4 => number(&mut self.value, values.u32()?.to_string()),
            5 => number(&mut self.value, i32::from_le_bytes(values.number()?).to_string()),
            6 => number(&mut self.value, f32::from_le_bytes(values.number()?).to_string()),
            7 => match values.number::<1>()?[0] {
                0 => self.value.push_str("false"),
                1 => self.value.push_str("true"),
                other => return Err(Fault::invalid(at, format!("{other} is no truth value")).into()),
            },
            8 => self.string(values, depth)?,
            9 => self.array(values, depth)?,
            10 => number(&mut self.value, values.u64()?.to_string()),
            11 => number(&mut self.value, i64::from_le_bytes(values.number()?).to_string()),
            12 => number(&mut self.value, f64::from_le_bytes(values.number()?).to_string()),
            other => return Err(Fault::invalid(at, format!("values of the unknown type {other}")).into()),
        }
        Ok(())
    }

    /// One that is not UTF-8 (tokens of single bytes) is given as the list of its bytes.
    fn string(&mut self, values: &mut Values<'_>, depth: u32) -> Result<(), Stop> {
        let bytes = values.string()?;
        grow(&mut self.value, bytes.len() + 2);
        match std::str::from_utf8(bytes) {
            Ok(text) if depth == 0 => self.value.push_str(text),
            Ok(text) => quote(&mut self.value, text),
            Err(_) => self.value.push_str(&format!("{bytes:?}")),
        }
        Ok(())
    }

    fn array(&mut self, values: &mut Values<'_>, depth: u32) -> Result<(), Stop> {
        let at = values.offset();
        let (kind, len) = (values.u32()?, values.u64()?);
        if depth >= MOST_NESTED {
            return Err(Fault::invalid(at, "arrays are nested too deep").into());
        }
        self.value.push('[');
        for i in 0..len {
            if i > 0 {
                self.value.push(',');
            }
            self.value_of(kind, values, depth + 1)?;
            self.checked(at)?;
        }
        self.value.push(']');
        Ok(())
    }
}

/// Makes room for more, by an eighth where it grows, so that little is held twice.
fn grow(text: &mut String, more: usize) {
    if text.capacity() - text.len() < more {
        text.reserve_exact(more + text.len() / 8);
    }
}
