//! The backends, and the devices they find.

use std::sync::Arc;

use crate::cpu::Cpu;
use crate::{DeviceError, Kernels};

/// A backend, and its device on this machine.
#[derive(Debug)]
#[non_exhaustive]
pub struct Backend {
    /// Short name, as in [`DeviceInfo::backend`](crate::DeviceInfo::backend).
    pub name: &'static str,
    /// Its device with default options, or why there is none.
    pub device: Result<Arc<dyn Kernels>, DeviceError>,
    /// Descriptions of all devices that can be chosen by index, as in `cuda:1`.
    pub adapters: Vec<String>,
}

/// Opens a device by name: a backend (`cpu`, `cuda`, `wgpu`), optionally with an adapter after a colon, by
/// its index or part of its name (`cuda:1`, `wgpu:3090`). Options are the defaults.
///
/// # Errors
/// [`DeviceError::Unavailable`] with the reason, also for a backend that is not in this build.
///
/// ```
/// let cpu = vram_device::open("cpu")?;
/// assert_eq!(cpu.info().backend, "cpu");
/// assert!(vram_device::open("toaster").is_err());
/// # Ok::<(), vram_device::DeviceError>(())
/// ```
pub fn open(name: &str) -> Result<Arc<dyn Kernels>, DeviceError> {
    let (backend, which) = name.split_once(':').unwrap_or((name, ""));
    match (backend, which) {
        ("cpu", "") => Ok(Arc::new(Cpu::new(Default::default())?)),
        ("wgpu", which) => wgpu(which),
        ("cuda", which) => cuda(which),
        _ => Err(missing(name, "the backends are cpu, cuda and wgpu")),
    }
}

#[cfg(feature = "wgpu")]
fn wgpu(which: &str) -> Result<Arc<dyn Kernels>, DeviceError> {
    let Ok(adapter) = which.parse();
    Ok(Arc::new(crate::wgpu::Wgpu::new(crate::wgpu::WgpuOptions { adapter, ..Default::default() })?))
}

#[cfg(feature = "cuda")]
fn cuda(which: &str) -> Result<Arc<dyn Kernels>, DeviceError> {
    let Ok(device) = which.parse();
    Ok(Arc::new(crate::cuda::Cuda::new(crate::cuda::CudaOptions { device, ..Default::default() })?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_which: &str) -> Result<Arc<dyn Kernels>, DeviceError> {
    Err(missing(
        "cuda",
        "this build is without it; build with the feature cuda (cargo install --path crates/vram-cli --features cuda)",
    ))
}

/// Descriptions of all devices of a backend that can be chosen by index.
fn adapters(name: &str) -> Vec<String> {
    match name {
        #[cfg(feature = "cuda")]
        "cuda" => crate::cuda::devices(),
        #[cfg(feature = "wgpu")]
        "wgpu" => crate::wgpu::adapters(),
        _ => Vec::new(),
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_which: &str) -> Result<Arc<dyn Kernels>, DeviceError> {
    Err(missing(
        "wgpu",
        "this build is without it; build with the feature wgpu (cargo install --path crates/vram-cli --features wgpu)",
    ))
}

fn missing(name: &str, reason: &str) -> DeviceError {
    DeviceError::Unavailable { what: format!("the {name} backend"), reason: reason.to_owned() }
}

/// All backends, each with its device; one that is not in this build says so. The CPU is the first. It starts
/// its threads here, and they end with the device.
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
    ["cpu", "cuda", "wgpu"].map(|name| Backend { name, device: open(name), adapters: adapters(name) }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_backends_name_and_a_missing_one_a_reason() {
        let all = backends();
        assert!(all[0].device.is_ok());
        for Backend { name, device, adapters } in all {
            // A backend with adapters lists its own device among them.
            assert!(name != "cpu" || adapters.is_empty());
            assert!(name == "cpu" || device.is_err() || !adapters.is_empty());
            match device {
                Ok(device) => assert_eq!(device.info().backend, name),
                Err(error) => assert!(error.to_string().contains(name), "{error}"),
            }
        }
    }
}
