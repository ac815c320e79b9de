//! Checkpoints of PyTorch: the zip archives of `torch.save` and the pickles that it wrote before.

mod archive;
mod call;
mod globals;
mod heap;
mod legacy;
mod pickle;
mod state;

pub(crate) use archive::read as read_archive;
pub(crate) use legacy::{MAGIC, read as read_legacy};
