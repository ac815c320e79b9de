//! Other readers of safetensors files, each used as its documentation shows.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use memmap2::Mmap;
use safetensors::SafeTensors;

/// The format's own crate over memory maps. It maps all files, like a reader that does not know
/// where a tensor is.
pub(crate) struct Mapped(Vec<Mmap>);

impl Mapped {
    pub(crate) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Mapped> {
        let map = |path: &P| {
            let path = path.as_ref();
            let file = File::open(path).with_context(|| path.display().to_string())?;
            // SAFETY: this program owns the files, and nobody writes to them while a row is
            // measured.
            Ok(unsafe { Mmap::map(&file)? })
        };
        Ok(Mapped(paths.iter().map(map).collect::<Result<_>>()?))
    }

    /// Parses the headers of all files.
    pub(crate) fn parse(&self) -> Result<Vec<SafeTensors<'_>>> {
        Ok(self.0.iter().map(|map| SafeTensors::deserialize(map)).collect::<Result<_, _>>()?)
    }
}

/// Copies the bytes of a tensor.
pub(crate) fn copied(files: &[SafeTensors<'_>], name: &str) -> Result<Vec<u8>> {
    let found = files.iter().find_map(|file| file.tensor(name).ok());
    Ok(found.with_context(|| format!("no tensor {name}"))?.data().to_vec())
}

/// Opens some files with that crate and copies one tensor.
pub(crate) fn mapped_one<P: AsRef<Path>>(paths: &[P], name: &str) -> Result<Vec<u8>> {
    let map = Mapped::open(paths)?;
    copied(&map.parse()?, name)
}

/// Candle's memory map, if this was built with the feature `candle`.
#[cfg(feature = "candle")]
pub(crate) mod candle {
    use std::path::PathBuf;

    use candle_core::Device;
    use candle_core::safetensors::MmapedSafetensors;

    use super::{Path, Result};

    pub(crate) const SKIPPED: Option<&str> = None;

    /// Opens the files and creates the named tensors on the CPU, which copies their bytes. Returns
    /// their total length.
    pub(crate) fn load<P: AsRef<Path>>(paths: &[P], names: &[&str]) -> Result<u64> {
        let paths: Vec<PathBuf> = paths.iter().map(|p| p.as_ref().to_owned()).collect();
        // SAFETY: this program owns the files, and nobody writes to them while a row is measured.
        let files = unsafe { MmapedSafetensors::multi(&paths)? };
        let mut bytes = 0;
        for name in names {
            let tensor = std::hint::black_box(files.load(name, &Device::Cpu)?);
            bytes += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        }
        Ok(bytes)
    }
}

/// Replaces it in builds without the feature.
#[cfg(not(feature = "candle"))]
pub(crate) mod candle {
    use super::{Path, Result};

    pub(crate) const SKIPPED: Option<&str> = Some("candle: built without the feature candle");

    pub(crate) fn load<P: AsRef<Path>>(_paths: &[P], _names: &[&str]) -> Result<u64> {
        anyhow::bail!("built without the feature candle")
    }
}
