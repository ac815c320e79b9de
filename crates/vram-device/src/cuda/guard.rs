//! Test-only switches: one for each wait that keeps the backend in order, so that a test can leave it out and
//! show that it is needed. Without the feature `mutations` every guard is always active.

/// A wait that keeps copies, kernels and the host in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is explained by the sentence beside the place that it guards
#[cfg_attr(not(feature = "mutations"), allow(unreachable_pub))] // public to tests alone
#[repr(u8)]
pub enum Guard {
    /// Work of one stream starts after a ticket of the other.
    Order = 1,
    /// An upload starts after the work that may still use its target.
    UploadAfter,
    /// The host blocks until a ticket is done, above all before it writes staging again.
    Wait,
    /// A ticket is done when its event is, and only then is the event recorded again.
    IsDone,
    /// A download has arrived before the host reads it.
    DownloadWait,
    /// Memory is freed after the work that uses it.
    FreeBehind,
}

impl Guard {
    /// All of them.
    #[cfg(feature = "mutations")]
    pub const ALL: [Guard; 6] = [
        Guard::Order,
        Guard::UploadAfter,
        Guard::Wait,
        Guard::IsDone,
        Guard::DownloadWait,
        Guard::FreeBehind,
    ];
}

/// Whether the guard is active.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(super) const fn guard(_: Guard) -> bool {
    true
}

#[cfg(feature = "mutations")]
static LEFT_OUT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether the guard is active.
#[cfg(feature = "mutations")]
pub(super) fn guard(guard: Guard) -> bool {
    LEFT_OUT.load(std::sync::atomic::Ordering::Relaxed) != guard as u8
}

/// Leaves out a guard in the whole process, or none.
#[cfg(feature = "mutations")]
pub fn leave_out(guard: Option<Guard>) {
    LEFT_OUT.store(guard.map_or(0, |g| g as u8), std::sync::atomic::Ordering::Relaxed);
}
