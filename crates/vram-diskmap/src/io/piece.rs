//! Bytes of a file and the memory they go to.

/// Bytes of a file from `offset` on, and where they go: `dst[at..at + len]`. The rest of `dst` may
/// be overwritten.
pub(crate) struct Piece<'a> {
    pub(crate) offset: u64,
    pub(crate) dst: &'a mut [u8],
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl<'a> Piece<'a> {
    /// The same bytes as a piece of a shorter life.
    pub(crate) fn reborrow(&mut self) -> Piece<'_> {
        Piece { dst: self.dst, ..*self }
    }

    /// Takes the first `len` bytes off, with the slack before them. Slack between the two holds
    /// wanted bytes, so the first keeps none after it and the second none before.
    pub(crate) fn split_off_front(self, len: usize) -> (Piece<'a>, Piece<'a>) {
        let (front, back) = self.dst.split_at_mut(self.at + len);
        let first = Piece { offset: self.offset, dst: front, at: self.at, len };
        (first, Piece { offset: self.offset + len as u64, dst: back, at: 0, len: self.len - len })
    }

    pub(crate) fn wanted(&mut self) -> &mut [u8] {
        &mut self.dst[self.at..self.at + self.len]
    }
}
