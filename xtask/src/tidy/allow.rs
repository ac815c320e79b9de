//! Exceptions, each with its reason. An exception that is no longer needed is a finding too.

/// What is exempt, and why.
pub(super) type Exception = (&'static str, &'static str);

/// Files over the limit of [`lengths`](super::lengths).
pub(super) const LONG_FILES: &[Exception] = &[];

/// Traits over the limit of [`traits`](super::traits), as `crate::Trait`.
pub(super) const LARGE_TRAITS: &[Exception] = &[];

/// Folders in which [`cycles`](super::cycles) allows circles.
pub(super) const CIRCLES: &[Exception] = &[
    ("benches/src/", "not a library"),
    ("crates/cuda-standin/src/", "not a library: several C interfaces share one state"),
    ("crates/vram-cli/src/", "not a library"),
    ("crates/vram-device/src/", "backends are still to be put in layers"),
    ("xtask/src/", "not a library"),
];
