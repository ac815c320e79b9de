//! Programs: compiled for dtypes on first use, cached on disk and in memory.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_types::DType;

use super::cache;
use super::context::AtEnd;
use super::driver::{Function, Module};
use super::nvrtc::{self, Target};
use crate::DeviceError;

/// Kernels that are compiled together.
#[derive(Debug)]
pub(super) struct Program {
    /// Unique.
    pub(super) name: &'static str,
    /// CUDA C, the whole source.
    pub(super) source: &'static str,
    /// Names of its kernels.
    pub(super) kernels: &'static [&'static str],
    /// Whether it is also compiled for a dtype of weights.
    pub(super) by_weight: bool,
}

/// A program for the dtype of activations, and for that of weights if it matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) program: &'static Program,
    pub(super) act: DType,
    pub(super) weight: Option<DType>,
}

impl Key {
    pub(super) fn new(program: &'static Program, act: DType) -> Key {
        Key { program, act, weight: None }
    }

    /// Compiler options, the architecture first.
    pub(super) fn options(self, target: Target) -> Vec<String> {
        let mut options = vec![target.option(), "--std=c++17".to_owned()];
        options.extend(number(self.act).map(|act| format!("-DACT={act}")));
        options.extend(self.weight.and_then(number).map(|weight| format!("-DWEIGHT={weight}")));
        options
    }

    fn parts(&self) -> (&'static str, DType, Option<DType>) {
        (self.program.name, self.act, self.weight)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// The number that programs use for a dtype; `None` for dtypes that they do not read.
pub(super) fn number(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0),
        DType::BF16 => Some(1),
        DType::F16 => Some(2),
        DType::F8_E4M3 => Some(3),
        DType::F8_E5M2 => Some(4),
        DType::F8_E4M3FNUZ => Some(5),
        DType::F8_E5M2FNUZ => Some(6),
        DType::F8_E8M0 => Some(7),
        _ => None,
    }
}

/// All compiled programs, and how to compile more.
pub(super) struct Programs {
    target: Target,
    version: (u32, u32),
    cache: Option<PathBuf>,
    loaded: Mutex<HashMap<Key, Loaded>>,
}

struct Loaded {
    module: Module,
    functions: HashMap<&'static str, Function>,
}

/// Where a program came from, for logging.
pub(super) enum Origin {
    Compiled { not_kept: Option<String> },
    Cache,
}

impl Programs {
    /// For a card. NVRTC has been probed.
    pub(super) fn new(capability: u32, cache: Option<PathBuf>) -> Result<Programs, DeviceError> {
        let (target, version) = (Target::of(capability)?, nvrtc::version()?);
        Ok(Programs { target, version, cache, loaded: Mutex::default() })
    }

    /// A kernel, if its program is loaded.
    pub(super) fn find(&self, key: Key, name: &str) -> Option<Function> {
        self.loaded().get(&key)?.functions.get(name).copied()
    }

    /// Loads a program into the current context, compiled or from disk.
    pub(super) fn load(&self, key: Key) -> Result<Option<Origin>, DeviceError> {
        let mut loaded = self.loaded();
        if loaded.contains_key(&key) {
            return Ok(None);
        }
        let options = key.options(self.target);
        let version = format!("{}.{}", self.version.0, self.version.1);
        let mut texts = vec![version.as_str(), key.program.source];
        texts.extend(options.iter().map(String::as_str));
        let name = cache::key(&texts);
        let kept = self.cache.as_deref().and_then(|folder| Some((folder, cache::get(folder, &name)?)));
        if let Some((folder, image)) = kept {
            match Loaded::new(key.program, &image) {
                Ok(program) => {
                    loaded.insert(key, program);
                    return Ok(Some(Origin::Cache));
                }
                Err(error @ DeviceError::Lost { .. }) => return Err(error),
                // Intact, but not for this driver.
                Err(_) => cache::remove(folder, &name),
            }
        }
        let image = nvrtc::compile(key.program.source, &options, self.target)?;
        loaded.insert(key, Loaded::new(key.program, &image)?);
        let put = self.cache.as_deref().map(|folder| (folder, cache::put(folder, &name, &image)));
        let not_kept =
            put.and_then(|(folder, result)| Some(format!("{}: {}", folder.display(), result.err()?)));
        Ok(Some(Origin::Compiled { not_kept }))
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<Key, Loaded>> {
        // Programs are added in one step.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AtEnd for Programs {
    fn end(&self) {
        self.loaded().drain().for_each(|(_, program)| program.module.destroy());
    }
}

impl Loaded {
    fn new(program: &Program, image: &[u8]) -> Result<Loaded, DeviceError> {
        // SAFETY: the image is from NVRTC, or from the cache with a matching hash.
        let module = unsafe { Module::load(image) }?;
        let functions = program.kernels.iter().map(|&name| Ok((name, module.function(name)?))).collect();
        match functions {
            Ok(functions) => Ok(Loaded { module, functions }),
            Err(error) => {
                module.destroy();
                Err(error)
            }
        }
    }
}
