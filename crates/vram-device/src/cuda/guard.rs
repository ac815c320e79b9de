//! Switches for tests alone: one for each wait that keeps the backend in order, so that a test can leave it out and show that
//! it is missed. Without the feature `mutations` every guard is constantly there.

/// Something that keeps the order of copies, kernels and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is explained by the sentence beside the place that it guards
#[cfg_attr(not(feature = "mutations"), allow(unreachable_pub))] // public to tests alone
#[repr(u8)]
pub enum Guard {
    /// Work of one stream starts after a ticket of the other.
    Order = 1,
    /// An upload starts after what may still use its target.
    UploadAfter,
    /// The host stops until a ticket is done: before it writes staging again, above all.
    Wait,
    /// A ticket is done when its event is, and the event is recorded again only then.
    IsDone,
    /// What is read back has arrived before the host looks at it.
    DownloadWait,
    /// Memory is freed behind the work that uses it.
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

/// Whether the guard is there.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(super) const fn guard(_: Guard) -> bool {
    true
}

#[cfg(feature = "mutations")]
static LEFT_OUT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether the guard is there.
#[cfg(feature = "mutations")]
pub(super) fn guard(guard: Guard) -> bool {
    LEFT_OUT.load(std::sync::atomic::Ordering::Relaxed) != guard as u8
}

/// Leaves a guard out in the whole process, or none.
#[cfg(feature = "mutations")]
pub fn leave_out(guard: Option<Guard>) {
    LEFT_OUT.store(guard.map_or(0, |g| g as u8), std::sync::atomic::Ordering::Relaxed);
}
