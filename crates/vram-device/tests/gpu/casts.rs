//! Formats narrower than f32, pattern by pattern.

use vram_device::{Kernels, KernelsExt, ops};
use vram_types::DType;
use vram_types::cast::cast;

use super::util::{Random, allocate, f32s, get, put, values, view, view_mut};

const EIGHT: [DType; 5] =
    [DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ, DType::F8_E8M0];

fn on_host(bytes: &[u8], from: DType, to: DType) -> Vec<u8> {
    let n = bytes.len() * 8 / from.bits() as usize;
    let mut out = vec![0; n * to.bits() as usize / 8];
    cast(bytes, from, &mut out, to).unwrap();
    out
}

fn is_nan(bytes: &[u8], dtype: DType) -> bool {
    values(&on_host(bytes, dtype, DType::F32))[0].is_nan()
}

/// The device's cast against the host's: the same bits, but for what a NaN carries.
fn check(device: &dyn Kernels, bytes: &[u8], from: DType, to: DType) {
    let n = bytes.len() * 8 / from.bits() as usize;
    let size = to.bits() as usize / 8;
    let x = put(device, bytes);
    let mut y = allocate(device, (n * size) as u64);
    device.call(ops::Cast::new(view(&x, from, &[n]), view_mut(&mut y, to, &[n])), None).unwrap();
    let (actual, expected) = (get(device, &y), on_host(bytes, from, to));
    for (i, (a, e)) in actual.chunks(size).zip(expected.chunks(size)).enumerate() {
        assert!(a == e || (is_nan(a, to) && is_nan(e, to)), "{from} {i} to {to}: {a:x?}, and not {e:x?}");
    }
}

pub(crate) fn every_pattern_casts_as_on_the_host(device: &dyn Kernels) {
    let bytes: Vec<u8> = (0..=255).collect();
    let pairs: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for to in [DType::F32, DType::BF16, DType::F16] {
        for from in EIGHT {
            check(device, &bytes, from, to);
        }
        for from in [DType::BF16, DType::F16] {
            check(device, &pairs, from, to);
        }
    }
    // Every upper half with lower halves about the ties, so that each rounding is met.
    let near = [0u16, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff];
    let words: Vec<u8> = (0..=u16::MAX)
        .flat_map(|h| near.map(|l| u32::from(h) << 16 | u32::from(l)))
        .flat_map(u32::to_le_bytes)
        .collect();
    for to in [DType::BF16, DType::F16] {
        check(device, &words, DType::F32, to);
    }
}

pub(crate) fn eight_bit_weights_are_summed_as_their_values(device: &dyn Kernels) {
    let mut random = Random::new(1);
    let (m, k, n) = (5, 131, 67);
    let x = random.floats(m * k);
    let stored = put(device, &f32s(&x));
    for dtype in [DType::F8_E4M3, DType::F8_E5M2] {
        // No NaNs and nothing so large that it hides the rest.
        let weight: Vec<u8> = random.bytes(n * k).into_iter().map(|b| b & 0xbf).collect();
        let exact = values(&on_host(&weight, dtype, DType::F32));
        let weight = put(device, &weight);
        let mut y = allocate(device, (m * n * 4) as u64);
        let (x_view, weight) = (view(&stored, DType::F32, &[m, k]), view(&weight, dtype, &[n, k]));
        let op = ops::Linear::new(x_view, weight, view_mut(&mut y, DType::F32, &[m, n]));
        device.call(op, None).unwrap();
        for (i, y) in values(&get(device, &y)).into_iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &exact[i % n * k..][..k]);
            let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, size): (f64, f64) = (terms.clone().sum(), terms.map(f64::abs).sum());
            assert!((f64::from(y) - sum).abs() <= 1e-5 * size, "{dtype}, element {i}: {y} for {sum}");
        }
    }
}

pub(crate) fn what_there_is_no_kernel_for_is_refused_by_name(device: &dyn Kernels) {
    let (x, mut y) = (allocate(device, 64), allocate(device, 64));
    for (from, to) in [(DType::I32, DType::F32), (DType::F32, DType::F8_E4M3), (DType::F64, DType::F32)] {
        let n = 64 * 8 / from.bits().max(to.bits()) as usize;
        let op = ops::Cast::new(view(&x, from, &[n]), view_mut(&mut y, to, &[n]));
        let error = device.call(op, None).unwrap_err();
        assert!(error.to_string().contains("kernel cast does not take"), "{error}");
    }
}
