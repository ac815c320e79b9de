//! [`Rotary`].

use vram_types::DType;
use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, below, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::{Rotary, RotaryForm};
use crate::{Kernels, KernelsExt};

/// One of the forms.
macro_rules! form {
    ($name:literal, $form:ident) => {
        Variant::required(
            $name,
            |device| on_chosen(device, RotaryForm::$form),
            Draws::ForActs(|device, random, act| {
                let (pairs, rest) = (extent(random, 20), below(random, 6));
                let shape = (extent(random, 20), extent(random, 4), 2 * pairs + rest);
                rotary_of(device, random, (RotaryForm::$form, act), shape, 2 * pairs)
            }),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "rotary",
    doc: Rotary::DOC,
    variants: &[form!("rotary: halves", Halves), form!("rotary: interleaved", Interleaved)],
    refusals: Case::new("refusals: rotary", refusals),
};

fn on_chosen(device: &dyn Kernels, form: RotaryForm) -> Result<(), Fault> {
    let mut random = Random::new(37);
    for act in ACTS {
        for (shape, turned) in
            [((1, 1, 2), 2), ((7, 3, 16), 16), ((5, 2, 11), 6), ((3, 2, 5), 0), ((300, 2, 120), 64)]
        {
            rotary_of(device, &mut random, (form, act), shape, turned)?;
        }
    }
    Ok(())
}

/// Heads of `dim` elements, of which the first `turned` are rotated.
fn rotary_of(
    device: &dyn Kernels,
    random: &mut Random,
    (form, act): (RotaryForm, DType),
    (tokens, heads, dim): (usize, usize, usize),
    turned: usize,
) -> Result<(), Fault> {
    let table = Tensor::random(device, random, F32, [tokens, turned], 0)?;
    let mut x = Tensor::random(device, random, act, [tokens, heads * dim], 0)?;
    let mut expected: Vec<_> = x.values.iter().map(|v| (*v, v.abs())).collect();
    for (token, head) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let start = (token * heads + head) * dim;
        for pair in 0..turned / 2 {
            let (i, j) = match form {
                RotaryForm::Halves => (pair, pair + turned / 2),
                RotaryForm::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (a, b) = (x.values[start + i], x.values[start + j]);
            let angle = |at: usize| table.values[token * turned + at];
            let (cos, sin) = (angle(pair), angle(pair + turned / 2));
            expected[start + i] = (a * cos - b * sin, (a * cos).abs() + (b * sin).abs());
            expected[start + j] = (b * cos + a * sin, (b * cos).abs() + (a * sin).abs());
        }
    }
    device.call(Rotary::new(form, table.view()?, heads, x.view_mut()?), None)?;
    let what = format!("{form:?} {act}, {tokens} tokens, {heads} heads of {dim}, {turned} turned");
    near(&what, &x.download(device)?, act, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(38);
    let mut x = Tensor::random(device, &mut random, F32, [4, 8], 0)?;
    let mut call = |dtype: DType, shape: [usize; 2], heads: usize| -> Result<_, Fault> {
        let table = Tensor::random(device, &mut random, dtype, shape, 0)?;
        Ok(device.call(Rotary::new(RotaryForm::Halves, table.view()?, heads, x.view_mut()?), None))
    };
    refused("a table of fewer rows", call(F32, [3, 4], 2)?)?;
    refused("a table of odd width", call(F32, [4, 3], 2)?)?;
    refused("a table wider than a head", call(F32, [4, 6], 2)?)?;
    refused("a table in another dtype", call(BF16, [4, 4], 2)?)?;
    refused("heads that do not divide the width", call(F32, [4, 2], 3)?)
}
