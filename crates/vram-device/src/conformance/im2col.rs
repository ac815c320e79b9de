//! [`Im2col`].

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, below, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::{Im2col, Window};
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "im2col",
    doc: Im2col::DOC,
    variants: &[Variant::required(
        "im2col",
        im2col,
        Draws::ForActs(|device, random, act| {
            let channels = extent(random, 9);
            let mut axes = |least: usize, most: usize| [0; 3].map(|_| least + below(random, most));
            let (kernel, stride, dilation) = (axes(1, 3), axes(1, 2), axes(1, 2));
            let window = Window { kernel, stride, dilation, before: axes(0, 3), after: axes(0, 3) };
            // Large enough for the window.
            let outputs = axes(1, 6);
            let extents = [0, 1, 2].map(|axis| {
                let padded = (kernel[axis] - 1) * dilation[axis] + outputs[axis];
                padded.saturating_sub(window.before[axis] + window.after[axis]).max(1)
            });
            im2col_of(device, random, act, (extents, channels), window)
        }),
    )],
    refusals: Case::new("refusals: im2col", refusals),
};

fn im2col(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(41);
    let causal = Window { before: [2, 1, 1], after: [0, 1, 1], ..Window::new([3, 3, 3]) };
    let strided = Window { stride: [1, 2, 2], after: [0, 1, 1], ..Window::new([1, 3, 3]) };
    let line = Window { dilation: [1, 1, 3], before: [0, 0, 3], after: [0, 0, 3], ..Window::new([1, 1, 3]) };
    for act in ACTS {
        im2col_of(device, &mut random, act, ([2, 5, 4], 3), causal)?;
        im2col_of(device, &mut random, act, ([1, 8, 6], 5), strided)?;
        im2col_of(device, &mut random, act, ([1, 1, 17], 2), line)?;
        im2col_of(device, &mut random, act, ([1, 40, 50], 8), strided)?;
    }
    Ok(())
}

fn im2col_of(
    device: &dyn Kernels,
    random: &mut Random,
    act: DType,
    (extents, channels): ([usize; 3], usize),
    window: Window,
) -> Result<(), Fault> {
    let what = format!("im2col {act}, {extents:?} of {channels}, {window:?}");
    let [depth, height, width] = extents;
    let x = Tensor::random(device, random, act, [depth * height * width, channels], 0)?;
    let outputs = window.outputs(extents).unwrap_or([0; 3]);
    let positions: usize = outputs.iter().product();
    let row = window.kernel.iter().product::<usize>() * channels;
    let mut expected = Vec::new();
    let each = |of: [usize; 3]| {
        (0..of[0]).flat_map(move |d| (0..of[1]).flat_map(move |h| (0..of[2]).map(move |w| [d, h, w])))
    };
    for at in each(outputs) {
        for element in each(window.kernel) {
            let place = [0, 1, 2].map(|axis| {
                let padded = at[axis] * window.stride[axis] + element[axis] * window.dilation[axis];
                padded as i64 - window.before[axis] as i64
            });
            let inside = (0..3).all(|axis| (0..extents[axis] as i64).contains(&place[axis]));
            for c in 0..channels {
                let [d, h, w] = place.map(|p| p as usize);
                let value =
                    if inside { x.values[((d * height + h) * width + w) * channels + c] } else { 0.0 };
                expected.push((value, value.abs()));
            }
        }
    }
    // All positions, and then only the last few.
    for first in [0, positions - positions.div_ceil(3)] {
        let mut y = Tensor::poison(device, act, [positions - first, row])?;
        device.call(Im2col::new(x.view()?, extents, window, y.view_mut()?).from_position(first), None)?;
        near(&what, &y.download(device)?, act, &expected[first * row..])?;
    }
    Ok(())
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(42), F32, [12, 2], 0)?;
    let mut y = Tensor::poison(device, F32, [2, 18])?;
    let window = Window::new([1, 3, 3]);
    let call = |extents, window, first, y: &mut Tensor| -> Result<_, Fault> {
        Ok(device.call(Im2col::new(x.view()?, extents, window, y.view_mut()?).from_position(first), None))
    };
    refused("other extents", call([1, 4, 4], window, 0, &mut y)?)?;
    refused("positions that are not there", call([1, 3, 4], window, 1, &mut y)?)?;
    refused("a stride of 0", call([1, 3, 4], Window { stride: [1, 0, 1], ..window }, 0, &mut y)?)?;
    refused("a dilation of 0", call([1, 3, 4], Window { dilation: [1, 0, 1], ..window }, 0, &mut y)?)?;
    refused("a kernel of 0", call([1, 3, 4], Window::new([0, 3, 3]), 0, &mut y)?)?;
    refused("a window that does not fit", call([1, 3, 4], Window::new([2, 3, 3]), 0, &mut y)?)?;
    let mut narrow = Tensor::poison(device, F32, [2, 17])?;
    refused("rows of another width", call([1, 3, 4], window, 0, &mut narrow)?)
}
