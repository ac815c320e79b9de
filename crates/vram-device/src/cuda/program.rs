//! Programs: put together by dtypes, compiled when first asked for, kept on disk and in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_types::DType;

use super::cache;
use super::driver::{Function, Module};
use super::nvrtc::{self, Target};
use super::probe::{self, unavailable};
use crate::DeviceError;

/// Kernels that are compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    /// Norms, and what goes element by element.
    Rows,
    /// Attention.
    Attention,
    /// Products of our own.
    Linear,
    /// What goes around products of the library.
    Blas,
}

macro_rules! source {
    ($file:literal) => {
        concat!(include_str!("kernels/common.cu"), include_str!(concat!("kernels/", $file)))
    };
}

impl Family {
    #[cfg(test)]
    const ALL: [Family; 4] = [Family::Rows, Family::Attention, Family::Linear, Family::Blas];

    /// The whole program.
    pub(super) fn source(self) -> &'static str {
        match self {
            Family::Rows => source!("rows.cu"),
            Family::Attention => source!("attention.cu"),
            Family::Linear => source!("linear.cu"),
            Family::Blas => source!("blas.cu"),
        }
    }

    /// Names of its kernels.
    pub(super) fn kernels(self) -> &'static [&'static str] {
        match self {
            Family::Rows => &["rms_norm", "layer_norm", "activate", "binary", "cast", "gather"],
            Family::Attention => &["attention_64", "attention_128"],
            Family::Linear => &["linear_low", "linear_high"],
            Family::Blas => &["finish", "fill", "clear", "compare"],
        }
    }
}

/// A program: its family, the dtype of activations, and that of weights where it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) family: Family,
    pub(super) act: DType,
    pub(super) weight: Option<DType>,
}

impl Key {
    pub(super) fn new(family: Family, act: DType) -> Key {
        Key { family, act, weight: None }
    }

    fn options(self, target: Target) -> Vec<String> {
        let mut options = vec![target.option(), "--std=c++17".to_owned()];
        options.extend(number(self.act).map(|act| format!("-DACT={act}")));
        options.extend(self.weight.and_then(number).map(|weight| format!("-DWEIGHT={weight}")));
        options
    }
}

/// The number by which programs know a dtype; none for those that they do not read.
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

/// All that were compiled, and how.
#[derive(Default)]
pub(super) struct Programs {
    target: Option<Target>,
    version: (u32, u32),
    cache: Option<PathBuf>,
    loaded: Mutex<HashMap<Key, Loaded>>,
}

struct Loaded {
    module: Module,
    functions: HashMap<&'static str, Function>,
}

/// What a program was made of, for those who are told.
pub(super) enum Origin {
    Compiled { not_kept: Option<String> },
    Cache,
}

