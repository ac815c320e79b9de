//! Quantised blocks: which types there are, and how large their blocks are.

use std::fmt;

/// A quantised element type of GGUF. A block is a run of elements of one row that are stored
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // the format's own spelling
pub enum BlockType {
    /// 4 bits, a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits, a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 2 bits, scales and minima of 4 bits per 16.
    Q2_K,
    /// 3 bits, scales of 6 bits per 16.
    Q3_K,
    /// 4 bits, scales and minima of 6 bits per 32.
    Q4_K,
    /// 5 bits, scales and minima of 6 bits per 32.
    Q5_K,
    /// 6 bits, scales of 8 bits per 16.
    Q6_K,
    /// 4 bits into a table of 16 values, a scale per 32.
    IQ4_NL,
    /// The same with scales of 6 bits per 32.
    IQ4_XS,
    /// 4-bit floats (e2m1), a power of two per 32 (OCP MX).
    MXFP4,
    /// 2 bits into a grid of 256 runs of 8, scales of 4 bits per 32.
    IQ2_XXS,
    /// 2 bits into a grid of 512 runs, scales of 4 bits per 16.
    IQ2_XS,
    /// 2 bits into a grid of 1024 runs, scales of 4 bits per 16.
    IQ2_S,
    /// 3 bits into a grid of 256 runs of 4, scales of 4 bits per 32.
    IQ3_XXS,
    /// 3 bits into a grid of 512 runs of 4, scales of 4 bits per 32.
    IQ3_S,
    /// Three values in a grid of 2048 runs of 8, scales of 3 bits per 32.
    IQ1_S,
    /// The same with scales of 3 bits per 16.
    IQ1_M,
    /// Three values, five to a byte, a scale per 256.
    TQ1_0,
    /// Three values of 2 bits, a scale per 256.
    TQ2_0,
    /// 4-bit floats (e2m1), a scale in e4m3 per 16.
    NVFP4,
}

impl BlockType {
    /// Every block type.
    pub const ALL: [BlockType; 23] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
        BlockType::IQ4_NL,
        BlockType::IQ4_XS,
        BlockType::MXFP4,
        BlockType::IQ2_XXS,
        BlockType::IQ2_XS,
        BlockType::IQ2_S,
        BlockType::IQ3_XXS,
        BlockType::IQ3_S,
        BlockType::IQ1_S,
        BlockType::IQ1_M,
        BlockType::TQ1_0,
        BlockType::TQ2_0,
        BlockType::NVFP4,
    ];

    /// The name that GGUF's own tools use.
    pub const fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2_K => "Q2_K",
            BlockType::Q3_K => "Q3_K",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q5_K => "Q5_K",
            BlockType::Q6_K => "Q6_K",
            BlockType::IQ4_NL => "IQ4_NL",
            BlockType::IQ4_XS => "IQ4_XS",
            BlockType::MXFP4 => "MXFP4",
            BlockType::IQ2_XXS => "IQ2_XXS",
            BlockType::IQ2_XS => "IQ2_XS",
            BlockType::IQ2_S => "IQ2_S",
            BlockType::IQ3_XXS => "IQ3_XXS",
            BlockType::IQ3_S => "IQ3_S",
            BlockType::IQ1_S => "IQ1_S",
            BlockType::IQ1_M => "IQ1_M",
            BlockType::TQ1_0 => "TQ1_0",
            BlockType::TQ2_0 => "TQ2_0",
            BlockType::NVFP4 => "NVFP4",
        }
    }

    /// Elements of one block.
    pub const fn block_elements(self) -> u64 {
        match self {
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0
            | BlockType::IQ4_NL
            | BlockType::MXFP4 => 32,
            BlockType::NVFP4 => 64,
            _ => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> u64 {
        match self {
            BlockType::Q4_0 | BlockType::IQ4_NL => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::MXFP4 => 17,
            BlockType::Q2_K => 84,
            BlockType::Q3_K => 110,
            BlockType::Q4_K => 144,
            BlockType::Q5_K => 176,
            BlockType::Q6_K => 210,
            BlockType::IQ4_XS => 136,
            BlockType::IQ2_XXS | BlockType::TQ2_0 => 66,
            BlockType::IQ2_XS => 74,
            BlockType::IQ2_S => 82,
            BlockType::IQ3_XXS => 98,
            BlockType::IQ3_S => 110,
            BlockType::IQ1_S => 50,
            BlockType::IQ1_M => 56,
            BlockType::TQ1_0 => 54,
            BlockType::NVFP4 => 36,
        }
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
