//! How formats are read.

/// How files are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) lenient: bool,
    pub(crate) raw_blocks: bool,
}
