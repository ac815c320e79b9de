//! `vram devices`: what is here, and why a backend is not available.

/// What is here to compute on, its memory and limits, and why a backend is not available
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}
