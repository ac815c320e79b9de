//! New safetensors files with a progress bar, and the promise not to replace what nobody asked to be replaced.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vram_diskmap::{NewFile, NewTensor};
use vram_types::{CancelToken, SourceError, SourceErrorKind};

use crate::progress::Progress;

/// Fills a piece of a tensor that begins at that offset in it in bytes.
pub(crate) type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<()> + Sync + 'a;

/// Fails if a file is there that may not be replaced.
pub(crate) fn may_write<'p>(paths: impl IntoIterator<Item = &'p Path>, replace: bool) -> Result<()> {
    for path in paths {
        let there = path.try_exists().with_context(|| path.display().to_string())?;
        ensure!(replace || !there, "{} is there already; --force replaces it", path.display());
    }
    Ok(())
}

/// As many threads as asked for, or as the machine runs at once.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Writes all files and tells how long it took. Files have their names only once all are whole; after a failure nothing
/// is left.
pub(crate) fn write(
    what: &'static str,
    files: &[NewFile],
    replace: bool,
    threads: Option<usize>,
    fill: &Fill<'_>,
) -> Result<Duration> {
    may_write(files.iter().map(NewFile::path), replace)?;
    let progress = Progress::new(what, files.iter().map(NewFile::tensor_bytes).fold(0, u64::saturating_add));
    let fill = |tensor: &NewTensor, at: u64, piece: &mut [u8]| {
        fill(tensor, at, piece).map_err(|e| {
            SourceError::new(SourceErrorKind::Unsupported, format!("{e:#}")).at_tensor(&tensor.name)
        })
    };
    let written = vram_diskmap::write_files(
        files,
        self::threads(threads),
        &CancelToken::new(),
        &fill,
        &mut |_, bytes| {
            progress.add(bytes);
        },
    );
    let took = progress.finish();
    written?;
    Ok(took)
}
