//! Checkpoints of several files by their names: `model-00001-of-00003.safetensors` is one of three.

use std::path::{Path, PathBuf};

use vram_types::{SourceError, SourceErrorKind};

use crate::fault::{LENIENT, quoted};

/// Most files of a set.
const MOST_PARTS: u32 = 99_999;

/// A file's place in a set, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// What is before the numbers.
    before: &'a str,
    digits: usize,
    pub(crate) number: u32,
    pub(crate) of: u32,
    /// What is behind the numbers.
    after: &'a str,
}

impl<'a> Part<'a> {
    /// The place that a name states.
    pub(crate) fn of(name: &'a str) -> Option<Part<'a>> {
        let middle = name.rfind("-of-")?;
        let (left, right) = (&name[..middle], &name[middle + 4..]);
        let digits = right.bytes().take_while(u8::is_ascii_digit).count();
        let before = left.len().checked_sub(digits)?;
        let (stem, number) = (left.get(..before)?.strip_suffix('-')?, left.get(before..)?);
        let is_number = |text: &str| text.len() >= 4 && text.bytes().all(|b| b.is_ascii_digit());
        let (of, after) = right.split_at(digits);
        if !is_number(number) || !is_number(of) || !after.starts_with('.') {
            return None;
        }
        let (number, of) = (number.parse().ok()?, of.parse().ok()?);
        ((1..=of).contains(&number) && of <= MOST_PARTS).then_some(Part {
            before: stem,
            digits,
            number,
            of,
            after,
        })
    }

    /// The name of the file of that number.
    fn name(&self, number: u32) -> String {
        let (width, of) = (self.digits, self.of);
        format!("{}-{number:0width$}-of-{of:0width$}{}", self.before, self.after)
    }

    /// Whether both are of one set.
    fn is_with(&self, other: &Part<'_>) -> bool {
        let set = |part: &Part<'_>| (part.digits, part.of);
        set(self) == set(other) && self.before == other.before && self.after == other.after
    }
}

/// All files of the set that a file belongs to by its name, and the numbers of those that are not
/// there; `None` for a file by itself.
pub(crate) fn siblings(path: &Path) -> Option<(Vec<PathBuf>, Vec<String>)> {
    let part = Part::of(path.file_name()?.to_str()?)?;
    let names = (1..=part.of).map(|number| part.name(number));
    let (there, missing): (Vec<String>, Vec<String>) =
        names.partition(|name| path.with_file_name(name).exists());
    Some((there.iter().map(|name| path.with_file_name(name)).collect(), missing))
}

/// What is missing of the sets that some files of a folder belong to.
pub(crate) fn missing(files: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Part<'_>> =
        files.iter().filter_map(|path| Part::of(path.file_name()?.to_str()?)).collect();
    let mut missing = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if parts[..i].iter().any(|other| other.is_with(part)) {
            continue;
        }
        let has = |number| parts.iter().any(|other| other.is_with(part) && other.number == number);
        missing.extend((1..=part.of).filter(|&number| !has(number)).map(|number| part.name(number)));
    }
    missing
}

/// The names by which each checkpoint of a folder could be given: files by themselves, and the
/// first of each set.
pub(crate) fn choices(files: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let is_first = |name: &String| Part::of(name).is_none_or(|part| part.number == 1);
    files.iter().filter_map(name).filter(is_first).collect()
}

/// Some names as a message lists them.
pub(crate) fn listed(names: &[String]) -> String {
    const MOST: usize = 8;
    let quoted: Vec<String> = names.iter().take(MOST).map(|name| quoted(name)).collect();
    match names.len().saturating_sub(MOST) {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

/// The error for a set of which these files are missing.
pub(crate) fn incomplete(missing: &[String]) -> SourceError {
    let message = format!(
        "a part of a checkpoint, of which {} missing: {}{LENIENT}",
        if missing.len() == 1 { "a file is" } else { "files are" },
        listed(missing)
    );
    SourceError::new(SourceErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_state_a_place_in_a_set() {
        let check = |name: &str, place: Option<(u32, u32)>| {
            assert_eq!(Part::of(name).map(|part| (part.number, part.of)), place, "{name}");
        };
        check("model-00002-of-00003.safetensors", Some((2, 3)));
        check("model.fp16-00001-of-00002.safetensors", Some((1, 2)));
        check("model-00001-of-00002.fp16.safetensors", Some((1, 2)));
        check("llama-Q4_0-00001-of-00009.gguf", Some((1, 9)));
        check("one-of-us.safetensors", None);
        check("model-00004-of-00003.safetensors", None);
        check("model-00000-of-00003.safetensors", None);
        check("model-1-of-3.safetensors", None);
        check("model-0001-of-00003.safetensors", None);
        check("00001-of-00003.safetensors", None);
        check("größe-00001-of-00003.bin", Some((1, 3)));
        check("model-00001-of-00003", None);
        let part = Part::of("m-00002-of-00003.bin").unwrap();
        assert_eq!(part.name(3), "m-00003-of-00003.bin");
    }
}
