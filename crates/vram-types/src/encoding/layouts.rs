//! The table of layouts in which a weight has other tensors beside it. A new layout is a new entry
//! here.

use super::scale::ScaleBlocks;
use crate::DType;

/// What a tensor beside a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// What the numbers are multiplied with.
    Scale,
    /// The largest magnitude of each block, which its elements are fractions of.
    AbsMax,
    /// The values that the elements choose from.
    CodeBook,
    /// The largest magnitude of each block of `AbsMax`.
    NestedAbsMax,
    /// The values that `AbsMax` chooses from.
    NestedCodeBook,
    /// Sizes and names, as JSON.
    State,
    /// In which order the numbers are stored.
    Order,
    /// What is subtracted from the numbers.
    ZeroPoint,
}

impl Role {
    /// As messages say it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Scale => "scale",
            Role::AbsMax => "absmax",
            Role::CodeBook => "code book",
            Role::NestedAbsMax => "nested absmax",
            Role::NestedCodeBook => "nested code book",
            Role::State => "state",
            Role::Order => "order",
            Role::ZeroPoint => "zero point",
        }
    }
}

/// How a weight and the tensors beside it become numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchemeKind {
    /// Each element, an fp8 number or an 8-bit integer, times the scale of its block.
    Scaled(ScaleBlocks),
    /// Each element, an 8-bit integer, times the scale of its row over 127 (bitsandbytes'
    /// `LLM.int8`).
    ScaledOver127(ScaleBlocks),
    /// Two elements to a byte, the first in the high half, each a number of an entry of the code
    /// book, times the absmax of its block (bitsandbytes' nf4 and fp4).
    CodeBook {
        /// Whether the absmax are themselves numbers of entries of a nested code book.
        nested: bool,
    },
    /// A layout of this name, which is known and which nothing here decodes.
    Unsupported(&'static str),
}

/// What kind of scheme a layout makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scaled,
    ScaledOver127,
    CodeBook,
    Unsupported(&'static str),
}

/// The name of a tensor beside a weight.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beside {
    /// The weight's whole name, and this.
    Name(&'static str),
    /// The weight's name without the ending that the layout gives it, and this.
    Base(&'static str),
}

impl Beside {
    /// The name that it is for a weight.
    pub(super) fn of(self, weight: &str, ending: &str) -> String {
        match self {
            Beside::Name(end) => format!("{weight}{end}"),
            Beside::Base(end) => format!("{}{end}", weight.strip_suffix(ending).unwrap_or(weight)),
        }
    }
}

/// A tensor that a layout has beside the weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) name: Beside,
    /// Without it, it is another layout.
    pub(super) required: bool,
}

const fn needs(role: Role, name: Beside) -> Part {
    Part { role, name, required: true }
}

const fn may_have(role: Role, name: Beside) -> Part {
    Part { role, name, required: false }
}

/// A weight and what is beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    /// How the weight's name ends.
    pub(super) ending: &'static str,
    /// What its dtype is.
    pub(super) dtypes: &'static [DType],
    pub(super) parts: &'static [Part],
}

/// Dtypes whose numbers are of no use without a scale, if there is one.
pub(super) const FP8: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ];
const SCALED: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ, DType::I8];
const BYTES: &[DType] = &[DType::U8];
const INT8: &[DType] = &[DType::I8];
const INT32: &[DType] = &[DType::I32, DType::U32];

/// Beside a weight, and nothing that its numbers need: scales of what a layer is given or gives,
/// descriptions.
pub(super) const IGNORED: &[Beside] = &[
    Beside::Base("input_scale"),
    Beside::Base("scale_input"),
    Beside::Base("output_scale"),
    Beside::Base("scale_output"),
    Beside::Base("comfy_quant"),
];

/// The last part of the name of a tensor that says of a whole file that its weights have scales.
pub(super) const MARKER: &str = "scaled_fp8";

