//! Uploads through staging.

use std::ops::Range;

use crate::{Device, DeviceError, Part, Staging, Ticket};

/// A staging buffer together with the copy that may still read it.
///
/// Two of them used in turn keep a device busy: one is filled while the other is copied.
/// [Settle](Stage::settle) a stage before dropping it, also after an error: its memory must outlive the copy.
#[derive(Debug)]
pub struct Stage {
    staging: Staging,
    copy: Option<Ticket>,
}

impl Stage {
    /// A stage over a buffer that no copy reads.
    pub fn new(staging: Staging) -> Stage {
        Stage { staging, copy: None }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.staging.bytes()
    }

    /// Waits until no copy reads the buffer. Returns the ticket of the copy that did.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub fn settle(&mut self, device: &dyn Device) -> Result<Option<Ticket>, DeviceError> {
        let copy = self.take_copy();
        if let Some(ticket) = copy {
            device.wait(ticket)?;
        }
        Ok(copy)
    }

    /// Takes the copy that may still read the buffer, for a caller that waits for it itself.
    pub fn take_copy(&mut self) -> Option<Ticket> {
        self.copy.take()
    }

    /// Settles the stage, has `fill` write the buffer, and issues a copy of its bytes `range` to byte `to` of
    /// a part. The part remembers the copy, so that its memory is not reused before it is done.
    ///
    /// # Errors
    /// Those of `fill`; [`DeviceError::OutOfRange`] if the range is outside the buffer or does not fit the
    /// part; [`DeviceError::Lost`].
    pub fn upload<E: From<DeviceError>>(
        &mut self,
        device: &dyn Device,
        range: Range<u64>,
        (part, to): (&mut Part, u64),
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Ticket, E> {
        self.settle(device)?;
        fill(self.staging.host_mut())?;
        let ticket = device.upload(&self.staging, range, part, to)?;
        part.issued(ticket);
        self.copy = Some(ticket);
        Ok(ticket)
    }
}
