//! How much is under way where weights stay in the processor's caches on their way from the disk to the kernels: which passes
//! that is for is decided in `plan.rs`.

/// Tiles that are brought: those on their way and those in use find room in the caches together.
pub(crate) const TILE_BYTES: u64 = 2 << 20;

/// What a tile more costs the kernels, in nanoseconds: threads wait for the last of them at its end.
pub(crate) const TILE_NANOS: u64 = 80_000;

/// The ring goes round in about this much while it need not hold more.
pub(crate) const RING_BYTES: u64 = 8 << 20;

/// As many readers are at work: what all have under way counts.
pub(crate) const READERS: usize = 8;

/// Bytes of the largest read. Kernels that the disk does not keep waiting are disturbed less often by longer ones.
pub(crate) const PIECE_BYTES: u64 = 512 << 10;
