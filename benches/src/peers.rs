//! Other readers of safetensors files, each used as its documentation shows.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;

/// The format's own crate over memory maps: one of all files, as a reader that does not know where a tensor is has it.
pub(crate) struct Mapped(Vec<Mmap>);

impl Mapped {
    pub(crate) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Mapped> {
        let map = |path: &P| {
            let path = path.as_ref();
            let file = File::open(path).with_context(|| path.display().to_string())?;
            // SAFETY: the files are this program's own and nobody writes them while a row is measured.
            Ok(unsafe { Mmap::map(&file)? })
        };
        Ok(Mapped(paths.iter().map(map).collect::<Result<_>>()?))
    }

    /// The headers of all files, parsed.
    pub(crate) fn parse(&self) -> Result<Vec<SafeTensors<'_>>> {
        Ok(self.0.iter().map(|map| SafeTensors::deserialize(map)).collect::<Result<_, _>>()?)
    }
}

/// A tensor's bytes, copied.
pub(crate) fn copied(files: &[SafeTensors<'_>], name: &str) -> Result<Vec<u8>> {
    let found = files.iter().find_map(|file| file.tensor(name).ok());
    Ok(found.with_context(|| format!("no tensor {name}"))?.data().to_vec())
}

/// What the crate and the map take to open some files and copy one tensor.
pub(crate) fn mapped_one<P: AsRef<Path>>(paths: &[P], name: &str) -> Result<Vec<u8>> {
    let map = Mapped::open(paths)?;
    copied(&map.parse()?, name)
}

/// Candle's memory map, if this was built with it.
#[cfg(feature = "candle")]
pub(crate) mod candle {
    use std::path::PathBuf;

    use candle_core::Device;
    use candle_core::safetensors::MmapedSafetensors;

    use super::{Path, Result};

    pub(crate) const SKIPPED: Option<&str> = None;

    /// Opens the files and makes tensors of all those names on the CPU, which copies their bytes. Gives their lengths.
    pub(crate) fn load<P: AsRef<Path>>(paths: &[P], names: &[&str]) -> Result<u64> {
        let paths: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_owned()).collect();
        // SAFETY: the files are this program's own and nobody writes them while a row is measured.
        let files = unsafe { MmapedSafetensors::multi(&paths)? };
        let mut bytes = 0;
        for name in names {
            let tensor = std::hint::black_box(files.load(name, &Device::Cpu)?);
            bytes += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        }
        Ok(bytes)
    }
}

/// In its place where this was built without it.
#[cfg(not(feature = "candle"))]
pub(crate) mod candle {
    use super::{Path, Result};

    pub(crate) const SKIPPED: Option<&str> = Some("candle: built without the feature candle");

    pub(crate) fn load<P: AsRef<Path>>(_paths: &[P], _names: &[&str]) -> Result<u64> {
        anyhow::bail!("built without the feature candle")
    }
}
