//! [`Upsample`].

use vram_types::DType;
use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::Upsample;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "upsample",
    doc: Upsample::DOC,
    variants: &[Variant::required(
        "upsample",
        upsample,
        Draws::ForActs(|device, random, act| {
            let axes = |random: &mut Random, most: usize| [0; 3].map(|_| extent(random, most));
            let (extents, factors, channels) = (axes(random, 5), axes(random, 3), extent(random, 9));
            upsample_of(device, random, act, (extents, channels), factors)
        }),
    )],
    refusals: Case::new("refusals: upsample", refusals),
};

fn upsample(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(43);
    ACTS.into_iter().try_for_each(|act| {
        upsample_of(device, &mut random, act, ([1, 3, 5], 7), [1, 2, 2])?;
        upsample_of(device, &mut random, act, ([2, 2, 3], 4), [2, 1, 3])?;
        upsample_of(device, &mut random, act, ([1, 30, 40], 17), [1, 2, 2])
    })
}

fn upsample_of(
    device: &dyn Kernels,
    random: &mut Random,
    act: DType,
    ([depth, height, width], channels): ([usize; 3], usize),
    factors: [usize; 3],
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, act, [depth * height * width, channels], 0)?;
    let [d, h, w] = [depth * factors[0], height * factors[1], width * factors[2]];
    let mut y = Tensor::poison(device, act, [d * h * w, channels])?;
    device.call(Upsample::new(x.view()?, [depth, height, width], factors, y.view_mut()?), None)?;
    let mut expected = Vec::new();
    for position in 0..d * h * w {
        let at = [position / (h * w) / factors[0], position / w % h / factors[1], position % w / factors[2]];
        let from = (at[0] * height + at[1]) * width + at[2];
        expected.extend(x.values[from * channels..][..channels].iter().map(|v| (*v, v.abs())));
    }
    near(&format!("upsample {act} by {factors:?}"), &y.download(device)?, act, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(44), F32, [6, 2], 0)?;
    let call = |extents, factors, shape: [usize; 2], dtype| -> Result<_, Fault> {
        let mut y = Tensor::poison(device, dtype, shape)?;
        Ok(device.call(Upsample::new(x.view()?, extents, factors, y.view_mut()?), None))
    };
    refused("a result of other rows", call([1, 2, 3], [1, 2, 2], [23, 2], F32)?)?;
    refused("other extents", call([1, 2, 2], [1, 2, 2], [24, 2], F32)?)?;
    refused("another width", call([1, 2, 3], [1, 2, 2], [24, 3], F32)?)?;
    refused("a factor of 0", call([1, 2, 3], [0, 2, 2], [0, 2], F32)?)?;
    refused("another dtype", call([1, 2, 3], [1, 2, 2], [24, 2], BF16)?)
}
