//! Rows of a table by index.

use std::borrow::Cow;

use super::operation::{Operation, operation};
use crate::{DeviceError, View, ViewMut};

operation! {
    /// Row `i` of `y` is row `ids[i]` of `table`, cast to `y`'s dtype.
    pub struct Gather<'a> {
        /// Table `[rows, ..]` in its storage dtype or [encoded](View::encoded).
        pub table: View<'a>,
        /// Indices of rows, in host memory.
        pub ids: Cow<'a, [u32]>,
        /// Result `[ids, ..]` in the compute dtype.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Gather<'a> {
    /// The rows `ids`.
    pub fn new(table: View<'a>, ids: &'a [u32], y: ViewMut<'a>) -> Gather<'a> {
        Gather { table, ids: Cow::Borrowed(ids), y }
    }
}

impl Operation for Gather<'_> {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn check(&self) -> Result<(), DeviceError> {
        let expected = self.table.shape().with_first(self.ids.len());
        if self.y.shape() != &expected {
            return Err(DeviceError::mismatch(self.name(), "y", &expected, self.y.shape()));
        }
        let rows = self.table.shape().first().copied().unwrap_or(0) as u64;
        match self.ids.iter().find(|&&id| u64::from(id) >= rows) {
            Some(&id) => {
                let (what, offset) = ("a row of a table", u64::from(id));
                Err(DeviceError::OutOfRange { what, offset, bytes: 1, available: rows })
            }
            None => Ok(()),
        }
    }

    fn flops(&self) -> u64 {
        0
    }

    fn decoded(&self) -> Option<&View<'_>> {
        Some(&self.table)
    }

    /// Of the table, only the requested rows.
    fn bytes_read(&self) -> u64 {
        let rows = self.table.shape().first().copied().unwrap_or(0) as u64;
        let row = self.table.stored_bytes().checked_div(rows).unwrap_or(0);
        row.saturating_mul(self.ids.len() as u64)
    }
}
