//! Decides which weights keep their stored encoding, as quantised blocks or with scales: once, when a model
//! is put under management.

use std::collections::{BTreeMap, HashMap, HashSet};

use vram_alloc::ParamId;
use vram_device::{DeviceError, Kernels, View, ViewMut, ops};
use vram_types::{DType, Encoding, Located, Shape, TensorMeta};

use crate::Error;
use crate::layers::Decodes;
use crate::model::binding::Bindings;
use crate::model::companions::DECODE;
use crate::observe::report::DecodedOnHost;
use crate::spec::{LayerId, LayerSpec, Scales, kept};

/// The modules that use a parameter: one entry for each, `None` for a module that is not known to decode.
pub(crate) type Uses = HashMap<ParamId, HashSet<Option<Decodes>>>;

/// A tensor that its source stores in blocks, or with separate scales.
pub(crate) struct Candidate {
    layer: LayerId,
    index: usize,
    name: String,
    located: Located,
    scales: Option<Scales>,
    uses: HashSet<Option<Decodes>>,
}

impl Candidate {
    /// `None` for a tensor that is neither in blocks nor has scales, or that is read unchanged.
    pub(crate) fn of(
        (layer, index): (LayerId, usize),
        name: &str,
        located: &Located,
        scales: Option<Scales>,
        uses: HashSet<Option<Decodes>>,
    ) -> Option<Candidate> {
        let in_blocks = located.ranges.is_empty() && matches!(stored(located), Encoding::Blocks(_));
        (in_blocks || scales.is_some()).then(|| {
            let (name, located) = (name.to_owned(), located.clone());
            Candidate { layer, index, name, located, scales, uses }
        })
    }
}

/// How a tensor is stored.
fn stored(located: &Located) -> Encoding {
    located.encoded.as_ref().map_or(located.meta.dtype().into(), |stored| stored.encoding)
}

/// Keeps those tensors encoded that the device decodes while it computes in `act`. The source decodes the
/// blocks of all others, and the return value says why; no source multiplies with scales.
///
/// # Errors
/// [`Error::Companions`] for a weight with scales that the device cannot apply.
pub(crate) fn keep_encoded(
    candidates: Vec<Candidate>,
    layers: &mut [LayerSpec],
    bindings: &mut Bindings,
    kernels: &dyn Kernels,
    act: DType,
) -> Result<Vec<DecodedOnHost>, Error> {
    let mut kept_as: HashMap<(LayerId, usize), Encoding> = HashMap::new();
    let mut decoded: BTreeMap<(&str, String), DecodedOnHost> = BTreeMap::new();
    for Candidate { layer, index, name, located, scales, uses } in candidates {
        let (meta, spec) = (&located.meta, &mut layers[layer.0]);
        if let Some(scales) = scales {
            let encoding = Encoding::Scaled(meta.dtype());
            decodes(kernels, encoding, meta.shape(), &uses, act).map_err(|why| Error::Companions {
                weight: name.clone(),
                found: scales.name.clone(),
                why: format!("{why}; {DECODE}"),
            })?;
            kept_as.insert((layer, index), encoding);
            spec.add_scales(name, scales);
            continue;
        }
        let stored = stored(&located);
        match kept(&located).and_then(|_| decodes(kernels, stored, meta.shape(), &uses, act)) {
            Ok(()) => {
                kept_as.insert((layer, index), stored);
                spec.add_encoded(name);
            }
            Err(why) => {
                let of = decoded.entry((stored.name(), why.clone())).or_insert_with(|| DecodedOnHost {
                    encoding: stored.name().to_owned(),
                    why,
                    tensors: 0,
                    bytes: 0,
                });
                of.tensors += 1;
                of.bytes += meta.bytes();
            }
        }
    }
    for binding in bindings.values_mut() {
        if let Some(&encoding) = kept_as.get(&(binding.layer, binding.index)) {
            binding.encoding = encoding;
        }
    }
    for DecodedOnHost { encoding, tensors, why, .. } in decoded.values() {
        tracing::info!(encoding, tensors, why, "decoded on the host");
    }
    Ok(decoded.into_values().collect())
}

/// Whether the device has kernels for everything that is done with a weight.
fn decodes(
    kernels: &dyn Kernels,
    encoding: Encoding,
    shape: &Shape,
    uses: &HashSet<Option<Decodes>>,
    act: DType,
) -> Result<(), String> {
    let &[rows, width] = shape.dims() else {
        return Err(format!("a tensor of shape {shape} is not a matrix"));
    };
    let takes = |op: Result<ops::Op<'_>, DeviceError>| -> Result<(), DeviceError> { kernels.takes(&op?) };
    let weight = || View::encoded_absent(shape.clone(), encoding);
    let x = |shape: [usize; 2]| Ok::<_, DeviceError>(TensorMeta::new(act, shape)?);
    let linear = || {
        let (x, y) = (View::absent(x([1, width])?), ViewMut::absent(x([1, rows])?));
        Ok(ops::Linear::new(x, weight()?, y).into())
    };
    let gather = || Ok(ops::Gather::new(weight()?, &[], ViewMut::absent(x([0, width])?)).into());
    // Rows of a table that is not on the device, and a weight that is requested as a tensor.
    let cast = || Ok(ops::Cast::new(weight()?, ViewMut::absent(x([rows, width])?)).into());
    for used in uses {
        match used {
            Some(Decodes::Linear) => takes(linear()),
            Some(Decodes::Gather) => takes(gather()),
            None => return Err("it is not used only by a Linear or an Embedding".to_owned()),
        }
        .and_then(|()| takes(cast()))
        .map_err(|e| e.to_string())?;
    }
    Ok(())
}
