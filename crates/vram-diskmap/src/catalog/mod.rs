//! What a checkpoint holds: its files (`open`, `loading`, `folder`, `sets`, `index`), what each says of
//! its tensors (`contents`, `tensor`, `names`, `checksums`), and all of it together (`map`).

pub(crate) mod checksums;
pub(crate) mod contents;
mod folder;
mod index;
pub(crate) mod inspect;
mod loading;
pub(crate) mod map;
pub(crate) mod names;
pub(crate) mod open;
mod sets;
pub(crate) mod tensor;
