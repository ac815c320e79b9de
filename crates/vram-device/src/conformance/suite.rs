//! What is checked of one operation.

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault};
use super::tensors::Random;
use crate::Kernels;

/// Dtypes that every backend takes.
pub(super) const ACTS: [DType; 2] = [DType::F32, DType::BF16];
pub(super) const WEIGHTS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// What is checked of one operation.
#[derive(Clone, Copy)]
pub(super) struct Suite {
    /// Its name in errors.
    pub(super) operation: &'static str,
    /// Its documentation, which begins with the formula.
    pub(super) doc: &'static str,
    /// What a backend can have or lack separately.
    pub(super) variants: &'static [Variant],
    /// What does not fit is an error, neither a panic nor a guess.
    pub(super) refusals: Case,
}

impl Suite {
    /// A case for each variant.
    pub(super) fn cases(&self) -> impl Iterator<Item = Case> {
        let operation = self.operation;
        self.variants.iter().map(move |variant| {
            let case = Case::new(variant.name, variant.check);
            if variant.optional { case.optional(operation) } else { case }
        })
    }

    /// The operation's name, if a backend may lack the variant.
    pub(super) fn optional(&self, variant: &Variant) -> Option<&'static str> {
        variant.optional.then_some(self.operation)
    }

    /// The formula: the first paragraph of the documentation, on one line.
    pub(super) fn formula(&self) -> String {
        let paragraph = self.doc.split("\n\n").next().unwrap_or_default();
        paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// An operation, or what is particular about some of its uses.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    /// The operation's name and, behind a colon, what is particular.
    pub(super) name: &'static str,
    optional: bool,
    check: fn(&dyn Kernels) -> Result<(), Fault>,
    random: Draws,
}

impl Variant {
    /// One that every backend has: a check on chosen shapes, and one on a shape drawn at random.
    pub(super) const fn required(
        name: &'static str,
        check: fn(&dyn Kernels) -> Result<(), Fault>,
        random: Draws,
    ) -> Variant {
        Variant { name, optional: false, check, random }
    }

    /// One that a backend may refuse as [`Unsupported`](crate::DeviceError::Unsupported).
    pub(super) const fn optional(
        name: &'static str,
        check: fn(&dyn Kernels) -> Result<(), Fault>,
        random: Draws,
    ) -> Variant {
        Variant { name, optional: true, check, random }
    }

    /// What is particular, if anything.
    pub(super) fn label(&self) -> &'static str {
        self.name.split_once(": ").map_or("", |(_, label)| label)
    }

    /// On one random shape in each pair of dtypes.
    pub(super) fn draw(
        &self,
        device: &dyn Kernels,
        random: &mut Random,
        act: DType,
        weights: &[DType],
    ) -> Result<(), Fault> {
        match self.random {
            Draws::ForWeights(check) => {
                weights.iter().try_for_each(|&stored| check(device, random, (act, stored)))
            }
            Draws::ForActs(check) => check(device, random, act),
        }
    }

    /// On one random shape in f32.
    pub(super) fn draw_once(&self, device: &dyn Kernels) -> Result<(), Fault> {
        self.draw(device, &mut Random::new(1), F32, &[F32])
    }
}

/// A check on random shapes.
#[derive(Clone, Copy)]
pub(super) enum Draws {
    /// For each pair of a compute dtype and a storage dtype.
    ForWeights(Draw<(DType, DType)>),
    /// For each compute dtype.
    ForActs(Draw<DType>),
}

/// Draws a shape and checks the operation on it, in some dtypes.
type Draw<D> = fn(&dyn Kernels, &mut Random, D) -> Result<(), Fault>;

/// 1 to `most`: as often a small one as a large one, odd ones among both.
pub(super) fn extent(random: &mut Random, most: usize) -> usize {
    let most = if random.next() >> 63 == 0 { most } else { most.min(7) };
    1 + below(random, most)
}

pub(super) fn below(random: &mut Random, n: usize) -> usize {
    (random.next() >> 33) as usize % n
}
