//! What becomes of each tensor under a cast: of those that stand for themselves, of weights with
//! companions, and of companions.

use std::collections::HashSet;

use vram_types::cast::can_cast;
use vram_types::encoding::{Companions, companions};
use vram_types::{
    DType, ReadOptions, SourceError, SourceErrorKind, TensorMeta, WeightSource, WeightSourceExt,
};

use crate::write::copying::Way;
use crate::write::decoding::Decoding;

/// The companions of what is copied.
pub(super) struct Beside {
    dtype: Option<DType>,
    companions: Companions,
    /// Weights that are decoded.
    decoded: HashSet<String>,
    /// Companions of weights that stay as they are, and so stay themselves.
    kept: HashSet<String>,
    left_out: HashSet<String>,
}

impl Beside {
    /// Of tensors that are to be cast to `dtype`, if any is asked for.
    pub(super) fn new(
        source: &dyn WeightSource,
        names: &[&str],
        dtype: Option<DType>,
    ) -> Result<Beside, SourceError> {
        let (decoded, kept, left_out) = Default::default();
        let mut beside = Beside { dtype, companions: Companions::default(), decoded, kept, left_out };
        let Some(to) = dtype else { return Ok(beside) };
        beside.companions = companions(source.names(), |name| Some(source.locate(name)?.meta));
        let copied: HashSet<&str> = names.iter().copied().collect();
        for &name in names {
            let scheme = beside.companions.of(name).map_err(|unknown| {
                let message = format!("{unknown}; a cast alone might be wrong");
                SourceError::new(SourceErrorKind::Unsupported, message).at_tensor(name)
            })?;
            let Some(scheme) = scheme else { continue };
            let all = scheme.companions.iter().map(|c| &c.name).chain(&scheme.ignored).cloned();
            match source.require(name)?.meta.dtype() == to {
                true => beside.kept.extend(all),
                false => {
                    beside.decoded.insert(name.to_owned());
                    beside.left_out.extend(all.filter(|name| copied.contains(name.as_str())));
                }
            }
        }
        if !beside.decoded.is_empty() {
            beside.left_out.extend(beside.companions.markers().iter().cloned());
        } else {
            beside.kept.extend(beside.companions.markers().iter().cloned());
        }
        // One that belongs to a weight that stays, too, stays.
        let Beside { kept, left_out, .. } = &mut beside;
        left_out.retain(|name| !kept.contains(name));
        Ok(beside)
    }

    /// Whether a tensor is not copied, because it has been applied to the weight that it belongs
    /// to.
    pub(super) fn is_left_out(&self, name: &str) -> bool {
        self.left_out.contains(name)
    }

    /// How a tensor is copied.
    pub(super) fn way(
        &self,
        source: &dyn WeightSource,
        name: &str,
        options: &ReadOptions,
    ) -> Result<Way, SourceError> {
        let located = source.require(name)?;
        let place = match located.ranges.as_slice() {
            [only] => Some(only.offset),
            _ => None,
        };
        let from = located.meta;
        if let (Some(dtype), true) = (self.dtype, self.decoded.contains(name))
            && let Ok(Some(scheme)) = self.companions.of(name)
        {
            let (decoding, shape) = Decoding::new(source, scheme, options)?;
            let to = cast(DType::F32, &TensorMeta::new(DType::F32, shape)?, dtype);
            let to = to.map_err(|e| e.at_tensor(name))?;
            return Ok(Way { from, to, place, decoding: Some(decoding) });
        }
        let to = match self.dtype {
            Some(to) if from.dtype().is_float() && !self.kept.contains(name) => to,
            _ => from.dtype(),
        };
        let to = cast(from.dtype(), &from, to).map_err(|e| e.at_tensor(name))?;
        Ok(Way { from, to, place, decoding: None })
    }
}

fn cast(from: DType, meta: &TensorMeta, to: DType) -> Result<TensorMeta, SourceError> {
    if !can_cast(from, to) {
        let message = format!("there is no conversion from {from} to {to}");
        return Err(SourceError::new(SourceErrorKind::Unsupported, message));
    }
    Ok(TensorMeta::new(to, meta.shape().clone())?)
}
