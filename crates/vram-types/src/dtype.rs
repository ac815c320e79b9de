//! Element types of stored tensors.

use std::fmt;
use std::str::FromStr;

/// The type of a tensor's elements: the 22 dtypes of the safetensors format.
///
/// Sizes are in bits, because `F4` and the `F6` types are smaller than a byte; see [`DType::layout`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
#[non_exhaustive]
#[allow(non_camel_case_types)] // the format's own spelling
pub enum DType {
    /// A byte that is 0 or 1.
    BOOL,
    /// 4-bit float (e2m1), two to a byte.
    F4,
    /// 6-bit float with 2 exponent bits and 3 of mantissa, four to three bytes.
    F6_E2M3,
    /// 6-bit float with 3 exponent bits and 2 of mantissa, four to three bytes.
    F6_E3M2,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// 8-bit float, 5 exponent bits, with infinities (OCP).
    F8_E5M2,
    /// 8-bit float, 4 exponent bits, finite with one NaN of each sign (OCP; PyTorch's `float8_e4m3fn`).
    F8_E4M3,
    /// 8-bit power of two, a scale (OCP MX).
    F8_E8M0,
    /// 8-bit float, 4 exponent bits, no negative zero (Graphcore, AMD).
    F8_E4M3FNUZ,
    /// 8-bit float, 5 exponent bits, no negative zero (Graphcore, AMD).
    F8_E5M2FNUZ,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE half precision.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE single precision.
    F32,
    /// Complex number of two `F32`.
    C64,
    /// IEEE double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

/// How elements lie in memory: `block_elements` of them take `block_bytes` together and are never split.
///
/// `F32` is `{1, 4}`, `F4` is `{2, 1}`; quantised blocks of other formats (144 bytes for 256 elements) fit the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElementLayout {
    /// Elements in the smallest piece that is a whole number of bytes.
    pub block_elements: u32,
    /// Bytes of that piece.
    pub block_bytes: u32,
}

impl DType {
    /// Every dtype, in the order of the format's own list.
    pub const ALL: [DType; 22] = [
        DType::BOOL,
        DType::F4,
        DType::F6_E2M3,
        DType::F6_E3M2,
        DType::U8,
        DType::I8,
        DType::F8_E5M2,
        DType::F8_E4M3,
        DType::F8_E8M0,
        DType::F8_E4M3FNUZ,
        DType::F8_E5M2FNUZ,
        DType::I16,
        DType::U16,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::U32,
        DType::F32,
        DType::C64,
        DType::F64,
        DType::I64,
        DType::U64,
    ];

    /// Size of one element in bits.
    pub const fn bits(self) -> u32 {
        match self {
            DType::F4 => 4,
            DType::F6_E2M3 | DType::F6_E3M2 => 6,
            DType::BOOL
            | DType::U8
            | DType::I8
            | DType::F8_E5M2
            | DType::F8_E4M3
            | DType::F8_E8M0
            | DType::F8_E4M3FNUZ
            | DType::F8_E5M2FNUZ => 8,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 16,
            DType::I32 | DType::U32 | DType::F32 => 32,
            DType::C64 | DType::F64 | DType::I64 | DType::U64 => 64,
        }
    }

    /// The smallest whole number of bytes and how many elements it holds.
    pub const fn layout(self) -> ElementLayout {
        match self.bits() {
            4 => ElementLayout { block_elements: 2, block_bytes: 1 },
            6 => ElementLayout { block_elements: 4, block_bytes: 3 },
            bits => ElementLayout { block_elements: 1, block_bytes: bits / 8 },
        }
    }

    /// Bytes of `elements` elements; `None` if that overflows or is not a whole number of bytes.
    ///
    /// ```
    /// use vram_types::DType;
    /// assert_eq!(DType::F4.bytes_of(6), Some(3));
    /// assert_eq!(DType::F4.bytes_of(5), None);
    /// assert_eq!(DType::F64.bytes_of(u64::MAX), None);
    /// ```
    pub const fn bytes_of(self, elements: u64) -> Option<u64> {
        // Never through bits: the number of bits overflows before the number of bytes does.
        let layout = self.layout();
        if self.bits() >= 8 {
            return elements.checked_mul(layout.block_bytes as u64);
        }
        let bits_left = (elements % 8) * self.bits() as u64;
        if !bits_left.is_multiple_of(8) {
            return None;
        }
        match (elements / 8).checked_mul(self.bits() as u64) {
            Some(whole) => whole.checked_add(bits_left / 8),
            None => None,
        }
    }

