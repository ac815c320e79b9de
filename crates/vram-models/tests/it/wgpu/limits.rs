//! Models with weights that are larger than what the adapter binds, or allocates, at once.

use std::sync::Arc;

use vram_alloc::{module, skip_init};
use vram_device::wgpu::WgpuOptions;
use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::{DiskMap, SafetensorsWriter};
use vram_layers::layers::Linear;
use vram_layers::{ModuleMap, VramConfig, enable_vram_management};
use vram_types::cast::cast;
use vram_types::{DType, TensorMeta, WeightSource};

use super::device;
use crate::common::{config, f32s, golden};
use crate::controlnet::{managed, output};

/// What software Vulkan binds; others are made to bind no more.
const BINDING: u64 = 128 << 20;

struct Wide {
    linear: Linear,
}

module! { Wide { linear } }

const INPUTS: usize = 3000;
const OUTPUTS: usize = 50_000;
const ROWS: usize = 2;

/// Rows that are alike but for their first element, 1 to 32768 in powers of two: nobody has to wait for random numbers.
fn write(path: &std::path::Path) -> Vec<f32> {
    let row: Vec<u8> =
        (0..INPUTS).flat_map(|i| ((i * 37 % 101) as f32 / 101.0 - 0.5).to_le_bytes()).collect();
    let mut narrow = vec![0; INPUTS * 2];
    cast(&row, DType::F32, &mut narrow, DType::BF16).unwrap();
    let meta = TensorMeta::new(DType::BF16, [OUTPUTS, INPUTS]).unwrap();
    let mut bytes = vec![0; OUTPUTS * INPUTS * 2];
    for (i, to) in bytes.chunks_exact_mut(INPUTS * 2).enumerate() {
        to.copy_from_slice(&narrow);
        to[..2].copy_from_slice(&((127 + (i % 16) as u16) << 7).to_le_bytes());
    }
    let mut writer = SafetensorsWriter::create(path, [("linear.weight", meta)], &[]).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    let mut exact = vec![0; INPUTS * 4];
    cast(&narrow, DType::BF16, &mut exact, DType::F32).unwrap();
    f32s(&exact)
}

#[test]
fn a_model_with_a_weight_of_300_megabytes_runs_where_128_mib_are_bound() {
    let Some(wgpu) = device(WgpuOptions { max_binding: Some(BINDING), ..Default::default() }) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide.safetensors");
    let row = write(&path);
    let source: Arc<dyn WeightSource> = Arc::new(DiskMap::open(&path).unwrap());
    let x: Vec<f32> = (0..ROWS * INPUTS).map(|i| (i * 61 % 89) as f32 / 89.0 - 0.4).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let meta = TensorMeta::new(DType::F32, [ROWS, INPUTS]).unwrap();
    let run = |budget| {
        let model = skip_init(|| Wide { linear: Linear::new(INPUTS, OUTPUTS, false, DType::BF16).unwrap() });
        let (source, device) = (Arc::clone(&source), Arc::clone(&wgpu) as Arc<dyn Kernels>);
        let config = config(DType::F32, budget);
        let model = enable_vram_management(model, source, device, &ModuleMap::standard(), config).unwrap();
        let y = model.run(|m, fwd| {
            let x = fwd.input(&bytes, &meta)?;
            let y = m.linear.forward(fwd, &x)?;
            fwd.download(&y)
        });
        (f32s(&y.unwrap()), model.report())
    };
    let (resident, report) = run(400 << 20);
    assert!(report.resident_bytes >= 300_000_000, "{report:?}");
    let (streamed, report) = run(24 << 20);
    assert!(report.peak_bytes <= 24 << 20 && report.resident_bytes < 24 << 20, "{report:?}");
    assert!(resident.iter().zip(&streamed).all(|(a, b)| a.to_bits() == b.to_bits()));
    for (i, y) in resident.iter().enumerate() {
        let x = &x[i / OUTPUTS * INPUTS..][..INPUTS];
        let first = f64::from(x[0]) * f64::from(1u32 << (i % OUTPUTS % 16));
        let terms = x[1..].iter().zip(&row[1..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (sum, size) = terms.fold((first, first.abs()), |(sum, size), t| (sum + t, size + t.abs()));
        assert!((f64::from(*y) - sum).abs() <= 1e-5 * size, "element {i}: {y} for {sum}");
    }
}

#[test]
fn what_an_adapter_binds_and_allocates_at_once_changes_no_bit() {
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let run = |options: WgpuOptions, budget| -> Option<Vec<u8>> {
        // Staging is an allocation as well.
        let host_limit = Budget::new(Tier::Host, 128 << 10);
        let config = VramConfig { host_limit, ..config(DType::F32, budget) };
        let model = managed(Arc::clone(&source), device(options)?, &ModuleMap::standard(), config);
        Some(output(&model))
    };
    let Some(whole) = run(WgpuOptions::default(), 1 << 30) else { return };
    for (binding, allocation) in [(None, Some(48 << 10)), (Some(12 << 10), Some(48 << 10))] {
        let options = WgpuOptions { max_binding: binding, max_allocation: allocation, ..Default::default() };
        for budget in [1 << 30, 400 << 10] {
            let pieces = run(options.clone(), budget).unwrap();
            assert!(pieces == whole, "{options:?} under {budget}");
        }
    }
}
