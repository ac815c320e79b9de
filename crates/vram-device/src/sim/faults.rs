//! Injected faults.

use crate::DeviceError;

/// A fault that occurs once, at a position counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The n-th allocation, of device memory or of staging, is out of memory.
    OutOfMemory(u64),
    /// The n-th upload is refused with [`DeviceError::Failed`]; the device still works.
    Upload(u64),
    /// The device is lost at the n-th operation (upload, kernel or download).
    Lost(u64),
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    declared: Vec<Fault>,
    allocations: u64,
    uploads: u64,
    operations: u64,
}

impl Faults {
    pub(super) fn new(declared: Vec<Fault>) -> Faults {
        Faults { declared, ..Faults::default() }
    }

    pub(super) fn allocation(&mut self, bytes: u64) -> Result<(), DeviceError> {
        self.allocations += 1;
        let n = self.allocations;
        match self.declared.contains(&Fault::OutOfMemory(n)) {
            true => Err(DeviceError::OutOfMemory { bytes, reason: format!("declared for allocation {n}") }),
            false => Ok(()),
        }
    }

    pub(super) fn upload(&mut self) -> Result<(), DeviceError> {
        self.uploads += 1;
        let n = self.uploads;
        match self.declared.contains(&Fault::Upload(n)) {
            true => {
                Err(DeviceError::Failed { what: "an upload", reason: format!("declared for upload {n}") })
            }
            false => Ok(()),
        }
    }

    /// Why the device is lost from here on, if it is.
    pub(super) fn operation(&mut self) -> Option<String> {
        self.operations += 1;
        let n = self.operations;
        self.declared.contains(&Fault::Lost(n)).then(|| format!("declared for operation {n}"))
    }
}
