//! Reading files: from the page cache, past it, or from a memory map; piece by piece, by several
//! threads or by io_uring.
//!
//! Nothing here uses what is built on it. `storage` is what formats ask of a file, wherever it is;
//! `local` is one of this machine with the ways in which it can be read (`handle`, `direct`,
//! `map`), among which `auto` chooses, and `stored` a file of either kind. `task` is what one
//! thread reads at a time; `perform` has `threads`, `uring` or storages do it. `batch` makes few
//! of many requests, `reads` is where reads come in, and `probe` measures the ways once a mount
//! has given much.

mod aligned;
mod auto;
mod batch;
mod cache;
mod direct;
mod elsewhere;
#[cfg(target_os = "linux")]
mod fresh;
mod handle;
mod local;
mod map;
mod memory;
mod mode;
mod mount;
mod perform;
mod piece;
mod probe;
mod queue;
mod read_at;
mod reading;
mod reads;
mod storage;
mod stored;
mod streaming;
mod task;
mod terms;
mod threads;
#[cfg(all(target_os = "linux", feature = "io-uring"))]
mod uring;

pub(crate) use aligned::{Aligned, HUGE_PAGE, Pool, zeroed};
pub(crate) use batch::{Copied, Span, join};
pub(crate) use handle::Wrap;
pub use memory::MemoryStorage;
pub use mode::{FileReading, ReadMode, ReadPath};
pub(crate) use piece::Piece;
pub use queue::ReadQueue;
pub use read_at::ReadAt;
pub(crate) use reads::{read_all, read_one};
pub(crate) use storage::read_exact;
pub use storage::{Storage, StorageRead};
pub(crate) use stored::StoredFile;
pub(crate) use streaming::LEAST_STREAMED_BYTES;
pub(crate) use task::{Failed, Read, Task, cut, is_whole};
pub(crate) use terms::Terms;
pub(crate) use threads::{THREADS, share};
