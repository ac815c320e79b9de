//! Writes new safetensors files with a progress bar.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use vram_diskmap::{NewFile, NewTensor};
use vram_types::{CancelToken, SourceError, SourceErrorKind};

use crate::progress::Progress;

/// Fills a piece of a tensor; the offset in bytes is relative to the tensor.
pub(crate) type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<()> + Sync + 'a;

/// The requested number of threads, or one per core.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// The index of the shards of an output: `model.safetensors.index.json` for `model.safetensors`.
pub(crate) fn index_path(output: &Path) -> PathBuf {
    output.with_extension("safetensors.index.json")
}

/// Writes all files and returns the elapsed time. Files get their names only after all of them are
/// complete; on failure nothing is left behind.
pub(crate) fn write(
    what: &'static str,
    files: &[NewFile],
    threads: Option<usize>,
    fill: &Fill<'_>,
) -> Result<Duration> {
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