impl Programs {
    /// Of a card. NVRTC has been probed.
    pub(super) fn new(capability: u32, cache: Option<PathBuf>) -> Result<Programs, DeviceError> {
        let (target, version) = (Target::of(capability)?, nvrtc::version()?);
        Ok(Programs { target: Some(target), version, cache, loaded: Mutex::default() })
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
        let target = self.target.ok_or_else(|| unavailable("there is no compiler"))?;
        let options = key.options(target);
        let version = format!("{}.{}", self.version.0, self.version.1);
        let mut texts = vec![version.as_str(), key.family.source()];
        texts.extend(options.iter().map(String::as_str));
        let name = cache::key(&texts);
        let kept = self.cache.as_deref().and_then(|folder| Some((folder, cache::get(folder, &name)?)));
        if let Some((folder, image)) = kept {
            match Loaded::new(key.family, &image) {
                Ok(program) => {
                    loaded.insert(key, program);
                    return Ok(Some(Origin::Cache));
                }
                Err(error @ DeviceError::Lost { .. }) => return Err(error),
                // Whole, and yet not for this driver.
                Err(_) => cache::remove(folder, &name),
            }
        }
        let image = nvrtc::compile(key.family.source(), &options, target)?;
        loaded.insert(key, Loaded::new(key.family, &image)?);
        let put = self.cache.as_deref().map(|folder| (folder, cache::put(folder, &name, &image)));
        let not_kept =
            put.and_then(|(folder, result)| Some(format!("{}: {}", folder.display(), result.err()?)));
        Ok(Some(Origin::Compiled { not_kept }))
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<Key, Loaded>> {
        // Programs are added whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unloads all.
    pub(super) fn destroy(&mut self) {
        self.loaded().drain().for_each(|(_, program)| program.module.destroy());
    }
}

impl Loaded {
    fn new(family: Family, image: &[u8]) -> Result<Loaded, DeviceError> {
        // SAFETY: the image is what NVRTC gave, or what was kept of it and has the hash that it had.
        let module = unsafe { Module::load(image) }?;
        let functions = family.kernels().iter().map(|&name| Ok((name, module.function(name)?))).collect();
        match functions {
            Ok(functions) => Ok(Loaded { module, functions }),
            Err(error) => {
                module.destroy();
                Err(error)
            }
        }
    }
}

/// A program as a compiler takes it: for checks of all of them without a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaSource {
    /// What is compiled together, and for which dtypes: `linear bf16 f8_e4m3`.
    pub name: String,
    /// CUDA C.
    pub source: &'static str,
    /// Options but for the architecture.
    pub options: Vec<String>,
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
}

impl CudaSource {
    /// Code of cards of a compute capability, given as 89 for 8.9: what would be compiled, or found on disk, on such a card.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] without NVRTC, [`DeviceError::Failed`] with what it says.
    pub fn compile(&self, capability: u32) -> Result<Vec<u8>, DeviceError> {
        probe::nvrtc()?;
        let target = Target::Card(capability);
        let options: Vec<String> =
            std::iter::once(target.option()).chain(self.options.iter().cloned()).collect();
        nvrtc::compile(self.source, &options, target)
    }
}

/// The compiler of kernels: its version, and the compute capabilities that it knows.
///
/// # Errors
/// [`DeviceError::Unavailable`] where there is none.
pub fn compiler() -> Result<((u32, u32), Vec<u32>), DeviceError> {
    probe::nvrtc()?;
    Ok((nvrtc::version()?, nvrtc::architectures()?))
}

/// Every program that this backend may compile.
pub fn sources() -> Vec<CudaSource> {
    const ACTS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
    const WEIGHTS: [DType; 8] = [
        DType::F32,
        DType::BF16,
        DType::F16,
        DType::F8_E4M3,
        DType::F8_E5M2,
        DType::F8_E4M3FNUZ,
        DType::F8_E5M2FNUZ,
        DType::F8_E8M0,
    ];
    let plain = [Family::Rows, Family::Attention, Family::Blas];
    let keys = ACTS.iter().flat_map(|&act| {
        let linear = WEIGHTS.map(|weight| Key { family: Family::Linear, act, weight: Some(weight) });
        plain.map(|family| Key::new(family, act)).into_iter().chain(linear)
    });
    keys.map(|key| {
        let weight = key.weight.map(|weight| format!(" {weight}")).unwrap_or_default();
        CudaSource {
            name: format!("{:?} {}{weight}", key.family, key.act).to_lowercase(),
            source: key.family.source(),
            // All but the first, which names the architecture.
            options: key.options(Target::Card(0)).split_off(1),
            kernels: key.family.kernels(),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_the_kernels_that_it_names_and_no_others() {
        for family in Family::ALL {
            let source = family.source();
            // One by one, or by the macro of attention.
            let kernels = source.matches("KERNEL __launch_bounds__(256").count();
            let macros = source.matches("\nATTENTION(").count();
            let expected = if macros > 0 { macros } else { kernels };
            assert_eq!(family.kernels().len(), expected, "{family:?}");
            for name in family.kernels() {
                assert!(
                    source.contains(&format!("{name}(")) || source.contains(&format!("({name},")),
                    "{name}"
                );
            }
            assert!(!source.contains("#include") && !source.contains("asm("), "{family:?}");
        }
    }

    #[test]
    fn every_program_is_there_once() {
        let all = sources();
        let names: std::collections::BTreeSet<_> = all.iter().map(|program| &program.name).collect();
        assert_eq!((all.len(), names.len()), (33, 33));
        assert!(
            all.iter().any(|p| p.name == "linear bf16 f8_e4m3" && p.options.contains(&"-DWEIGHT=3".into()))
        );
    }
}
