//! The checks of one operation.

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault};
use super::tensors::Random;
use crate::Kernels;

/// Dtypes that every backend takes.
pub(super) const ACTS: [DType; 2] = [DType::F32, DType::BF16];
pub(super) const WEIGHTS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// The checks of one operation.
#[derive(Clone, Copy)]
pub(super) struct Suite {
    /// Its name in errors.
    pub(super) operation: &'static str,
    /// Its documentation, which begins with the formula.
    pub(super) doc: &'static str,
    /// The variants that a backend can have or lack separately.
    pub(super) variants: &'static [Variant],
    /// Operands that do not fit must give an error, neither a panic nor a guess.
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

    /// The operation's name, if the variant is optional.
    pub(super) fn optional(&self, variant: &Variant) -> Option<&'static str> {
        variant.optional.then_some(self.operation)
    }

    /// The formula: the first paragraph of the documentation, on one line.
    pub(super) fn formula(&self) -> String {
        let paragraph = self.doc.split("\n\n").next().unwrap_or_default();
        paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// An operation, or a special use of it.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    /// The operation's name and, after a colon, the special use.
    pub(super) name: &'static str,
    optional: bool,
    check: fn(&dyn Kernels) -> Result<(), Fault>,
    random: Draws,
}

impl Variant {
    /// A variant that every backend has, with a check on chosen shapes and one on a random shape.
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

    /// The special use, if any.
    pub(super) fn label(&self) -> &'static str {
        self.name.split_once(": ").map_or("", |(_, label)| label)
    }

    /// Checks one random shape in each pair of dtypes.
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

    /// Checks one random shape in f32.
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

/// A random extent of 1 to `most`. Small and large ones are equally likely, and some of both are odd.
pub(super) fn extent(random: &mut Random, most: usize) -> usize {
    let most = if random.next() >> 63 == 0 { most } else { most.min(7) };
    1 + below(random, most)
}

pub(super) fn below(random: &mut Random, n: usize) -> usize {
    (random.next() >> 33) as usize % n
}
