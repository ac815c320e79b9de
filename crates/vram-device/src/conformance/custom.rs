//! [`Custom`]: an operation that the device does not know.

use vram_types::DType::{F32, U8};
use vram_types::TensorMeta;

use std::sync::Arc;

use super::case::{Case, Fault, ensure, refused};
use super::suite::{Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, same};
use crate::ops::{Custom, CustomOp};
use crate::{DeviceError, Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "custom",
    doc: Custom::DOC,
    variants: &[Variant::optional(
        "custom",
        custom,
        Draws::ForActs(|device, random, _| {
            let len = extent(random, 5000);
            swap_of(device, random, len)
        }),
    )],
    refusals: Case::new("refusals: custom", refusals),
};

/// Writes the difference of each byte to its neighbour, and swaps the halves of another tensor in place.
#[derive(Debug)]
struct Swap;

impl CustomOp for Swap {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn check(&self, reads: &[&TensorMeta], writes: &[&TensorMeta]) -> Result<(), DeviceError> {
        match (reads, writes) {
            ([x], [y, z]) if x == y && x == z && x.dtype() == U8 => Ok(()),
            _ => Err(DeviceError::shape(self.name(), format!("{reads:?} to {writes:?}"))),
        }
    }

    fn flops(&self, reads: &[&TensorMeta], _: &[&TensorMeta]) -> u64 {
        reads.iter().map(|meta| meta.elements()).sum()
    }

    fn cpu(&self, reads: &[&[u8]], writes: &mut [&mut [u8]]) -> Result<(), DeviceError> {
        let ([x], [y, z]) = (reads, writes) else { return self.check(&[], &[]) };
        y.iter_mut().zip(differences(x)).for_each(|(y, d)| *y = d);
        let half = z.len().div_ceil(2);
        z.rotate_left(half);
        Ok(())
    }
}

fn differences(x: &[u8]) -> impl Iterator<Item = u8> {
    x.iter().zip(x.iter().cycle().skip(1)).map(|(a, b)| b.wrapping_sub(*a))
}

fn custom(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(17);
    [1, 2, 77, 4096].into_iter().try_for_each(|len| swap_of(device, &mut random, len))
}

fn swap_of(device: &dyn Kernels, random: &mut Random, len: usize) -> Result<(), Fault> {
    let meta = TensorMeta::new(U8, [len])?;
    let (x, z) = (random.bytes(len), random.bytes(len));
    let mut swapped = z.clone();
    swapped.rotate_left(len.div_ceil(2));
    let expected: Vec<u8> = differences(&x).collect();
    let x = Tensor::of(device, x, meta.clone(), 1)?;
    let mut z = Tensor::of(device, z, meta, 0)?;
    let mut y = Tensor::poison(device, U8, [len])?;
    let op = Custom::new(Arc::new(Swap), vec![x.view()?], vec![y.view_mut()?, z.view_mut()?]);
    device.call(op, None)?;
    same(&format!("{len} differences"), &y.download(device)?, &expected)?;
    same(&format!("halves of {len} bytes"), &z.download(device)?, &swapped)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(27), F32, [3, 8], 0)?;
    let op = Custom::new(Arc::new(Swap), vec![x.view()?], vec![]);
    let result = device.call(op, None);
    ensure(matches!(result, Err(DeviceError::Shape { op: "custom", .. })), || format!("gave {result:?}"))?;
    refused("no tensors", device.call(Custom::new(Arc::new(Swap), vec![], vec![]), None))
}
