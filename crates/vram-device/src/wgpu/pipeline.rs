//! Pipelines: put together from WGSL by kernel and dtypes, compiled when first asked for, and kept.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use ::wgpu::{BindGroupEntry, BindGroupLayoutEntry, BindingType, BufferBinding, BufferBindingType};
use vram_types::DType;

use super::operand::Window;
use crate::DeviceError;

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Bytes of one buffer to any place in another.
    Bytes,
    /// `y = a b^T`: `a`, `b`, a bias or none, `y`. Every thread computes so many rows by four columns.
    Matmul {
        /// 1 or 4.
        rows: u32,
    },
    /// `x`, the weight, `y`.
    RmsNorm,
    /// `x`, the weight, the bias, `y`.
    LayerNorm,
    /// Rows of `y` in place.
    Softmax,
    /// `y` in place.
    Gelu,
    /// `y` in place.
    Silu,
    /// `x`, and `y` in place.
    Add,
    /// `x`, and `y` in place.
    Mul,
    /// `x`, `y`.
    Cast,
    /// The table, `y`.
    Gather,
}

/// What a pipeline is compiled for: dtypes of what it reads, in order of binding, and of what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) reads: [Option<DType>; 3],
    pub(super) y: DType,
    /// What reads are rounded to.
    pub(super) act: DType,
}

impl Key {
    pub(super) const BYTES: Key = Key { kind: Kind::Bytes, reads: [None; 3], y: DType::U8, act: DType::F32 };

    /// A kernel whose compute dtype is that of its result.
    pub(super) fn new(kind: Kind, reads: &[DType], y: DType) -> Key {
        let mut all = [None; 3];
        all.iter_mut().zip(reads).for_each(|(slot, dtype)| *slot = Some(*dtype));
        Key { kind, reads: all, y, act: y }
    }

    fn buffers(&self) -> u32 {
        match self.kind {
            Kind::Bytes => 2,
            _ => self.reads.iter().flatten().count() as u32 + 1,
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
        text += match self.kind {
            Kind::Bytes => include_str!("shaders/bytes.wgsl"),
            Kind::Matmul { rows: _ } => include_str!("shaders/matmul.wgsl"),
            Kind::RmsNorm | Kind::LayerNorm => {
                concat!(include_str!("shaders/total.wgsl"), include_str!("shaders/norm.wgsl"))
            }
            Kind::Softmax => {
                concat!(include_str!("shaders/total.wgsl"), include_str!("shaders/softmax.wgsl"))
            }
            Kind::Gather => concat!(include_str!("shaders/each.wgsl"), include_str!("shaders/gather.wgsl")),
            Kind::Gelu | Kind::Silu | Kind::Add | Kind::Mul | Kind::Cast => {
                concat!(include_str!("shaders/each.wgsl"), include_str!("shaders/elements.wgsl"))
            }
        };
        text += &self.special();
        text
    }

    /// What differs between kernels of one file.
    fn special(&self) -> String {
        let own = self.buffers();
        match self.kind {
            Kind::Bytes => String::new(),
            Kind::Matmul { rows } => {
                let bias = if self.reads[2].is_some() { "rounded(read2(at, i))" } else { "0.0" };
                format!(
                    "const ROWS = {rows}u;\nfn bias(at: u32, i: u32) -> f32 {{ return {bias}; }}\n{}",
                    scattered(own, self.y)
                )
            }
            Kind::RmsNorm => format!("{}{}", include_str!("shaders/rms.wgsl"), scattered(own, self.y)),
            Kind::LayerNorm => format!("{}{}", include_str!("shaders/layer.wgsl"), scattered(own, self.y)),
            Kind::Softmax => scattered(own, self.y),
            Kind::Gather => packed(own, self.y),
            Kind::Gelu => element("return gelu(old);") + &packed(own, self.y),
            Kind::Silu => element("return old / (1.0 + exp_of(-old, 0.0));") + &packed(own, self.y),
            Kind::Add => element("return old + read0(p.x, i);") + &packed(own, self.y),
            Kind::Mul => element("return old * read0(p.x, i);") + &packed(own, self.y),
            Kind::Cast => element("return read0(p.x, i);") + &packed(own, self.y),
        }
    }
}

fn element(body: &str) -> String {
    format!("fn element(i: u32, old: f32) -> f32 {{ {body} }}\n")
}

/// The name by which shaders know a format.
fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::F8_E4M3 => "e4m3",
        DType::F8_E5M2 => "e5m2",
        DType::F8_E4M3FNUZ => "e4m3fnuz",
        DType::F8_E5M2FNUZ => "e5m2fnuz",
        DType::F8_E8M0 => "e8m0",
        // Callers refuse what else there is.
        _ => "f32",
    }
}

/// `readN(at, i)`: element `i` of the tensor that begins at byte `at` of buffer `N`, at whatever address.
fn reader(index: usize, dtype: DType) -> String {
    let bytes = dtype.bits() / 8;
    let mut text =
        format!("@group(0) @binding({}) var<storage, read_write> buffer{index}: array<u32>;\n", index + 1);
    // A word is never read before it is needed: there may be none behind the last.
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

/// `put(i, v)` and, for an even `i`, `put2(i, v, w)`: elements that threads write in no order, also two of one word.
fn scattered(binding: u32, dtype: DType) -> String {
    let file = match dtype {
        DType::BF16 | DType::F16 => include_str!("shaders/scattered16.wgsl"),
        _ => include_str!("shaders/scattered32.wgsl"),
    };
    file.replace("BINDING", &binding.to_string()).replace("FORMAT", name(dtype))
}

/// Words of `y`, each of which one thread takes apart and puts together.
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
    layout: ::wgpu::BindGroupLayout,
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
            Some(e) => {
                Err(DeviceError::Failed { what: "compiling a kernel", reason: format!("{key:?}: {e}") })
            }
        }
    }

    pub(super) fn bind(
        &self,
        device: &::wgpu::Device,
        (parameters, at, size): (&::wgpu::Buffer, u64, u64),
        windows: &[Window<'_>],
    ) -> ::wgpu::BindGroup {
        let binding = |buffer, offset, size| {
            ::wgpu::BindingResource::Buffer(BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(size),
            })
        };
        let windows = windows.iter().map(|w| binding(w.buffer, w.at, w.bytes));
        let entries: smallvec::SmallVec<[BindGroupEntry<'_>; 5]> =
            std::iter::once(binding(parameters, at, size))
                .chain(windows)
                .zip(0..)
                .map(|(resource, binding)| BindGroupEntry { binding, resource })
                .collect();
        device.create_bind_group(&::wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        })
    }
}

/// Parameters first, then buffers. All may be written, because reads and writes of one arena are of one buffer, which a
/// kernel may not see as both.
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

/// All that were compiled.
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
