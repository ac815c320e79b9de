//! Tensors that belong to a weight: found beside it by their names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::layouts::{FP8, IGNORED, Kind, LAYOUTS, Layout, MARKER, Part, Role, SchemeKind};
use super::scale::ScaleBlocks;
use crate::cast::can_cast;
use crate::{DType, TensorMeta};

/// A tensor that a weight's numbers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its dtype and shape.
    pub meta: TensorMeta,
}

/// How a weight is stored together with what is beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The weight's name.
    pub weight: String,
    /// How they become numbers.
    pub kind: SchemeKind,
    /// What the numbers need.
    pub companions: Vec<Companion>,
    /// Tensors beside the weight that its numbers do not need: scales of inputs and outputs,
    /// descriptions.
    pub ignored: Vec<String>,
}

impl Scheme {
    /// The companion of a role; `None` if there is none.
    pub fn companion(&self, role: Role) -> Option<&Companion> {
        self.companions.iter().find(|companion| companion.role == role)
    }
}

/// A tensor beside a weight that its numbers seem to need, and that nothing here understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCompanion {
    /// The weight.
    pub weight: String,
    /// What is beside it.
    pub companion: String,
    /// What is not understood.
    pub why: Cow<'static, str>,
}

impl fmt::Display for UnknownCompanion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownCompanion { weight, companion, why } = self;
        write!(f, "{weight:?} has {companion:?} beside it: {why}")
    }
}

impl std::error::Error for UnknownCompanion {}

/// The weights of a checkpoint that have companions; see [`companions`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    weights: BTreeMap<String, Result<Scheme, UnknownCompanion>>,
    /// The weight of each companion and of each tensor that is ignored.
    owners: HashMap<String, String>,
    markers: Vec<String>,
    leftover: Vec<String>,
}

impl Companions {
    /// How a tensor is stored if it has companions; `None` if it stands for itself.
    ///
    /// # Errors
    /// [`UnknownCompanion`] if there is something beside it that its numbers seem to need.
    pub fn of(&self, weight: &str) -> Result<Option<&Scheme>, UnknownCompanion> {
        match self.weights.get(weight) {
            Some(Ok(scheme)) => Ok(Some(scheme)),
            Some(Err(unknown)) => Err(unknown.clone()),
            None => Ok(None),
        }
    }

    /// The weight that a tensor belongs to, as a companion or as one that is ignored.
    pub fn owner(&self, companion: &str) -> Option<&str> {
        self.owners.get(companion).map(String::as_str)
    }

    /// All weights that have companions, by name.
    pub fn weights(&self) -> impl Iterator<Item = Result<&Scheme, &UnknownCompanion>> {
        self.weights.values().map(Result::as_ref)
    }

    /// Whether no tensor has companions.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Tensors that say of the whole checkpoint that its weights have scales, and nothing else.
    pub fn markers(&self) -> &[String] {
        &self.markers
    }

    /// Tensors that are named as the scales of a weight, of which there is no such weight.
    pub fn leftover(&self) -> &[String] {
        &self.leftover
    }
}

/// Finds the weights that have companions: fp8 and int8 numbers with a scale per tensor, row or
/// block, bitsandbytes' int8, nf4 and fp4; and others that are known by name alone, such as GPTQ.
/// Names and shapes are all that is looked at.
///
/// ```
/// use vram_types::encoding::{SchemeKind, companions};
/// use vram_types::{DType, TensorMeta};
///
/// let tensors = [
///     ("l.weight", TensorMeta::new(DType::F8_E4M3, [256, 128])?),
///     ("l.weight_scale_inv", TensorMeta::new(DType::F32, [2, 1])?),
///     ("l.bias", TensorMeta::new(DType::F32, [256])?),
/// ];
/// let found = companions(tensors.iter().map(|(name, _)| *name), |name| {
///     tensors.iter().find(|(other, _)| *other == name).map(|(_, meta)| meta.clone())
/// });
/// let scheme = found.of("l.weight")?.expect("it has a scale");
/// let SchemeKind::Scaled(blocks) = &scheme.kind else { panic!("{scheme:?}") };
/// assert_eq!(blocks.extents(), [128, 128]);
/// assert_eq!(found.owner("l.weight_scale_inv"), Some("l.weight"));
/// assert!(found.of("l.bias")?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn companions<'n>(
    names: impl IntoIterator<Item = &'n str>,
    locate: impl Fn(&str) -> Option<TensorMeta>,
) -> Companions {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut found = Companions::default();
    for &name in &names {
        if name.rsplit('.').next() == Some(MARKER) {
            found.markers.push(name.to_owned());
            continue;
        }
        let Some(meta) = locate(name) else { continue };
        let scheme = scheme(name, &meta, &names, &locate);
        let mut known: Vec<String> = Vec::new();
        let result = match scheme {
            Some((layout, Ok(scheme))) => {
                known.extend(scheme.companions.iter().map(|c| c.name.clone()));
                known.extend(scheme.ignored.iter().cloned());
                let is_unsupported = matches!(layout.kind, Kind::Unsupported(_));
                match unknown(name, layout.ending, &names, &known).filter(|_| !is_unsupported) {
                    Some(unknown) => Some(Err(unknown)),
                    None => Some(Ok(scheme)),
                }
            }
            Some((_, Err(unknown))) => Some(Err(unknown)),
            None if FP8.contains(&meta.dtype()) => {
                known = ignored(name, "weight", &names);
                unknown(name, "weight", &names, &known).map(Err)
            }
            None => None,
        };
        if let Some(result) = result {
            let companion = result.as_ref().err().map(|unknown| unknown.companion.clone());
            found.owners.extend(known.into_iter().chain(companion).map(|known| (known, name.to_owned())));
            found.weights.insert(name.to_owned(), result);
        }
    }
    // A companion that looks like a weight with companions of its own is none.
    let Companions { weights, owners, leftover, .. } = &mut found;
    weights.retain(|weight, _| !owners.contains_key(weight));
    let alone = |name: &&&str| is_scale(name) && !owners.contains_key(**name);
    leftover.extend(names.iter().filter(alone).map(|&name| name.to_owned()));
    found
}

