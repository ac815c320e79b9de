//! Opening checkpoints as the arguments ask.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use globset::{Glob, GlobMatcher};
use vram_diskmap::{
    Conversion, ConversionError, ConversionErrorKind, Converted, DiskMap, DiskMapOptions, ReadMode,
};
use vram_types::{SourceError, WeightSource};

use crate::args::Read;

/// How many names an error proposes.
const PROPOSED: usize = 3;

/// A checkpoint as it is, or what rules make of it.
pub(crate) enum Checkpoint {
    Plain(DiskMap),
    Converted(Converted),
}

impl Checkpoint {
    /// Opens a checkpoint and applies the rules of a file to it, if one is given.
    pub(crate) fn open(
        options: DiskMapOptions,
        path: &Path,
        read: Read,
        convert: Option<&Path>,
    ) -> Result<Checkpoint> {
        // Before the checkpoint, so that what is wrong with the rules themselves is said first.
        let rules = convert.map(Conversion::read_toml).transpose()?;
        let map = open(options, path, read)?;
        let Some(rules) = rules else { return Ok(Checkpoint::Plain(map)) };
        let names: Vec<String> = map.names().map(str::to_owned).collect();
        let converted =
            map.convert(&rules).map_err(|e| unfit(e, &names).context(path.display().to_string()))?;
        Ok(Checkpoint::Converted(converted))
    }

    /// The files.
    pub(crate) fn map(&self) -> &DiskMap {
        match self {
            Checkpoint::Plain(map) => map,
            Checkpoint::Converted(converted) => converted.source(),
        }
    }

    pub(crate) fn source(&self) -> &dyn WeightSource {
        match self {
            Checkpoint::Plain(map) => map,
            Checkpoint::Converted(converted) => converted,
        }
    }

    pub(crate) fn into_source(self) -> Arc<dyn WeightSource> {
        match self {
            Checkpoint::Plain(map) => Arc::new(map),
            Checkpoint::Converted(converted) => Arc::new(converted),
        }
    }
}

/// Opens a checkpoint for reading in that way.
pub(crate) fn open(options: DiskMapOptions, path: &Path, read: Read) -> Result<DiskMap, SourceError> {
    match read {
        Read::Auto => options.read(ReadMode::Auto).open(path),
        Read::Pread => options.read(ReadMode::Buffered).open(path),
        Read::Direct => options.read(ReadMode::Direct).open(path),
        Read::Uring => options.read(ReadMode::Uring).open(path),
        // SAFETY: only the person who types `--read mmap` can promise that nobody changes the files; the help says so.
        Read::Mmap => unsafe { options.open_mapped(path) },
    }
}

/// A pattern for names of tensors; `*` crosses dots, `{a,b}` is either.
pub(crate) fn pattern(text: &str) -> Result<GlobMatcher, String> {
    Glob::new(text).map(|g| g.compile_matcher()).map_err(|e| e.to_string())
}

/// Whether a tensor is asked for: all are if no pattern is given.
pub(crate) fn wanted(patterns: &[GlobMatcher], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.is_match(name))
}

/// That no tensor matches, with the names that are most like what was asked for.
pub(crate) fn none_matches(
    patterns: &[GlobMatcher],
    path: &Path,
    source: &dyn WeightSource,
) -> anyhow::Error {
    if source.names().next().is_none() {
        return anyhow!("{}: there are no tensors", path.display());
    }
    let asked: Vec<&str> = patterns.iter().map(|pattern| pattern.glob().glob()).collect();
    let nearest = nearest(asked.first().copied().unwrap_or_default(), source.names());
    anyhow!("{}: no tensor matches {}{nearest}", path.display(), asked.join(" or "))
}

fn unfit(error: ConversionError, names: &[String]) -> anyhow::Error {
    let nearest = match (error.kind(), error.tensor()) {
        (ConversionErrorKind::NotFound, Some(name)) if !names.iter().any(|n| n == name) => {
            nearest(name, names.iter().map(String::as_str))
        }
        _ => String::new(),
    };
    anyhow!("{error}{nearest}")
}

/// The end of an error: names that are most like the one that is not there.
fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    let likeness = |other: &str| (strsim::normalized_levenshtein(name, other) * 1e6) as u64;
    let mut names: Vec<&str> = names.collect();
    names.sort_by_cached_key(|other| std::cmp::Reverse(likeness(other)));
    names.truncate(PROPOSED);
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { names.concat() } else { format!("; the nearest names are {}", names.join(", ")) }
}
