//! Memory and work on a device that the host does not see into, and numbers that look random.

use vram_device::{
    Budget, Kernels, KernelsExt, Lifetime, Part, Queue, Region, Staging, Ticket, Tier, View, ViewMut, ops,
};
use vram_types::{DType, TensorMeta};

pub(crate) fn budget() -> Budget {
    Budget::new(Tier::Device, u64::MAX)
}

pub(crate) fn allocate(device: &dyn Kernels, bytes: u64) -> Region {
    device.allocate(budget().reserve(Lifetime::Pass, bytes).unwrap()).unwrap().into_region()
}

pub(crate) fn stage(device: &dyn Kernels, bytes: &[u8]) -> Staging {
    let mut staging = device.stage(budget().reserve(Lifetime::Pass, bytes.len() as u64).unwrap()).unwrap();
    staging.host_mut().copy_from_slice(bytes);
    staging
}

/// The whole of a region as its only part.
pub(crate) fn part(region: Region) -> Part {
    region.into_parts(&[]).unwrap().pop().unwrap()
}

pub(crate) fn upload(device: &dyn Kernels, staging: &Staging, region: Region) -> (Region, Ticket) {
    let mut part = part(region);
    let ticket = device.upload(staging, 0..staging.bytes(), &mut part, 0).unwrap();
    (part.finish().unwrap(), ticket)
}

/// Bytes on the device, in pieces of staging that are small beside them.
pub(crate) fn put(device: &dyn Kernels, bytes: &[u8]) -> Region {
    let mut part = part(allocate(device, bytes.len() as u64));
    let mut at = 0;
    for piece in bytes.chunks(16 << 20) {
        let staging = stage(device, piece);
        device.wait(device.upload(&staging, 0..piece.len() as u64, &mut part, at).unwrap()).unwrap();
        at += piece.len() as u64;
    }
    part.finish().unwrap()
}

pub(crate) fn get(device: &dyn Kernels, region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.bytes() as usize];
    device.download(region, 0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn meta(dtype: DType, shape: &[usize]) -> TensorMeta {
    TensorMeta::new(dtype, shape).unwrap()
}

pub(crate) fn view<'a>(region: &'a Region, dtype: DType, shape: &[usize]) -> View<'a> {
    View::new(region, 0, meta(dtype, shape)).unwrap()
}

pub(crate) fn view_mut<'a>(region: &'a mut Region, dtype: DType, shape: &[usize]) -> ViewMut<'a> {
    ViewMut::new(region, 0, meta(dtype, shape)).unwrap()
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// A kernel that changes nothing it could be told by, to have work under way.
pub(crate) fn busy(device: &dyn Kernels, region: &mut Region) {
    let n = region.bytes() as usize / 4;
    device.call(ops::Unary::silu(view_mut(region, DType::F32, &[n])), None).unwrap();
}

pub(crate) fn ordered(device: &dyn Kernels, ticket: Ticket) {
    device.order(Queue::Compute, ticket).unwrap();
}

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        println!("seed {seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 56) as u8).collect()
    }

    /// In -1..1.
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}
