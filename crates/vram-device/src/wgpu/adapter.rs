//! Selects and opens an adapter.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use ::wgpu::{AdapterInfo, Backends, DeviceType};

use crate::DeviceError;

/// The APIs to look for adapters in; there are others that cannot run the kernels.
const BACKENDS: Backends = Backends::VULKAN.union(Backends::METAL).union(Backends::DX12);

/// Smaller allocations share blocks of the driver's memory. The blocks are of the smallest size and all
/// alike, because free space in a block counts against no budget. `MemoryUsage` would let them grow to 64
/// MiB.
const BLOCKS: ::wgpu::MemoryHints =
    ::wgpu::MemoryHints::Manual { suballocated_device_memory_block_size: BLOCK..BLOCK };
const BLOCK: u64 = 4 << 20;

/// Which adapter to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WgpuAdapter {
    /// The first discrete card, or else the first of the kind that is probably the fastest.
    #[default]
    Fastest,
    /// By its index in [`adapters`].
    Index(usize),
    /// The first whose description contains this text, ignoring case.
    Name(String),
}

/// Parses a command-line value: empty, an index, or part of a name.
impl FromStr for WgpuAdapter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<WgpuAdapter, Infallible> {
        Ok(match text.parse() {
            _ if text.is_empty() => WgpuAdapter::Fastest,
            Ok(index) => WgpuAdapter::Index(index),
            Err(_) => WgpuAdapter::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for WgpuAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WgpuAdapter::Fastest => f.write_str("wgpu"),
            WgpuAdapter::Index(index) => write!(f, "wgpu:{index}"),
            WgpuAdapter::Name(name) => write!(f, "wgpu:{name}"),
        }
    }
}

/// Descriptions of all adapters, in the order of [`WgpuAdapter::Index`].
pub fn adapters() -> Vec<String> {
    all().iter().map(|adapter| describe(&adapter.get_info())).collect()
}

/// Opens an adapter, with its own limits.
pub(super) fn open(choice: &WgpuAdapter) -> Result<(::wgpu::Device, ::wgpu::Queue), DeviceError> {
    let unavailable = |reason| DeviceError::Unavailable { what: "the wgpu backend".into(), reason };
    let adapter = choose(all(), choice).map_err(unavailable)?;
    let name = describe(&adapter.get_info());
    let limits = adapter.limits();
    let descriptor = ::wgpu::DeviceDescriptor {
        label: Some("vram"),
        required_limits: limits,
        memory_hints: BLOCKS,
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|e| unavailable(format!("{name} cannot be opened: {e}")))
}

/// Name, kind of device and API, for display and for selection.
pub(super) fn describe(info: &AdapterInfo) -> String {
    format!("{} ({:?}, {:?})", info.name, info.device_type, info.backend)
}

fn all() -> Vec<::wgpu::Adapter> {
    let mut descriptor = ::wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    // Without this, builds with debug assertions request layers that validate each call.
    descriptor.flags = ::wgpu::InstanceFlags::empty();
    pollster::block_on(::wgpu::Instance::new(descriptor).enumerate_adapters(BACKENDS))
}

fn choose(mut all: Vec<::wgpu::Adapter>, choice: &WgpuAdapter) -> Result<::wgpu::Adapter, String> {
    let names: Vec<String> = all.iter().map(|adapter| describe(&adapter.get_info())).collect();
    if names.is_empty() {
        return Err("there is no adapter for Vulkan, Metal or DX12".into());
    }
    let found = match choice {
        WgpuAdapter::Fastest => {
            (0..all.len()).min_by_key(|&index| slowness(all[index].get_info().device_type))
        }
        WgpuAdapter::Index(index) => Some(*index).filter(|&index| index < all.len()),
        WgpuAdapter::Name(name) => {
            let name = name.to_lowercase();
            names.iter().position(|n| n.to_lowercase().contains(&name))
        }
    };
    match found {
        Some(index) => Ok(all.swap_remove(index)),
        None => Err(format!("there is no {choice} among {}", names.join(", "))),
    }
}

fn slowness(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_named_by_nothing_a_place_or_a_part_of_its_name() {
        for (text, expected, shown) in [
            ("", WgpuAdapter::Fastest, "wgpu"),
            ("1", WgpuAdapter::Index(1), "wgpu:1"),
            ("3090", WgpuAdapter::Index(3090), "wgpu:3090"),
            ("RTX 3090", WgpuAdapter::Name("RTX 3090".into()), "wgpu:RTX 3090"),
        ] {
            let Ok(choice) = text.parse::<WgpuAdapter>();
            assert_eq!(choice, expected);
            assert_eq!(choice.to_string(), shown);
        }
    }

    #[test]
    fn an_adapter_that_is_not_there_is_a_value_with_a_reason() {
        for choice in [WgpuAdapter::Index(1000), WgpuAdapter::Name("no such card".into())] {
            let error = open(&choice).expect_err("there is no such adapter");
            assert!(matches!(error, DeviceError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("there is no "), "{error}");
        }
    }
}
