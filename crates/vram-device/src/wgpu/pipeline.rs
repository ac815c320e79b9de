//! Pipelines: assembled from WGSL by program and dtypes, compiled on first use, and kept.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use ::wgpu::{BindGroupLayoutEntry, BindingType, BufferBindingType};
use vram_types::DType;

use crate::DeviceError;

/// A kernel without the dtypes that it is compiled for.
#[derive(Debug)]
pub(super) struct Program {
    /// Unique.
    pub(super) name: &'static str,
    /// WGSL. The formats and a `readN` for each tensor it reads are put before it, and the code that writes
    /// its result after it.
    pub(super) source: &'static str,
    pub(super) writes: Writes,
}

/// How a kernel writes its result, the last of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// Word by word, each unpacked and packed by one thread: `words`, `value` and `replaced`.
    Packed,
    /// Elements in any order, even two of one word: `old`, `put` and `put2`.
    Scattered,
    /// By its own code; it has this many buffers.
    Itself {
        /// Including the result.
        buffers: u32,
    },
}

/// The dtypes that a pipeline is compiled for: those it reads, in order of binding, and the one it writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) program: &'static Program,
    pub(super) reads: [Option<DType>; 3],
    pub(super) y: DType,
    /// What reads are rounded to.
    pub(super) act: DType,
}

impl Key {
    /// A kernel whose compute dtype is that of its result.
    pub(super) fn new(program: &'static Program, reads: &[DType], y: DType) -> Key {
        let mut all = [None; 3];
        all.iter_mut().zip(reads).for_each(|(slot, dtype)| *slot = Some(*dtype));
        Key { program, reads: all, y, act: y }
    }

    fn buffers(&self) -> u32 {
        match self.program.writes {
            Writes::Itself { buffers } => buffers,
            Writes::Packed | Writes::Scattered => self.reads.iter().flatten().count() as u32 + 1,
        }
    }

    /// The whole module.
    fn source(&self) -> String {
        let mut text = String::from(include_str!("shaders/values.wgsl"));
        for (index, dtype) in self.reads.iter().enumerate() {
            if let Some(dtype) = dtype {
                text += &reader(index, *dtype);
            }
        }
        text += &rounding(self.act);
        text += self.program.source;
        match self.program.writes {
            Writes::Packed => text += &packed(self.buffers(), self.y),
            Writes::Scattered => text += &scattered(self.buffers(), self.y),
            Writes::Itself { .. } => {}
        }
        text
    }

    fn parts(&self) -> (&'static str, [Option<DType>; 3], DType, DType) {
        (self.program.name, self.reads, self.y, self.act)
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

/// The name that shaders use for a format.
fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::F8_E4M3 => "e4m3",
        DType::F8_E5M2 => "e5m2",
        DType::F8_E4M3FNUZ => "e4m3fnuz",
        DType::F8_E5M2FNUZ => "e5m2fnuz",
        DType::F8_E8M0 => "e8m0",
        // Callers refuse all other dtypes.
        _ => "f32",
    }
}

/// `readN(at, i)`: element `i` of the tensor that begins at byte `at` of buffer `N`, at any address.
fn reader(index: usize, dtype: DType) -> String {
    let bytes = dtype.bits() / 8;
    let mut text =
        format!("@group(0) @binding({}) var<storage, read_write> buffer{index}: array<u32>;\n", index + 1);
    // A word is never read before it is needed: there may be none after the last.
    let last = 32 - dtype.bits();
    let _ = write!(
        text,
        "fn read{index}(at: u32, i: u32) -> f32 {{
    let b = at + i * {bytes}u;
    let shift = (b & 3u) * 8u;
    var bits = buffer{index}[b >> 2u] >> shift;
    if (shift > {last}u) {{ bits |= buffer{index}[(b >> 2u) + 1u] << (32u - shift); }}
    return {}_value(bits);
}}
",
        name(dtype)
    );
    text
}

fn rounding(act: DType) -> String {
    let body = match act {
        DType::BF16 | DType::F16 => format!("{0}_value({0}_bits(x))", name(act)),
        _ => "x".to_owned(),
    };
    format!("fn rounded(x: f32) -> f32 {{ return {body}; }}\n")
}

/// `old(i)`, `put(i, v)` and, for an even `i`, `put2(i, v, w)`: elements that threads write in any order,
/// even two of one word.
fn scattered(binding: u32, dtype: DType) -> String {
    let file = match dtype {
        DType::BF16 | DType::F16 => include_str!("shaders/scattered16.wgsl"),
        _ => include_str!("shaders/scattered32.wgsl"),
    };
    file.replace("BINDING", &binding.to_string()).replace("FORMAT", name(dtype))
}

/// Words of `y`, each unpacked and packed by one thread.
fn packed(binding: u32, dtype: DType) -> String {
    let file = match dtype {
        DType::BF16 | DType::F16 => include_str!("shaders/packed16.wgsl"),
        _ => include_str!("shaders/packed32.wgsl"),
    };
    file.replace("BINDING", &binding.to_string()).replace("FORMAT", name(dtype))
}

/// A compiled kernel.
pub(super) struct Pipeline {
    pub(super) pipeline: ::wgpu::ComputePipeline,
    pub(super) layout: ::wgpu::BindGroupLayout,
}

impl Pipeline {
    fn new(device: &::wgpu::Device, key: Key) -> Result<Pipeline, DeviceError> {
        let scope = device.push_error_scope(::wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(::wgpu::ErrorFilter::Internal);
        let layout = layout(device, key.buffers());
        let module = device.create_shader_module(::wgpu::ShaderModuleDescriptor {
            label: None,
            source: ::wgpu::ShaderSource::Wgsl(key.source().into()),
        });
        let of = device.create_pipeline_layout(&::wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&::wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&of),
            module: &module,
            entry_point: Some("main"),
            compilation_options: ::wgpu::PipelineCompilationOptions {
                // Kernels write what they read.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let errors = [internal.pop(), scope.pop()].map(pollster::block_on);
        match errors.into_iter().flatten().next() {
            None => Ok(Pipeline { pipeline, layout }),
            Some(e) => Err(DeviceError::Failed {
                what: "compiling a kernel",
                reason: format!("{:?}: {e}", key.parts()),
            }),
        }
    }
}

/// Parameters first, then buffers. All are writable, because reads and writes of one arena are in one buffer,
/// which a kernel may not bind as both.
fn layout(device: &::wgpu::Device, buffers: u32) -> ::wgpu::BindGroupLayout {
    let entry = |binding, ty| BindGroupLayoutEntry {
        binding,
        visibility: ::wgpu::ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = BufferBindingType::Storage { read_only: false };
    let entries: Vec<_> = std::iter::once(entry(0, BufferBindingType::Uniform))
        .chain((1..=buffers).map(|binding| entry(binding, storage)))
        .collect();
    device.create_bind_group_layout(&::wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

/// All compiled pipelines.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<HashMap<Key, Arc<Pipeline>>>);

impl Pipelines {
    pub(super) fn get(&self, device: &::wgpu::Device, key: Key) -> Result<Arc<Pipeline>, DeviceError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&key) {
            return Ok(Arc::clone(found));
        }
        let pipeline = Arc::new(Pipeline::new(device, key)?);
        all.insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }
}
