//! How the elements of a stored tensor become numbers: by their dtype alone, or in quantised
//! blocks.

mod block;
mod companion;
mod decode;
mod fields;
mod grids;
mod layouts;
mod lookup;
mod scale;
mod scaled_rows;
mod stored;

pub use block::BlockType;
pub use companion::{Companion, Companions, Scheme, UnknownCompanion, companions};
pub use layouts::{Role, SchemeKind};
pub use scale::ScaleBlocks;
pub use scaled_rows::ScaledRows;
pub use stored::Encoding;
