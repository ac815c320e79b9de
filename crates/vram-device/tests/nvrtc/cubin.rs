//! What a CUBIN says that its kernels take: an ELF file with attributes in sections `.nv.info*`.

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol};

/// What a kernel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Registers of a thread.
    pub(crate) registers: u32,
    /// Bytes of shared memory of a block.
    pub(crate) shared: u64,
    /// Bytes of a thread's frame, which lies in memory: what did not fit the registers, or was addressed.
    pub(crate) spilled: u32,
}

/// Attributes with a value of their own length: one byte that says so, one for which, two for how many bytes.
const SIZED: u8 = 4;
const FRAME_SIZE: u8 = 0x11;
const REGISTER_COUNT: u8 = 0x2f;

/// What each of the kernels takes. A kernel that is not there is a panic.
pub(crate) fn uses(image: &[u8], kernels: &[&str]) -> Vec<(String, Uses)> {
    let file = ElfFile64::<LittleEndian>::parse(image).expect("a CUBIN is an ELF file");
    let info = file.section_by_name(".nv.info").expect("a CUBIN has .nv.info").data().unwrap();
    let of = |kernel: &str| {
        let symbol = file.symbols().find(|s| s.name() == Ok(kernel)).unwrap_or_else(|| panic!("no {kernel}"));
        let index = symbol.index().0 as u32;
        let shared = file.section_by_name(&format!(".nv.shared.{kernel}")).map_or(0, |s| s.size());
        Uses {
            registers: attribute(info, REGISTER_COUNT, index)
                .unwrap_or_else(|| panic!("no registers of {kernel}")),
            shared,
            spilled: attribute(info, FRAME_SIZE, index).unwrap_or(0),
        }
    };
    kernels.iter().map(|&kernel| (kernel.to_owned(), of(kernel))).collect()
}

/// The value of an attribute of a symbol: attributes of four bytes for the symbol and four for the value.
fn attribute(mut info: &[u8], which: u8, symbol: u32) -> Option<u32> {
    while let [format, name, a, b, rest @ ..] = info {
        let size = if *format == SIZED { usize::from(u16::from_le_bytes([*a, *b])) } else { 0 };
        let (value, behind) = rest.split_at_checked(size)?;
        if *format == SIZED
            && *name == which
            && let Some(&[s0, s1, s2, s3, v0, v1, v2, v3]) = value.first_chunk()
            && u32::from_le_bytes([s0, s1, s2, s3]) == symbol
        {
            return Some(u32::from_le_bytes([v0, v1, v2, v3]));
        }
        info = behind;
    }
    None
}
