//! Lists what a device supports.

use super::case::{Failure, Outcome, guarded};
use super::suites::SUITES;
use crate::Kernels;

/// Whether a device supports an operation, or a variant of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Name of the operation.
    pub operation: &'static str,
    /// What the operation computes.
    pub formula: String,
    /// The variant; empty for the operation as such.
    pub variant: &'static str,
    /// If the device refuses it, why.
    pub result: Result<(), String>,
}

/// Runs a small instance of every operation and variant, in f32.
/// [`DeviceError::Unsupported`](crate::DeviceError::Unsupported) is recorded as a result.
///
/// # Errors
/// [`Failure`] if an operation fails in another way, or gives a wrong result.
///
/// ```
/// use vram_device::{conformance, cpu::Cpu};
/// let support = conformance::support(&Cpu::new(Default::default())?)?;
/// assert!(support.iter().all(|s| s.result.is_ok()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn support(device: &dyn Kernels) -> Result<Vec<Support>, Failure> {
    let mut all = Vec::new();
    for suite in SUITES {
        for variant in suite.variants {
            let outcome =
                guarded(variant.name, || Outcome::of(variant.draw_once(device), Some(suite.operation)))?;
            all.push(Support {
                operation: suite.operation,
                formula: suite.formula(),
                variant: variant.label(),
                result: match outcome {
                    Outcome::Passed => Ok(()),
                    Outcome::Gap(why) => Err(why),
                },
            });
        }
    }
    Ok(all)
}
