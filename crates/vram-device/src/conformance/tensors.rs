//! Random tensors, transfers to the device and back, and comparisons.

use vram_types::cast::cast;
use vram_types::encoding::{ScaleBlocks, ScaledRows};
use vram_types::{BlockType, DType, Encoding, Shape, TensorMeta};

use super::case::{Fault, ensure};
use crate::ops::Op;
use crate::{Budget, Kernels, KernelsExt, Lifetime, Queue, Region, Tier, View, ViewMut};

/// What outputs hold before a kernel writes them: NaN in every dtype.
pub(super) const POISON: u8 = 0xff;

/// xorshift64*.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 56) as u8).collect()
    }

    /// A random block and the values that it decodes to, which are about as large as those of
    /// [`value`](Random::value).
    fn block(&mut self, block: BlockType) -> Result<(Vec<u8>, Vec<f32>), Fault> {
        let mut values = vec![0.0; block.block_elements() as usize];
        loop {
            let stored = self.bytes(block.block_bytes() as usize);
            block.decode_f32(&stored, &mut values)?;
            // Scales of random bytes can be infinite or tiny.
            let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
            if values.iter().all(|v| v.is_finite()) && (1e-2..8.0).contains(&largest) {
                return Ok((stored, values));
            }
        }
    }

    /// In -1..1.
    pub(super) fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A tensor on the device, and its exact contents on the host.
pub(super) struct Tensor {
    pub(super) bytes: Vec<u8>,
    pub(super) values: Vec<f64>,
    pub(super) meta: TensorMeta,
    encoding: Encoding,
    scales: Option<(Box<Tensor>, ScaleBlocks)>,
    region: Region,
    at: u64,
}

impl Tensor {
    /// Random values, at byte `at` of an allocation.
    pub(super) fn random(
        device: &dyn Kernels,
        random: &mut Random,
        dtype: DType,
        shape: impl Into<Shape>,
        at: u64,
    ) -> Result<Tensor, Fault> {
        let meta = TensorMeta::new(dtype, shape)?;
        let values: Vec<f32> = (0..meta.elements()).map(|_| random.value()).collect();
        Tensor::of(device, encode(&values, dtype)?, meta, at)
    }

    /// A matrix of random quantised blocks, at byte `at` of an allocation.
    pub(super) fn blocks(
        device: &dyn Kernels,
        random: &mut Random,
        block: BlockType,
        shape: [usize; 2],
        at: u64,
    ) -> Result<Tensor, Fault> {
        let encoding = Encoding::Blocks(block);
        let meta = TensorMeta::new(encoding.decoded(), shape)?;
        let mut bytes = Vec::new();
        let mut decoded = Vec::new();
        while (decoded.len() as u64) < meta.elements() {
            let (stored, values) = random.block(block)?;
            bytes.extend(stored);
            decoded.extend(values.iter().map(|&v| f64::from(v)));
        }
        let region = put(device, &bytes, at)?;
        Ok(Tensor { bytes, values: decoded, meta, encoding, scales: None, region, at })
    }

    /// A matrix of random fp8 numbers, at byte `at` of an allocation, with this many random scales along each
    /// extent.
    pub(super) fn scaled(
        device: &dyn Kernels,
        random: &mut Random,
        dtype: DType,
        (shape, scales): ([usize; 2], [usize; 2]),
        at: u64,
    ) -> Result<Tensor, Fault> {
        let wrong = || Fault::Wrong(format!("no scales {scales:?} fit a weight {shape:?}"));
        let blocks = ScaleBlocks::new(&shape.into(), &scales.into()).ok_or_else(wrong)?;
        let numbers = Tensor::random(device, random, dtype, shape, at)?;
        let scales = Tensor::random(device, random, DType::F32, [scales[0] * scales[1]], 1)?;
        let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
        let mut products = narrow(&numbers.values);
        blocks.multiply(&mut products, 0, &narrow(&scales.values), 0);
        let encoding = Encoding::Scaled(dtype);
        let meta = TensorMeta::new(encoding.decoded(), shape)?;
        let values = products.into_iter().map(f64::from).collect();
        let scales = Some((Box::new(scales), blocks));
        Ok(Tensor { values, meta, encoding, scales, ..numbers })
    }

    /// A poisoned tensor, for output.
    pub(super) fn poison(
        device: &dyn Kernels,
        dtype: DType,
        shape: impl Into<Shape>,
    ) -> Result<Tensor, Fault> {
        let meta = TensorMeta::new(dtype, shape)?;
        Tensor::of(device, vec![POISON; meta.bytes() as usize], meta, 0)
    }

    pub(super) fn of(
        device: &dyn Kernels,
        bytes: Vec<u8>,
        meta: TensorMeta,
        at: u64,
    ) -> Result<Tensor, Fault> {
        let region = put(device, &bytes, at)?;
        let values = match meta.dtype() {
            DType::U8 | DType::U32 | DType::I64 => Vec::new(),
            dtype => decode(&bytes, dtype)?,
        };
        Ok(Tensor { bytes, values, encoding: meta.dtype().into(), meta, scales: None, region, at })
    }

