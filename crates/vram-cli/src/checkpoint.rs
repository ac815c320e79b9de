//! Opens checkpoints as the arguments ask for.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use globset::{Glob, GlobMatcher};
use vram_diskmap::{
    Conversion, ConversionError, ConversionErrorKind, Converted, DiskMap, DiskMapOptions, ReadMode,
};
use vram_types::WeightSource;

use crate::args::Read;

/// How many similar names an error lists.
const PROPOSED: usize = 3;

/// A checkpoint, as it is or converted.
pub(crate) enum Checkpoint {
    Plain(DiskMap),
    Converted(Converted),
}

impl Checkpoint {
    /// Opens a checkpoint and applies the rules in the `convert` file, if any.
    pub(crate) fn open(
        options: DiskMapOptions,
        path: &Path,
        read: Read,
        convert: Option<&Path>,
    ) -> Result<Checkpoint> {
        // Rules first, so that errors in the rules are reported before errors in the checkpoint.
        let rules = convert.map(rules).transpose()?;
        let map = open(options, path, read)?;
        let Some(rules) = rules else { return Ok(Checkpoint::Plain(map)) };
        let names: Vec<String> = map.names().map(str::to_owned).collect();
        let converted =
            map.convert(&rules).map_err(|e| unfit(e, &names).context(path.display().to_string()))?;
        Ok(Checkpoint::Converted(converted))
    }

    /// The map over the files, unconverted.
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

/// Rules from a file, or those that come along under that name.
fn rules(path: &Path) -> Result<Conversion, ConversionError> {
    match path.to_str().and_then(Conversion::shipped) {
        Some(shipped) if !path.exists() => Ok(shipped),
        _ => Conversion::read_toml(path),
    }
}

/// Opens a checkpoint with a read mode.
pub(crate) fn open(options: DiskMapOptions, path: &Path, read: Read) -> Result<DiskMap> {
    let opened = match read {
        Read::Auto => options.read(ReadMode::Auto).open(path),
        Read::Pread => options.read(ReadMode::Buffered).open(path),
        Read::Direct => options.read(ReadMode::Direct).open(path),
        Read::Uring => options.read(ReadMode::Uring).open(path),
        // SAFETY: only the user who passes `--read mmap` can promise that nobody changes the
        // files, and the help text says so.
        Read::Mmap => unsafe { options.open_mapped(path) },
    };
    opened.map_err(|e| match hint(path) {
        Some(hint) => anyhow!("{e}; {hint}"),
        None => e.into(),
    })
}

/// Checks that a path is the folder of a model.
pub(crate) fn is_model_folder(path: &Path) -> Result<()> {
    let hint = hint(path).map_or(String::new(), |hint| format!("; {hint}"));
    let shown = path.display();
    ensure!(path.exists(), "{shown}: there is no such folder{hint}");
    ensure!(path.is_dir(), "{shown}: this is a file; --model takes the folder that it is in");
    ensure!(
        path.join("config.json").exists(),
        "{shown}: there is no config.json in this folder; --model takes the folder of model.safetensors, \
         config.json and tokenizer.json{hint}"
    );
    Ok(())
}

/// What may have been meant by a path that is not a checkpoint: a model of the Hugging Face hub, or
/// a folder of its cache.
fn hint(path: &Path) -> Option<String> {
    let folders = |path: &Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    if let Some(snapshot) = folders(&path.join("snapshots")).first() {
        return Some(format!("this is the cache of a model, whose files are in {}", snapshot.display()));
    }
    let is_model = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"models--"))
    };
    if let Some(model) = folders(path).iter().find(|path| is_model(path)) {
        let example = folders(&model.join("snapshots")).into_iter().next().unwrap_or(model.clone());
        return Some(format!("this is a cache of many models; name a folder such as {}", example.display()));
    }
    let text = path.to_str()?;
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.');
    let (owner, name) = text.split_once('/')?;
    let is_hub = is_name(owner) && is_name(name) && !name.contains('/') && path.extension().is_none();
    (is_hub && !path.exists()).then(|| {
        format!("nothing is downloaded here: if {text} is a model of a hub, download it and name its folder")
    })
}

/// Parses a pattern for tensor names. `*` matches dots too; `{a,b}` matches either.
pub(crate) fn pattern(text: &str) -> Result<GlobMatcher, String> {
    Glob::new(text).map(|g| g.compile_matcher()).map_err(|e| e.to_string())
}

/// Whether any pattern matches, or there are no patterns.
pub(crate) fn wanted(patterns: &[GlobMatcher], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.is_match(name))
}

/// The error for patterns that match no tensor, with the most similar names.
pub(crate) fn none_matches<'n>(
    patterns: &[GlobMatcher],
    path: &str,
    names: impl Iterator<Item = &'n str>,
) -> anyhow::Error {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return anyhow!("{path}: it has no tensors");
    }
    let asked: Vec<&str> = patterns.iter().map(|pattern| pattern.glob().glob()).collect();
    let nearest = nearest(asked.first().copied().unwrap_or_default(), names.into_iter());
    anyhow!("{path}: no tensor matches {}{nearest}", asked.join(" or "))
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

/// The end of an error message: the names most similar to one that does not exist.
fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    let likeness = |other: &str| (strsim::normalized_levenshtein(name, other) * 1e6) as u64;
    let mut names: Vec<&str> = names.collect();
    names.sort_by_cached_key(|other| std::cmp::Reverse(likeness(other)));
    names.truncate(PROPOSED);
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { names.concat() } else { format!("; similar names are {}", names.join(", ")) }
}
