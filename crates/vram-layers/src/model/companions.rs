//! Tensors that a weight's numbers need: accepted, or refused by name.

use vram_types::encoding::{Companions, Role, SchemeKind, companions};
use vram_types::{DType, WeightSource};

use crate::error::Error;
use crate::spec::Scales;

/// The companion tensors of a checkpoint.
pub(crate) struct Beside<'s> {
    source: &'s dyn WeightSource,
    companions: Companions,
}

impl<'s> Beside<'s> {
    /// Looks through the names of a checkpoint, before any conversion of its dtypes.
    pub(crate) fn of(source: &'s dyn WeightSource) -> Beside<'s> {
        let companions = companions(source.names(), |name| Some(source.locate(name)?.meta));
        Beside { source, companions }
    }

    /// The scales of a weight that is `read` as this dtype; `None` if it needs none.
    ///
    /// # Errors
    /// [`Error::Companions`] if the numbers need more than a scale, if something is unknown or missing, and
    /// if they would be converted without their scale.
    pub(crate) fn scales(&self, weight: &str, read: DType) -> Result<Option<Scales>, Error> {
        let refuse = |found: &str, why: String| {
            Err(Error::Companions { weight: weight.to_owned(), found: found.to_owned(), why })
        };
        let scheme = match self.companions.of(weight) {
            Ok(Some(scheme)) => scheme,
            Ok(None) => return self.missing(weight).map_or(Ok(None), Err),
            Err(unknown) => return refuse(&unknown.companion, unknown.why.into_owned()),
        };
        let found = scheme.companion(Role::Scale).or(scheme.companions.first());
        let found = found.map_or(weight, |companion| &companion.name);
        let stored = self.source.locate(weight).map_or(read, |located| located.meta.dtype());
        match &scheme.kind {
            SchemeKind::Scaled(blocks) if is_fp8(stored) && stored == read => {
                Ok(Some(Scales { name: found.to_owned(), blocks: blocks.clone() }))
            }
            SchemeKind::Scaled(_) if is_fp8(stored) => {
                let what = format!("numbers of {stored} cannot be stored as {read} without their scales");
                refuse(found, format!("{what}; {DECODE}"))
            }
            SchemeKind::Unsupported(what) => refuse(found, format!("it is {what}, which is not supported")),
            SchemeKind::CodeBook { .. } => refuse(
                found,
                format!("weights with a code book are not decoded while they are read; {DECODE}"),
            ),
            _ => refuse(
                found,
                format!("scales of {stored} weights are not applied while they are read; {DECODE}"),
            ),
        }
    }

    /// The error for a missing weight, if tensors in its place show another form of it.
    pub(crate) fn instead_of(&self, weight: &str) -> Option<Error> {
        let base = |name: &str| name.rsplit_once('.').map_or(String::new(), |(base, _)| base.to_owned());
        let own = base(weight);
        let named = |name: &&str| base(name) == own && !own.is_empty();
        let known = self.companions.weights().map(|known| known.map_or_else(|e| &*e.weight, |s| &*s.weight));
        let other = known.into_iter().find(|name| named(name))?;
        self.scales(other, self.source.locate(other)?.meta.dtype()).err()
    }

    /// The error for an fp8 weight without a scale, if something indicates that there should be one.
    fn missing(&self, weight: &str) -> Option<Error> {
        if !is_fp8(self.source.locate(weight)?.meta.dtype()) {
            return None;
        }
        let concerns = |marker: &&String| {
            let prefix = marker.rsplit_once('.').map_or(0, |(prefix, _)| prefix.len() + 1);
            weight.starts_with(&marker[..prefix])
        };
        let (found, why) = match self.companions.markers().iter().find(concerns) {
            Some(marker) => (marker, "it says that weights have scales, but this one has none"),
            None => {
                (self.companions.leftover().first()?, "it is a scale of no weight, but this weight has none")
            }
        };
        Some(Error::Companions { weight: weight.to_owned(), found: found.clone(), why: why.to_owned() })
    }
}

/// What to do about weights that are not decoded while they are read.
pub(crate) const DECODE: &str = "`vram extract --dtype bf16` writes a checkpoint of decoded weights";

fn is_fp8(dtype: DType) -> bool {
    matches!(dtype, DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E4M3FNUZ | DType::F8_E5M2FNUZ)
}