    /// The name that safetensors headers use.
    pub const fn name(self) -> &'static str {
        match self {
            DType::BOOL => "BOOL",
            DType::F4 => "F4",
            DType::F6_E2M3 => "F6_E2M3",
            DType::F6_E3M2 => "F6_E3M2",
            DType::U8 => "U8",
            DType::I8 => "I8",
            DType::F8_E5M2 => "F8_E5M2",
            DType::F8_E4M3 => "F8_E4M3",
            DType::F8_E8M0 => "F8_E8M0",
            DType::F8_E4M3FNUZ => "F8_E4M3FNUZ",
            DType::F8_E5M2FNUZ => "F8_E5M2FNUZ",
            DType::I16 => "I16",
            DType::U16 => "U16",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::I32 => "I32",
            DType::U32 => "U32",
            DType::F32 => "F32",
            DType::C64 => "C64",
            DType::F64 => "F64",
            DType::I64 => "I64",
            DType::U64 => "U64",
        }
    }

    /// The dtype that a safetensors header calls `name`, exactly as written there.
    pub fn from_name(name: &[u8]) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name().as_bytes() == name)
    }

    /// Whether this is a real floating-point type, of any width.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            DType::F4
                | DType::F6_E2M3
                | DType::F6_E3M2
                | DType::F8_E5M2
                | DType::F8_E4M3
                | DType::F8_E8M0
                | DType::F8_E4M3FNUZ
                | DType::F8_E5M2FNUZ
                | DType::F16
                | DType::BF16
                | DType::F32
                | DType::F64
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No dtype has that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(pub String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown dtype {:?}; known are ", self.0)?;
        for (i, d) in DType::ALL.into_iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(d.name())?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownDType {}

impl FromStr for DType {
    type Err = UnknownDType;

    /// Reads a name in any case, and PyTorch's names (`bfloat16`, `float8_e4m3fn`) as well.
    fn from_str(s: &str) -> Result<DType, UnknownDType> {
        let upper = s.to_ascii_uppercase();
        if let Some(d) = DType::from_name(upper.as_bytes()) {
            return Ok(d);
        }
        Ok(match s.to_ascii_lowercase().as_str() {
            "bool" => DType::BOOL,
            "uint8" => DType::U8,
            "int8" => DType::I8,
            "int16" | "short" => DType::I16,
            "uint16" => DType::U16,
            "int32" | "int" => DType::I32,
            "uint32" => DType::U32,
            "int64" | "long" => DType::I64,
            "uint64" => DType::U64,
            "float16" | "half" | "fp16" => DType::F16,
            "bfloat16" => DType::BF16,
            "float32" | "float" | "fp32" => DType::F32,
            "float64" | "double" | "fp64" => DType::F64,
            "complex64" => DType::C64,
            "float8_e4m3fn" | "fp8_e4m3" => DType::F8_E4M3,
            "float8_e5m2" | "fp8_e5m2" => DType::F8_E5M2,
            "float8_e4m3fnuz" => DType::F8_E4M3FNUZ,
            "float8_e5m2fnuz" => DType::F8_E5M2FNUZ,
            "float8_e8m0fnu" => DType::F8_E8M0,
            _ => return Err(UnknownDType(s.to_owned())),
        })
    }
}

#[cfg(feature = "serde")]
impl From<DType> for String {
    fn from(d: DType) -> String {
        d.name().to_owned()
    }
}

#[cfg(feature = "serde")]
impl TryFrom<String> for DType {
    type Error = UnknownDType;
    fn try_from(s: String) -> Result<DType, UnknownDType> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_are_distinct() {
        for (i, d) in DType::ALL.into_iter().enumerate() {
            assert_eq!(DType::from_name(d.name().as_bytes()), Some(d));
            assert_eq!(d.name().to_lowercase().parse(), Ok(d));
            assert!(DType::ALL[..i].iter().all(|o| o.name() != d.name()));
        }
        assert!("f33".parse::<DType>().is_err());
        assert_eq!("float8_e4m3fn".parse(), Ok(DType::F8_E4M3));
    }

    #[test]
    fn bytes_agree_with_bits_where_bits_do_not_overflow() {
        for d in DType::ALL {
            let layout = d.layout();
            assert_eq!(layout.block_elements * d.bits(), layout.block_bytes * 8);
            for n in 0..200u64 {
                let bits = n * u64::from(d.bits());
                assert_eq!(d.bytes_of(n), (bits % 8 == 0).then_some(bits / 8), "{d} x {n}");
            }
        }
        assert_eq!(DType::F4.bytes_of(u64::MAX - 1), Some(u64::MAX / 2));
        assert_eq!(DType::U8.bytes_of(u64::MAX), Some(u64::MAX));
        assert_eq!(DType::BF16.bytes_of(u64::MAX / 2 + 1), None);
    }
}
