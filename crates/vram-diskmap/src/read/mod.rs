//! Reading: which bytes of which files make a tensor, or a slice of one. `files` reads what lies
//! there as it is, `computed` makes everything else of it (`strides` and `slice` are its
//! arithmetic), `parts` shares that among threads, and `tensors` and `source` are what callers
//! see.

pub(crate) mod computed;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod parts;
mod slice;
mod source;
pub(crate) mod strides;
mod tensors;
mod verify;
