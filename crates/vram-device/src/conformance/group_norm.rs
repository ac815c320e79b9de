//! [`GroupNorm`].

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, WEIGHTS, extent};
use super::tensors::{Random, Tensor, near, rounded, same, with_scratch};
use crate::ops::GroupNorm;
use crate::{Kernels, KernelsExt};

const EPS: f32 = 1e-5;

/// With or without weight and bias.
macro_rules! norm {
    ($name:literal, $weight:literal, $bias:literal) => {
        Variant::required(
            $name,
            |device| on_chosen(device, ($weight, $bias)),
            Draws::ForWeights(|device, random, dtypes| {
                let groups = extent(random, 6);
                let shape = (extent(random, 3), extent(random, 90), groups * extent(random, 10));
                // With a single element, the difference to the mean would be nothing but rounding error.
                let shape = (shape.0, shape.1 + 1, shape.2);
                group_norm_of(device, random, ($weight, $bias), dtypes, (shape, groups))
            }),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "group_norm",
    doc: GroupNorm::DOC,
    variants: &[
        norm!("group_norm", true, true),
        norm!("group_norm: no bias", true, false),
        norm!("group_norm: no weight, no bias", false, false),
    ],
    refusals: Case::new("refusals: group_norm", refusals),
};

/// Items of the batch, positions, channels; and the number of groups.
type Shape = ((usize, usize, usize), usize);

fn on_chosen(device: &dyn Kernels, affine: (bool, bool)) -> Result<(), Fault> {
    let mut random = Random::new(39);
    for act in ACTS {
        for stored in WEIGHTS {
            for shape in
                [((1, 5, 4), 2), ((2, 133, 12), 3), ((3, 7, 40), 1), ((1, 64, 3), 3), ((2, 700, 64), 4)]
            {
                group_norm_of(device, &mut random, affine, (act, stored), shape)?;
            }
        }
    }
    Ok(())
}

fn group_norm_of(
    device: &dyn Kernels,
    random: &mut Random,
    (with_weight, with_bias): (bool, bool),
    (act, stored): (DType, DType),
    ((batch, positions, channels), groups): Shape,
) -> Result<(), Fault> {
    let shape = [batch, positions, channels];
    let x = Tensor::random(device, random, act, shape, 0)?;
    let weight = Tensor::random(device, random, stored, [channels], 1)?;
    let bias = Tensor::random(device, random, stored, [channels], 3)?;
    let run = |from: usize, to: usize| -> Result<Vec<u8>, Fault> {
        let mut y = Tensor::poison(device, act, [to - from, positions, channels])?;
        let op = GroupNorm::plain(x.rows(from, to)?, groups, EPS, y.view_mut()?);
        let w = with_weight.then(|| weight.view()).transpose()?;
        let b = with_bias.then(|| bias.view()).transpose()?;
        with_scratch(device, op.with_affine(w, b))?;
        y.download(device)
    };
    let w = if with_weight { rounded(&weight.values, act)? } else { vec![1.0; channels] };
    let b = if with_bias { rounded(&bias.values, act)? } else { vec![0.0; channels] };
    let (item, width) = (positions * channels, channels / groups);
    let parts: Vec<(f64, f64)> = (0..batch * groups)
        .map(|part| {
            let rows = x.values[part / groups * item..][..item].chunks(channels);
            let own: Vec<f64> =
                rows.flat_map(|row| &row[part % groups * width..][..width]).copied().collect();
            let mean = own.iter().sum::<f64>() / own.len() as f64;
            let variance = own.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / own.len() as f64;
            (mean, (variance + f64::from(EPS)).sqrt())
        })
        .collect();
    let one = |(i, v): (usize, &f64)| {
        let channel = i % channels;
        let (mean, deviation) = parts[i / item * groups + channel / width];
        let size = (v.abs() + mean.abs()) / deviation * w[channel].abs() + b[channel].abs();
        ((v - mean) / deviation * w[channel] + b[channel], size)
    };
    let expected: Vec<_> = x.values.iter().enumerate().map(one).collect();
    let what = format!("group_norm {act} by {stored}, {shape:?} in {groups}, {with_weight}, {with_bias}");
    let whole = run(0, batch)?;
    near(&what, &whole, act, &expected)?;
    let last = whole.len() / batch * (batch - 1);
    same(&format!("{what}, an item alone"), &run(batch - 1, batch)?, &whole[last..])
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(40);
    let x = Tensor::random(device, &mut random, F32, [2, 3, 8], 0)?;
    let narrow = Tensor::random(device, &mut random, F32, [7], 0)?;
    let mut y = Tensor::poison(device, F32, [2, 3, 8])?;
    let three = device.call(GroupNorm::plain(x.view()?, 3, EPS, y.view_mut()?), None);
    refused("groups that do not divide the channels", three)?;
    refused("no groups", device.call(GroupNorm::plain(x.view()?, 0, EPS, y.view_mut()?), None))?;
    let op = GroupNorm::plain(x.view()?, 2, EPS, y.view_mut()?).with_affine(Some(narrow.view()?), None);
    refused("a narrow weight", device.call(op, None))
}
