//! Statistics: what was done, what is held, and what was done wrong.

/// Beyond this many messages, misuse is only counted.
const MOST_MESSAGES: usize = 200;

/// The figures of `standin_books`, in that order. Byte counts are as requested, without rounding.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(crate) struct Books {
    /// Bytes of device memory allocated now.
    pub(crate) live_bytes: u64,
    /// The peak of the former.
    pub(crate) peak_bytes: u64,
    /// Bytes of pinned host memory allocated now.
    pub(crate) pinned_bytes: u64,
    /// The peak of the former.
    pub(crate) peak_pinned_bytes: u64,
    /// Device memory allocations so far.
    pub(crate) allocations: u64,
    /// Copies to a device that ran.
    pub(crate) copies_in: u64,
    /// Bytes of those copies.
    pub(crate) bytes_in: u64,
    /// Copies from a device that ran.
    pub(crate) copies_out: u64,
    /// Bytes of those copies.
    pub(crate) bytes_out: u64,
    /// Copies within a device that ran.
    pub(crate) copies_within: u64,
    /// Copies from or to host memory that is not pinned. A driver has to wait for these or copy
    /// twice.
    pub(crate) unpinned_copies: u64,
    /// Kernels that ran.
    pub(crate) kernels: u64,
    /// Products of cublasLt that ran.
    pub(crate) products: u64,
    /// Queued waits of a stream for an event.
    pub(crate) event_waits: u64,
    /// Times that the host synchronised with an event, a stream or a context.
    pub(crate) host_waits: u64,
    /// Live streams, events, modules and handles.
    pub(crate) objects: u64,
    /// Misuses so far.
    pub(crate) misuses: u64,
}

impl Books {
    /// The figures, in order.
    pub(crate) fn figures(&self) -> [u64; 17] {
        [
            self.live_bytes,
            self.peak_bytes,
            self.pinned_bytes,
            self.peak_pinned_bytes,
            self.allocations,
            self.copies_in,
            self.bytes_in,
            self.copies_out,
            self.bytes_out,
            self.copies_within,
            self.unpinned_copies,
            self.kernels,
            self.products,
            self.event_waits,
            self.host_waits,
            self.objects,
            self.misuses,
        ]
    }

    pub(crate) fn took(&mut self, bytes: u64) {
        self.allocations += 1;
        self.live_bytes += bytes;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
    }

    pub(crate) fn pinned(&mut self, bytes: u64) {
        self.pinned_bytes += bytes;
        self.peak_pinned_bytes = self.peak_pinned_bytes.max(self.pinned_bytes);
    }
}

/// Messages about misuse and leaks.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    messages: Vec<String>,
    beyond: u64,
}

impl Complaints {
    /// Adds a message.
    pub(crate) fn add(&mut self, message: String) {
        if self.messages.len() < MOST_MESSAGES {
            self.messages.push(message);
        } else {
            self.beyond += 1;
        }
    }

    /// The messages, and how many more there were.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.messages.clone();
        if self.beyond > 0 {
            lines.push(format!("and {} more", self.beyond));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_stay_when_bytes_go() {
        let mut books = Books::default();
        books.took(100);
        books.live_bytes -= 100;
        books.took(30);
        assert_eq!(books.figures()[..5], [30, 100, 0, 0, 2]);
    }

    #[test]
    fn messages_are_bounded() {
        let mut complaints = Complaints::default();
        (0..MOST_MESSAGES + 3).for_each(|i| complaints.add(i.to_string()));
        let lines = complaints.lines();
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MOST_MESSAGES + 1, "and 3 more"));
    }
}