/// In the order in which they are looked for: what has more beside it comes first.
pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        kind: Kind::Unsupported("NVFP4"),
        ending: "weight",
        dtypes: BYTES,
        parts: &[needs(Role::Scale, Beside::Name("_scale")), needs(Role::Scale, Beside::Name("_scale_2"))],
    },
    Layout {
        kind: Kind::Unsupported("packed numbers of compressed-tensors"),
        ending: "weight_packed",
        dtypes: &[DType::U8, DType::I32],
        parts: &[
            needs(Role::Scale, Beside::Base("weight_scale")),
            may_have(Role::Scale, Beside::Base("weight_global_scale")),
            may_have(Role::ZeroPoint, Beside::Base("weight_zero_point")),
            may_have(Role::Order, Beside::Base("weight_g_idx")),
            may_have(Role::State, Beside::Base("weight_shape")),
        ],
    },
    Layout {
        kind: Kind::Unsupported("int4 of GPTQ or AWQ"),
        ending: "qweight",
        dtypes: INT32,
        parts: &[
            may_have(Role::Scale, Beside::Base("scales")),
            may_have(Role::ZeroPoint, Beside::Base("qzeros")),
            may_have(Role::Order, Beside::Base("g_idx")),
        ],
    },
    Layout {
        kind: Kind::Unsupported("MXFP4 with its scales apart"),
        ending: "_blocks",
        dtypes: BYTES,
        parts: &[needs(Role::Scale, Beside::Base("_scales"))],
    },
    Layout {
        kind: Kind::Unsupported("a tensor of torchao in its parts"),
        ending: "_weight_qdata",
        dtypes: SCALED,
        parts: &[needs(Role::Scale, Beside::Base("_weight_scale"))],
    },
    Layout {
        kind: Kind::Unsupported("a tensor of quanto in its parts"),
        ending: "._data",
        dtypes: &[DType::F8_E4M3, DType::F8_E5M2, DType::I8, DType::U8],
        parts: &[needs(Role::Scale, Beside::Base("._scale"))],
    },
    four_bits(&[
        needs(Role::AbsMax, Beside::Name(".absmax")),
        needs(Role::CodeBook, Beside::Name(".quant_map")),
        needs(Role::State, Beside::Name(".quant_state.bitsandbytes__nf4")),
        may_have(Role::NestedAbsMax, Beside::Name(".nested_absmax")),
        may_have(Role::NestedCodeBook, Beside::Name(".nested_quant_map")),
    ]),
    four_bits(&[
        needs(Role::AbsMax, Beside::Name(".absmax")),
        needs(Role::CodeBook, Beside::Name(".quant_map")),
        needs(Role::State, Beside::Name(".quant_state.bitsandbytes__fp4")),
        may_have(Role::NestedAbsMax, Beside::Name(".nested_absmax")),
        may_have(Role::NestedCodeBook, Beside::Name(".nested_quant_map")),
    ]),
    Layout {
        kind: Kind::ScaledOver127,
        ending: "weight",
        dtypes: INT8,
        parts: &[
            needs(Role::Scale, Beside::Base("SCB")),
            may_have(Role::Order, Beside::Base("weight_format")),
        ],
    },
    Layout {
        kind: Kind::ScaledOver127,
        ending: "weight",
        dtypes: INT8,
        parts: &[needs(Role::Scale, Beside::Name(".SCB"))],
    },
    scaled("", SCALED, &[needs(Role::Scale, Beside::Name("_scale"))]),
    scaled("", SCALED, &[needs(Role::Scale, Beside::Name("_scale_inv"))]),
    scaled("weight", SCALED, &[needs(Role::Scale, Beside::Base("scale_weight"))]),
    scaled("weight", FP8, &[needs(Role::Scale, Beside::Base("scale"))]),
];

const fn four_bits(parts: &'static [Part]) -> Layout {
    Layout { kind: Kind::CodeBook, ending: "", dtypes: BYTES, parts }
}

const fn scaled(ending: &'static str, dtypes: &'static [DType], parts: &'static [Part]) -> Layout {
    Layout { kind: Kind::Scaled, ending, dtypes, parts }
}