/// Whether a tensor has a name that only scales of weights have.
fn is_scale(name: &str) -> bool {
    let own = name.rsplit('.').next().unwrap_or(name);
    ["weight_scale", "weight_scale_inv", "scale_weight"].contains(&own)
}

type Found = (&'static Layout, Result<Scheme, UnknownCompanion>);

/// The first layout that a tensor and what is beside it fit.
fn scheme(
    weight: &str,
    meta: &TensorMeta,
    names: &BTreeSet<&str>,
    locate: &impl Fn(&str) -> Option<TensorMeta>,
) -> Option<Found> {
    let fits = |layout: &&Layout| {
        let beside = |part: &Part| names.contains(&*part.name.of(weight, layout.ending));
        weight.ends_with(layout.ending)
            && layout.dtypes.contains(&meta.dtype())
            && layout.parts.iter().filter(|part| part.required).all(beside)
    };
    let layout = LAYOUTS.iter().find(fits)?;
    let companions: Vec<Companion> = layout
        .parts
        .iter()
        .filter_map(|part| {
            let name = part.name.of(weight, layout.ending);
            let meta = names.contains(&*name).then(|| locate(&name)).flatten()?;
            Some(Companion { role: part.role, name, meta })
        })
        .collect();
    let kind = match kind(layout.kind, meta, &companions) {
        Ok(kind) => kind,
        Err((companion, why)) => {
            let unknown = UnknownCompanion { weight: weight.to_owned(), companion, why: why.into() };
            return Some((layout, Err(unknown)));
        }
    };
    let ignored = ignored(weight, layout.ending, names);
    Some((layout, Ok(Scheme { weight: weight.to_owned(), kind, companions, ignored })))
}

/// What a layout makes of shapes and dtypes; else which companion does not fit, and why.
fn kind(kind: Kind, weight: &TensorMeta, companions: &[Companion]) -> Result<SchemeKind, (String, String)> {
    let of = |role| companions.iter().find(|companion| companion.role == role);
    let first = |companion: Option<&Companion>| companion.map_or(String::new(), |c| c.name.clone());
    let scale = || {
        let scale = of(Role::Scale).ok_or_else(|| (String::new(), "there is no scale".to_owned()))?;
        let (dtype, shape) = (scale.meta.dtype(), scale.meta.shape());
        if !can_cast(dtype, DType::F32) {
            return Err((scale.name.clone(), format!("a scale of the dtype {dtype} is not understood")));
        }
        ScaleBlocks::new(weight.shape(), shape).ok_or_else(|| {
            let weight = weight.shape();
            let why = format!("a scale of the shape {shape} does not fit a weight of the shape {weight}");
            (scale.name.clone(), why)
        })
    };
    match kind {
        Kind::Unsupported(what) => Ok(SchemeKind::Unsupported(what)),
        Kind::Scaled => Ok(SchemeKind::Scaled(scale()?)),
        Kind::ScaledOver127 => Ok(SchemeKind::ScaledOver127(scale()?)),
        Kind::CodeBook => {
            let nested = [of(Role::NestedAbsMax), of(Role::NestedCodeBook)];
            match nested {
                [None, None] => Ok(SchemeKind::CodeBook { nested: false }),
                [Some(_), Some(_)] => Ok(SchemeKind::CodeBook { nested: true }),
                [one, other] => Err((
                    first(one.or(other)),
                    "of nested absmax and nested code book there is one alone".to_owned(),
                )),
            }
        }
    }
}

/// What is beside a weight and is not needed.
fn ignored(weight: &str, ending: &str, names: &BTreeSet<&str>) -> Vec<String> {
    let ending = if ending.is_empty() { "weight" } else { ending };
    let beside = IGNORED.iter().map(|name| name.of(weight, ending));
    beside.filter(|name| name != weight && names.contains(name.as_str())).collect()
}

/// A tensor beside a weight that looks as if its numbers needed it, and is not `known`.
fn unknown(weight: &str, ending: &str, names: &BTreeSet<&str>, known: &[String]) -> Option<UnknownCompanion> {
    const TELLING: [&str; 5] = ["scale", "scalar", "absmax", "zero_point", "quant_map"];
    let base = weight.strip_suffix(if ending.is_empty() { "weight" } else { ending });
    let from = base.filter(|base| base.ends_with('.')).unwrap_or(weight);
    let beside = names.range(from..).take_while(|name| name.starts_with(from));
    let suspect = |name: &&&str| {
        let rest = &name[from.len()..];
        // Below the weight's own name anything, beside it only what is on the same level.
        let near = name.starts_with(weight) || !rest.contains('.');
        let telling = TELLING.iter().any(|word| rest.contains(word));
        **name != weight && near && telling && !known.iter().any(|known| known == **name)
    };
    let companion = beside.into_iter().find(suspect)?;
    Some(UnknownCompanion {
        weight: weight.to_owned(),
        companion: (*companion).to_owned(),
        why: Cow::Borrowed("it looks as if the weight's numbers needed it, and is not understood"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tensors: &[(&str, DType, &[usize])]) -> Companions {
        let meta = |name: &str| {
            let (_, dtype, shape) = tensors.iter().find(|t| t.0 == name)?;
            Some(TensorMeta::new(*dtype, *shape).unwrap())
        };
        companions(tensors.iter().map(|t| t.0), meta)
    }

    fn blocks(tensors: &[(&str, DType, &[usize])], scale: &str, expected: &[u64]) {
        let found = found(tensors);
        let scheme = found.of(tensors[0].0).unwrap().unwrap_or_else(|| panic!("{tensors:?}"));
        let (SchemeKind::Scaled(blocks) | SchemeKind::ScaledOver127(blocks)) = &scheme.kind else {
            panic!("{scheme:?}")
        };
        assert_eq!(blocks.extents(), expected, "{tensors:?}");
        assert_eq!(scheme.companion(Role::Scale).unwrap().name, scale);
        assert_eq!(found.owner(scale), Some(tensors[0].0));
    }

    const FP8: DType = DType::F8_E4M3;
    const F32: DType = DType::F32;

    #[test]
    fn scales_under_the_names_in_circulation() {
        let weight = ("l.weight", FP8, &[256, 128][..]);
        for (name, shape, expected) in [
            ("l.weight_scale", &[][..], [256, 128]),
            ("l.weight_scale", &[256], [1, 128]),
            ("l.weight_scale", &[256, 1], [1, 128]),
            ("l.scale_weight", &[1], [256, 128]),
            ("l.weight_scale_inv", &[2, 1], [128, 128]),
            ("l.scale", &[2, 1], [128, 128]),
        ] {
            let others = ("l.input_scale", F32, &[][..]);
            blocks(&[weight, (name, DType::BF16, shape), others, ("m.scale", F32, &[9])], name, &expected);
        }
        blocks(&[("w", FP8, &[2, 4]), ("w_scale_inv", F32, &[])], "w_scale_inv", &[2, 4]);
        blocks(&[("l.weight", DType::I8, &[4, 8]), ("l.SCB", F32, &[4])], "l.SCB", &[1, 8]);
        blocks(
            &[("l.weight", DType::I8, &[4, 8]), ("l.weight_scale", F32, &[4, 1])],
            "l.weight_scale",
            &[1, 8],
        );
    }

    #[test]
    fn what_is_not_needed_is_ignored_by_name() {
        let comfy = found(&[
            ("l.weight", FP8, &[2, 2]),
            ("l.scale_weight", F32, &[]),
            ("l.scale_input", F32, &[]),
            ("scaled_fp8", FP8, &[2]),
        ]);
        let scheme = comfy.of("l.weight").unwrap().unwrap();
        assert_eq!(scheme.ignored, ["l.scale_input"]);
        assert_eq!(comfy.markers(), ["scaled_fp8"]);
        assert_eq!(comfy.owner("l.scale_input"), Some("l.weight"));
        assert_eq!(comfy.weights().count(), 1);
        // Without a scale, fp8 is a dtype like any other; a scale of the input alone changes
        // nothing.
        let plain = found(&[("l.weight", FP8, &[2, 2]), ("l.input_scale", F32, &[]), ("l.bias", F32, &[2])]);
        assert_eq!(plain.of("l.weight"), Ok(None));
        assert!(found(&[("n.weight", DType::BF16, &[2]), ("n.scale", F32, &[2])]).is_empty());
        assert_eq!(comfy.leftover(), [""; 0]);
    }

    #[test]
    fn a_scale_of_no_weight_is_left_over() {
        let renamed = found(&[("new.weight", FP8, &[2, 2]), ("old.weight_scale", F32, &[])]);
        assert_eq!(
            (renamed.of("new.weight"), renamed.leftover()),
            (Ok(None), &["old.weight_scale".into()][..])
        );
        // Scales of an embedding or a norm are called so too.
        assert!(found(&[("n.scale", F32, &[2])]).leftover().is_empty());
    }

    #[test]
    fn what_nobody_understands_is_named() {
        let unknown = |tensors: &[(&str, DType, &[usize])], companion: &str, says: &str| {
            let found = found(tensors);
            let error = found.of(tensors[0].0).unwrap_err();
            assert_eq!((error.weight.as_str(), error.companion.as_str()), (tensors[0].0, companion));
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(found.owner(companion), Some(tensors[0].0));
        };
        let weight = ("l.weight", FP8, &[2, 2][..]);
        unknown(&[weight, ("l.weight_scalar", F32, &[])], "l.weight_scalar", "not understood");
        unknown(&[weight, ("l.weight.scale", F32, &[])], "l.weight.scale", "not understood");
        unknown(&[weight, ("l.weight_scale", F32, &[3])], "l.weight_scale", "[3] does not fit");
        unknown(&[weight, ("l.weight_scale", DType::U8, &[2, 2])], "l.weight_scale", "dtype U8");
        let two = [weight, ("l.weight_scale", F32, &[][..]), ("l.scale_weight", F32, &[])];
        unknown(&two, "l.scale_weight", "not understood");
        let zero = [weight, ("l.weight_scale", F32, &[][..]), ("l.weight_zero_point", F32, &[])];
        unknown(&zero, "l.weight_zero_point", "not understood");
        let nf4 = ("l.weight", DType::U8, &[4, 1][..]);
        let half = [
            nf4,
            ("l.weight.absmax", DType::U8, &[1][..]),
            ("l.weight.quant_map", F32, &[16]),
            ("l.weight.nested_absmax", F32, &[1]),
            ("l.weight.quant_state.bitsandbytes__nf4", DType::U8, &[3]),
        ];
        unknown(&half, "l.weight.nested_absmax", "one alone");
    }

    #[test]
    fn schemes_that_are_more_than_a_scale() {
        let kind = |tensors: &[(&str, DType, &[usize])]| {
            let found = found(tensors);
            let scheme = found.of(tensors[0].0).unwrap().unwrap_or_else(|| panic!("{tensors:?}"));
            (scheme.kind.clone(), scheme.companions.len())
        };
        let nf4 = [
            ("l.weight", DType::U8, &[4, 1][..]),
            ("l.weight.absmax", F32, &[1]),
            ("l.weight.quant_map", F32, &[16]),
            ("l.weight.quant_state.bitsandbytes__nf4", DType::U8, &[3]),
            ("l.weight.nested_absmax", F32, &[1]),
            ("l.weight.nested_quant_map", F32, &[256]),
        ];
        assert_eq!(kind(&nf4), (SchemeKind::CodeBook { nested: true }, 5));
        assert_eq!(kind(&nf4[..4]), (SchemeKind::CodeBook { nested: false }, 3));
        let unsupported = |tensors: &[(&str, DType, &[usize])], says: &str, count: usize| match kind(tensors)
        {
            (SchemeKind::Unsupported(what), n) => assert!(what.contains(says) && n == count, "{what} {n}"),
            other => panic!("{other:?}"),
        };
        unsupported(&[("q.qweight", DType::I32, &[1])], "GPTQ", 0);
        let gptq = [
            ("q.qweight", DType::I32, &[8, 4][..]),
            ("q.qzeros", DType::I32, &[1, 1]),
            ("q.scales", DType::F16, &[1, 4]),
            ("q.g_idx", DType::I32, &[64]),
        ];
        unsupported(&gptq, "GPTQ", 3);
        let nvfp4 = [
            ("l.weight", DType::U8, &[4, 4][..]),
            ("l.weight_scale", FP8, &[4, 1]),
            ("l.weight_scale_2", F32, &[]),
        ];
        unsupported(&nvfp4, "NVFP4", 2);
        // The scale is fp8 and has a scale of its own: it is a companion, and no weight.
        assert_eq!(found(&nvfp4).weights().count(), 1);
        unsupported(&[("e.up_blocks", DType::U8, &[1]), ("e.up_scales", DType::U8, &[1])], "MXFP4", 1);
    }
}
