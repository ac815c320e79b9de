//! Device memory: buffers that own reservations, regions that own their bytes exclusively, and arenas that
//! hand out regions.

mod alloc;
mod arena;
mod buffer;
mod region;
mod stage;

pub use alloc::{FirstFit, Measure, OffsetAlloc, RingAlloc};
pub use arena::Arena;
pub use buffer::{Buffer, RawBuffer, Staging};
pub use region::{Part, Region};
pub use stage::Stage;
