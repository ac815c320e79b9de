//! Exceptions, each with its reason. An entry that nothing needs any more is itself a finding.

/// An exception: what, and why.
pub(super) type Exception = (&'static str, &'static str);

/// Files over the limit of [`lengths`](super::lengths).
pub(super) const LONG_FILES: &[Exception] = &[];

/// Traits over the limit of [`traits`](super::traits), as `crate::Trait`.
pub(super) const LARGE_TRAITS: &[Exception] = &[];