    pub(super) fn view(&self) -> Result<View<'_>, Fault> {
        let rows = self.meta.shape().first().copied().unwrap_or(1);
        match self.scales {
            Some(_) => self.rows(0, rows),
            None => Ok(View::encoded(&self.region, self.at, self.meta.shape().clone(), self.encoding)?),
        }
    }

    /// Some rows of it.
    pub(super) fn rows(&self, from: usize, to: usize) -> Result<View<'_>, Fault> {
        let rows = self.meta.shape().first().copied().unwrap_or(1);
        let row = self.bytes.len().checked_div(rows).unwrap_or(0);
        let (at, shape) = (self.at + (from * row) as u64, self.meta.shape().with_first(to - from));
        let (Encoding::Scaled(dtype), Some((scales, blocks))) = (self.encoding, &self.scales) else {
            return Ok(View::encoded(&self.region, at, shape, self.encoding)?);
        };
        let outside = || Fault::Wrong(format!("a weight {} has no rows {from}..{to}", self.meta.shape()));
        let rows = ScaledRows::new(blocks, from..to).ok_or_else(outside)?;
        let needed = rows.scales();
        let count = TensorMeta::new(DType::F32, [(needed.end - needed.start) as usize])?;
        let values = View::new(&scales.region, scales.at + needed.start * 4, count)?;
        Ok(View::new(&self.region, at, TensorMeta::new(dtype, shape)?)?.scaled(values, rows)?)
    }

    pub(super) fn view_mut(&mut self) -> Result<ViewMut<'_>, Fault> {
        Ok(ViewMut::new(&mut self.region, self.at, self.meta.clone())?)
    }

    /// Its current contents on the device.
    pub(super) fn download(&self, device: &dyn Kernels) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; self.bytes.len()];
        device.download(&self.region, self.at, &mut bytes)?;
        Ok(bytes)
    }
}

/// Bytes at offset `at` of a new region.
pub(super) fn put(device: &dyn Kernels, bytes: &[u8], at: u64) -> Result<Region, Fault> {
    let (near, far) = (Budget::new(Tier::Host, u64::MAX), Budget::new(Tier::Device, u64::MAX));
    let len = bytes.len() as u64;
    let mut staging = device.stage(near.reserve(Lifetime::Pass, len)?)?;
    staging.host_mut().copy_from_slice(bytes);
    let region = device.allocate(far.reserve(Lifetime::Pass, len + at)?)?.into_region();
    let mut parts = region.into_parts(&[])?;
    let mut part = parts.pop().ok_or_else(|| Fault::Wrong("a region without parts".into()))?;
    let ticket = device.upload(&staging, 0..len, &mut part, at)?;
    device.order(Queue::Compute, ticket)?;
    device.wait(ticket)?;
    part.finish().ok_or_else(|| Fault::Wrong("the last part did not give the region back".into()))
}

/// Runs an operation with the scratch it needs.
pub(super) fn with_scratch<'a>(device: &dyn Kernels, op: impl Into<Op<'a>>) -> Result<(), Fault> {
    let op = op.into();
    let mut scratch = Tensor::poison(device, DType::U8, [device.scratch(&op) as usize])?;
    Ok(device.call(op, Some(&mut scratch.view_mut()?))?)
}

pub(super) fn encode(values: &[f32], dtype: DType) -> Result<Vec<u8>, Fault> {
    let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut bytes = vec![0; values.len() * dtype.bits() as usize / 8];
    cast(&wide, DType::F32, &mut bytes, dtype)?;
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8], dtype: DType) -> Result<Vec<f64>, Fault> {
    let mut wide = vec![0; bytes.len() * 32 / dtype.bits() as usize];
    cast(bytes, dtype, &mut wide, DType::F32)?;
    let (words, _) = wide.as_chunks::<4>();
    Ok(words.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect())
}

/// The values rounded to `dtype`.
pub(super) fn rounded(values: &[f64], dtype: DType) -> Result<Vec<f64>, Fault> {
    let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    decode(&encode(&narrow, dtype)?, dtype)
}

/// Checks that every value of `actual` is as expected, within the dtype's tolerance times the magnitude given
/// with it: the sum of the absolute values that were added up.
pub(super) fn near(what: &str, actual: &[u8], dtype: DType, expected: &[(f64, f64)]) -> Result<(), Fault> {
    let tolerance = match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        _ => 2e-3,
    };
    let actual = decode(actual, dtype)?;
    ensure(actual.len() == expected.len(), || format!("{what}: {} values", actual.len()))?;
    for (i, (&a, &(e, size))) in actual.iter().zip(expected).enumerate() {
        ensure((a - e).abs() <= tolerance * size.max(1e-3), || {
            format!("{what}: element {i} is {a} where {e} is right, within {tolerance} of {size}")
        })?;
    }
    Ok(())
}

pub(super) fn same(what: &str, actual: &[u8], expected: &[u8]) -> Result<(), Fault> {
    match actual.iter().zip(expected).position(|(a, b)| a != b) {
        None if actual.len() == expected.len() => Ok(()),
        at => Err(Fault::Wrong(format!("{what}: other bits from byte {at:?} on"))),
    }
}
