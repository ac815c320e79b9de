//! What is larger than the adapter binds at once.

use vram_device::wgpu::{Wgpu, WgpuOptions};
use vram_device::{Kernels, KernelsExt, Region, ops};
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
    let mut y = allocate(wgpu, (m * n * 4) as u64);
    let (x, weight, bias) = (view(&x, F32, &[m, k]), view(&weight, F32, &[n, k]), view(&bias, F32, &[n]));
    let op = ops::Linear::new(x, weight, view_mut(&mut y, F32, &[m, n])).with_bias(Some(bias.clone()));
    wgpu.call(op, None).unwrap();
    let mut normal = allocate(wgpu, (m * n * 4) as u64);
    let (x, to) = (view(&y, F32, &[m, n]), view_mut(&mut normal, F32, &[m, n]));
    wgpu.call(ops::LayerNorm::new(x, bias.clone(), bias, 1e-5, to), None).unwrap();
    wgpu.call(ops::Unary::gelu(view_mut(&mut y, F32, &[m, n])), None).unwrap();
    let (x, to) = (view(&normal, F32, &[m, n]), view_mut(&mut y, F32, &[m, n]));
    wgpu.call(ops::Binary::add(x, to), None).unwrap();
    let mut half = allocate(wgpu, (m * n * 2) as u64);
    wgpu.call(ops::Cast::new(view(&y, F32, &[m, n]), view_mut(&mut half, BF16, &[m, n])), None).unwrap();
    let ids: Vec<u32> = (0..100).map(|_| random.below(m as u64) as u32).collect();
    let mut rows = allocate(wgpu, (ids.len() * n * 2) as u64);
    let (table, to) = (view(&half, BF16, &[m, n]), view_mut(&mut rows, BF16, &[ids.len(), n]));
    wgpu.call(ops::Gather::new(table, &ids, to), None).unwrap();
    [get(wgpu, &y), get(wgpu, &rows), kernels_with_scratch(wgpu, &mut random)].concat()
}

/// The rest of them.
fn kernels_with_scratch(wgpu: &Wgpu, random: &mut Random) -> Vec<u8> {
    let call = |op: ops::Op<'_>| {
        let bytes = wgpu.scratch(&op) as usize;
        let mut scratch = allocate(wgpu, bytes.max(4) as u64);
        wgpu.call(op, Some(&mut view_mut(&mut scratch, U8, &[bytes]))).unwrap();
    };
    let (rows, width) = (37, 24);
    let mut floats = |n: usize| put(wgpu, &f32s(&random.floats(n)));
    let (x, row, table) = (floats(rows * width), floats(width), floats(rows * 4));
    let (view_x, view_row) = (|| view(&x, F32, &[rows, width]), || view(&row, F32, &[width]));
    let result = || allocate(wgpu, (rows * width * 4) as u64);
    let (mut normal, mut y) = (result(), result());
    // As narrow as a chunk of positions needs it to be.
    let (shape, two) = ([1, rows * width / 2, 2], || view(&row, F32, &[2]));
    let to = view_mut(&mut normal, F32, &shape);
    let op = ops::GroupNorm::plain(view(&x, F32, &shape), 2, 1e-5, to);
    call(op.with_affine(Some(two()), Some(two())).into());
    let form = ops::RotaryForm::Halves;
    let to = view_mut(&mut normal, F32, &[rows, width]);
    call(ops::Rotary::new(form, view(&table, F32, &[rows, 4]), 3, to).into());
    let to = view_mut(&mut y, F32, &[rows, width]);
    call(ops::Modulate::new(view(&normal, F32, &[rows, width]), view_row(), view_row(), to).into());
    let to = view_mut(&mut y, F32, &[rows, width]);
    call(ops::Gated::new(ops::UnaryKind::Silu, view_x(), to).into());
    call(ops::ScaledAdd::new(view_x(), view_row(), view_mut(&mut y, F32, &[rows, width])).into());
    call(ops::Binary::add(view_row(), view_mut(&mut y, F32, &[rows, width])).into());
    let mut turned = result();
    let to = view_mut(&mut turned, F32, &[width, rows]);
    call(ops::StridedCopy::permuted(view(&y, F32, &[rows, width]), &[1, 0], to).unwrap().into());
    let mut windows = allocate(wgpu, (rows * 5 * 3 * 8 * 4) as u64);
    let window = ops::Window { before: [0, 1, 1], after: [0, 1, 1], ..ops::Window::new([1, 3, 1]) };
    let to = view_mut(&mut windows, F32, &[rows * 5, 3 * 8]);
    call(ops::Im2col::new(view(&y, F32, &[rows * 3, 8]), [1, rows, 3], window, to).into());
    [get(wgpu, &turned), get(wgpu, &windows)].concat()
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
    let (x, mut y) = (allocate(&wgpu, 2048), allocate(&wgpu, 8));
    let x = view(&x, F32, &[1, 512]);
    let op = ops::Linear::new(x.clone(), x, view_mut(&mut y, F32, &[1, 1]));
    let error = wgpu.call(op, None).unwrap_err();
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
    let run = |cuts: &[usize]| -> (Region, Vec<f32>) {
        let mut y = allocate(&wgpu, (m * n * 4) as u64);
        let mut first = 0;
        for &end in cuts {
            let meta = crate::util::meta(BF16, &[end - first, k]);
            let weight = vram_device::View::new(&weight, (first * k * 2) as u64, meta).unwrap();
            let x = view(&stored, F32, &[m, k]);
            let op = ops::Linear::new(x, weight, view_mut(&mut y, F32, &[m, n])).at_output(first);
            wgpu.call(op, None).unwrap();
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
