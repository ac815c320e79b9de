//! What there is to compute on.

use std::sync::Arc;

use crate::cpu::Cpu;
use crate::{DeviceError, Kernels};

/// A kind of device, and the one of it that is here.
#[derive(Debug)]
#[non_exhaustive]
pub struct Backend {
    /// Short name, as in [`DeviceInfo::backend`](crate::DeviceInfo::backend).
    pub name: &'static str,
    /// Its device with default options, or why there is none.
    pub device: Result<Arc<dyn Kernels>, DeviceError>,
}

impl Backend {
    /// A backend that this build is without.
    fn missing(name: &'static str) -> Backend {
        let reason = "this version has no such backend yet".to_owned();
        Backend {
            name,
            device: Err(DeviceError::Unavailable { what: format!("the {name} backend"), reason }),
        }
    }
}

/// All backends, each asked for its device; those that this build is without say so. The CPU is the first and starts
/// its threads, which end with the device.
///
/// ```
/// for backend in vram_device::backends() {
///     match backend.device {
///         Ok(device) => println!("{}: {}", backend.name, device.info().name),
///         Err(reason) => println!("{}: {reason}", backend.name),
///     }
/// }
/// ```
pub fn backends() -> Vec<Backend> {
    let cpu = Cpu::new(Default::default()).map(|cpu| -> Arc<dyn Kernels> { Arc::new(cpu) });
    vec![Backend { name: "cpu", device: cpu }, Backend::missing("cuda"), Backend::missing("wgpu")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_backends_name_and_a_missing_one_a_reason() {
        let all = backends();
        assert!(all[0].device.is_ok());
        for Backend { name, device } in all {
            match device {
                Ok(device) => assert_eq!(device.info().backend, name),
                Err(error) => assert!(error.to_string().contains(name), "{error}"),
            }
        }
    }
}
