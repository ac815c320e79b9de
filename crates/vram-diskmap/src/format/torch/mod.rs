//! Checkpoints of PyTorch: the zip archives of `torch.save` and the pickles that it wrote before.

mod archive;
mod arrays;
mod call;
mod globals;
mod heap;
mod legacy;
mod pickle;
mod state;
mod unread;

pub(crate) use archive::read as read_archive;
pub(crate) use legacy::{MOST_MAGIC_BYTES, magic, read as read_legacy};
