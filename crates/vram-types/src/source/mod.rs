//! Where weights come from: the trait behind which every checkpoint format and remote store
//! stands, what it is asked for and what it answers, and sources that are made of others.

mod generated;
mod joined;
mod options;
mod overlay;
mod parts;
mod place;
mod request;
mod weights;

pub use generated::GeneratedSource;
pub use joined::Joined;
pub use options::{CancelToken, Priority, ReadOptions};
pub use overlay::Overlay;
pub use place::{Encoded, FileId, FileRange, Located, StorageId};
pub use request::{ReadRequest, ReadTarget};
pub use weights::{HostBytes, WeightSource, WeightSourceExt};
