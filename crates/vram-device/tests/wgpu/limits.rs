//! What is larger than the adapter binds at once.

use vram_device::wgpu::{Wgpu, WgpuOptions};
use vram_device::{Activation, Binary, Kernels, LinearArgs, Region};
use vram_types::DType::{BF16, F32, U8};
use vram_types::cast::cast;

use crate::util::{Random, allocate, f32s, get, open, put, values, view, view_mut};

/// Every kernel whose operands can be taken in pieces, one after the other on the same data.
fn all_kernels(wgpu: &Wgpu) -> Vec<u8> {
    let mut random = Random::new(5);
    let (m, k, n) = (37, 50, 61);
    let x = put(wgpu, &f32s(&random.floats(m * k)));
    let weight = put(wgpu, &f32s(&random.floats(n * k)));
    let bias = put(wgpu, &f32s(&random.floats(n)));
    let (packed, mut y) = (allocate(wgpu, 0), allocate(wgpu, (m * n * 4) as u64));
    let args = LinearArgs {
        x: view(&x, F32, &[m, k]),
        packed: view(&packed, U8, &[0]),
        weight: view(&weight, F32, &[n, k]),
        bias: Some(view(&bias, F32, &[n])),
        first_output: 0,
    };
    wgpu.linear(&args, &mut view_mut(&mut y, F32, &[m, n])).unwrap();
    let mut normal = allocate(wgpu, (m * n * 4) as u64);
    wgpu.layer_norm(
        &view(&y, F32, &[m, n]),
        &view(&bias, F32, &[n]),
        &view(&bias, F32, &[n]),
        1e-5,
        &mut view_mut(&mut normal, F32, &[m, n]),
    )
    .unwrap();
    wgpu.activate(Activation::Gelu, &mut view_mut(&mut y, F32, &[m, n])).unwrap();
    wgpu.binary(Binary::Add, &view(&normal, F32, &[m, n]), &mut view_mut(&mut y, F32, &[m, n])).unwrap();
    let mut half = allocate(wgpu, (m * n * 2) as u64);
    wgpu.cast(&view(&y, F32, &[m, n]), &mut view_mut(&mut half, BF16, &[m, n])).unwrap();
    let ids: Vec<u32> = (0..100).map(|_| random.below(m as u64) as u32).collect();
    let mut rows = allocate(wgpu, (ids.len() * n * 2) as u64);
    wgpu.gather(&view(&half, BF16, &[m, n]), &ids, &mut view_mut(&mut rows, BF16, &[ids.len(), n])).unwrap();
    [get(wgpu, &y), get(wgpu, &rows)].concat()
}

#[test]
fn how_much_is_bound_at_once_changes_no_bit() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let whole = all_kernels(&wgpu);
    for max_binding in [520, 1000, 3000] {
        let options = WgpuOptions { max_binding: Some(max_binding), ..Default::default() };
        let Some(narrow) = open(options) else { return };
        assert!(all_kernels(&narrow) == whole, "{max_binding} bytes at once");
    }
}

#[test]
fn a_row_that_is_longer_than_a_binding_is_refused_with_both_sizes() {
    let Some(wgpu) = open(WgpuOptions { max_binding: Some(1024), ..Default::default() }) else { return };
    let (x, packed, mut y) = (allocate(&wgpu, 2048), allocate(&wgpu, 0), allocate(&wgpu, 8));
    let args = LinearArgs {
        x: view(&x, F32, &[1, 512]),
        packed: view(&packed, U8, &[0]),
        weight: view(&x, F32, &[1, 512]),
        bias: None,
        first_output: 0,
    };
    let error = wgpu.linear(&args, &mut view_mut(&mut y, F32, &[1, 1])).unwrap_err();
    assert!(error.to_string().contains("2048 bytes"), "{error}");
}

/// A weight of 300 MB in bf16, on whatever the adapter binds: 128 MiB on software Vulkan.
#[test]
fn a_weight_of_300_megabytes_is_multiplied() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let limits = wgpu.device().limits();
    println!("the adapter binds {} bytes", limits.max_storage_buffer_binding_size);
    let (m, k, n) = (2, 3000, 50_000);
    let mut random = Random::new(6);
    // One row repeated with another factor each, so that the test need not wait for random numbers.
    let row = random.floats(k);
    let mut bytes = vec![0; k * n * 2];
    let mut narrow = vec![0; k * 2];
    cast(&f32s(&row), F32, &mut narrow, BF16).unwrap();
    let mut exact = vec![0; k * 4];
    cast(&narrow, BF16, &mut exact, F32).unwrap();
    let exact = values(&exact);
    for (i, to) in bytes.chunks_exact_mut(k * 2).enumerate() {
        to.copy_from_slice(&narrow);
        // What tells the rows apart: element 0 is the number of the row, in powers of two.
        to[..2].copy_from_slice(&((127 + (i % 16) as u16) << 7).to_le_bytes());
    }
    let weight = put(&wgpu, &bytes);
    drop(bytes);
    let x = random.floats(m * k);
    let stored = put(&wgpu, &f32s(&x));
    let packed = allocate(&wgpu, 0);
    let run = |cuts: &[usize]| -> (Region, Vec<f32>) {
        let mut y = allocate(&wgpu, (m * n * 4) as u64);
        let mut first = 0;
        for &end in cuts {
            let meta = crate::util::meta(BF16, &[end - first, k]);
            let args = LinearArgs {
                x: view(&stored, F32, &[m, k]),
                packed: view(&packed, U8, &[0]),
                weight: vram_device::View::new(&weight, (first * k * 2) as u64, meta).unwrap(),
                bias: None,
                first_output: first,
            };
            wgpu.linear(&args, &mut view_mut(&mut y, F32, &[m, n])).unwrap();
            first = end;
        }
        let values = values(&get(&wgpu, &y));
        (y, values)
    };
    let (_, whole) = run(&[n]);
    let (_, cut) = run(&[1, 20_001, n]);
    assert!(whole.iter().zip(&cut).all(|(a, b)| a.to_bits() == b.to_bits()), "cuts change bits");
    for (i, y) in whole.iter().enumerate() {
        let x = &x[i / n * k..][..k];
        let first = f64::from(x[0]) * f64::from(1u32 << (i % n % 16));
        let terms = x[1..].iter().zip(&exact[1..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (sum, size): (f64, f64) = (terms.clone().sum(), terms.map(f64::abs).sum());
        let (sum, size) = (sum + first, size + first.abs());
        assert!((f64::from(*y) - sum).abs() <= 1e-5 * size, "element {i}: {y} for {sum}");
    }
}
