//! All programs as source text, so that they can be checked without a card.

use vram_types::DType;

use super::nvrtc::{self, Target};
use super::ops::PROGRAMS;
use super::program::{Key, Program};
use super::{blas, probe};
use crate::DeviceError;

/// A program as the compiler takes it, for checks without a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaSource {
    /// What is compiled together, and for which dtypes: `linear bf16 f8_e4m3`.
    pub name: String,
    /// CUDA C.
    pub source: &'static str,
    /// Options except the architecture.
    pub options: Vec<String>,
    /// Names of its kernels.
    pub kernels: &'static [&'static str],
}

impl CudaSource {
    /// Compiles for cards of a compute capability, given as 89 for 8.9: exactly what would be compiled, or
    /// found on disk, on such a card.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] without NVRTC, [`DeviceError::Failed`] with the compiler's log.
    pub fn compile(&self, capability: u32) -> Result<Vec<u8>, DeviceError> {
        probe::nvrtc()?;
        let target = Target::Card(capability);
        let options: Vec<String> =
            std::iter::once(target.option()).chain(self.options.iter().cloned()).collect();
        nvrtc::compile(self.source, &options, target)
    }
}

/// The version of NVRTC, and the compute capabilities it supports.
///
/// # Errors
/// [`DeviceError::Unavailable`] without NVRTC.
pub fn compiler() -> Result<((u32, u32), Vec<u32>), DeviceError> {
    probe::nvrtc()?;
    Ok((nvrtc::version()?, nvrtc::architectures()?))
}

fn programs() -> impl Iterator<Item = &'static Program> {
    PROGRAMS.into_iter().chain([&blas::PROGRAM])
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
    let keys = ACTS.iter().flat_map(|&act| {
        programs().flat_map(move |program| {
            let weights: &[DType] = if program.by_weight { &WEIGHTS } else { &[] };
            let plain = (!program.by_weight).then(|| Key::new(program, act));
            plain.into_iter().chain(weights.iter().map(move |&weight| Key {
                program,
                act,
                weight: Some(weight),
            }))
        })
    });
    keys.map(|key| {
        let weight = key.weight.map(|weight| format!(" {weight}")).unwrap_or_default();
        CudaSource {
            name: format!("{} {}{weight}", key.program.name, key.act).to_lowercase(),
            source: key.program.source,
            // All except the first, which names the architecture.
            options: key.options(Target::Card(0)).split_off(1),
            kernels: key.program.kernels,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_the_kernels_that_it_names_and_no_others() {
        for Program { name, source, kernels, .. } in programs() {
            // One by one, or by the macro of attention.
            let defined = source.matches("KERNEL __launch_bounds__(256").count();
            let macros = source.matches("\nATTENTION(").count();
            let expected = if macros > 0 { macros } else { defined };
            assert_eq!(kernels.len(), expected, "{name}");
            for kernel in *kernels {
                assert!(
                    source.contains(&format!("{kernel}(")) || source.contains(&format!("({kernel},")),
                    "{kernel}"
                );
            }
            assert!(!source.contains("#include") && !source.contains("asm("), "{name}");
        }
    }

    #[test]
    fn every_program_is_there_once() {
        let all = sources();
        let names: std::collections::BTreeSet<_> = all.iter().map(|program| &program.name).collect();
        assert_eq!((all.len(), names.len()), (72, 72));
        assert!(
            all.iter().any(|p| p.name == "linear bf16 f8_e4m3" && p.options.contains(&"-DWEIGHT=3".into()))
        );
    }
}
