//! How much is under way where weights stay in the processor's caches on their way from the disk to the kernels: which passes
//! that is for is decided in `plan.rs`.

/// Tiles that are brought: those on their way and those in use find room in the caches together.
pub(crate) const TILE_BYTES: u64 = 4 << 20;

/// What a tile more costs the kernels, in nanoseconds: threads wait for the last of them at its end.
pub(crate) const TILE_NANOS: u64 = 80_000;

/// The ring goes round in about this much while it need not hold more: what all readers have under way, and two tiles.
pub(crate) const RING_BYTES: u64 = 24 << 20;
