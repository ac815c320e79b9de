//! A case, and its outcome.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{DeviceError, Kernels};

/// One requirement on a backend.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    check: fn(&dyn Kernels) -> Result<(), Fault>,
    /// The operation, if a backend may lack what is checked.
    optional: Option<&'static str>,
}

impl Case {
    /// A case that every backend must pass.
    pub(super) const fn new(name: &'static str, check: fn(&dyn Kernels) -> Result<(), Fault>) -> Case {
        Case { name, check, optional: None }
    }

    /// A case for an operation, or a variant of one, that a backend may refuse as
    /// [`DeviceError::Unsupported`].
    pub(super) const fn optional(self, operation: &'static str) -> Case {
        Case { optional: Some(operation), ..self }
    }

    /// What it checks.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case on a device.
    ///
    /// # Errors
    /// [`Failure`] with what was expected and what was found; also if the backend panics.
    pub fn run(&self, device: &dyn Kernels) -> Result<Outcome, Failure> {
        guarded(self.name, || Outcome::of((self.check)(device), self.optional))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// The outcome of a case that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device supports it, and its results are right.
    Passed,
    /// The case is optional, and the device answered [`DeviceError::Unsupported`].
    Gap(String),
}

impl Outcome {
    /// A gap if the fault is that an optional operation was refused by name.
    pub(super) fn of(result: Result<(), Fault>, optional: Option<&'static str>) -> Result<Outcome, Fault> {
        match result {
            Ok(()) => Ok(Outcome::Passed),
            Err(Fault::Unsupported { op, why, .. }) if Some(op) == optional => Ok(Outcome::Gap(why)),
            Err(fault) => Err(fault),
        }
    }
}

/// A case that a device failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the case.
    pub case: &'static str,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.message)
    }
}

impl Error for Failure {}

/// Turns faults and panics into failures.
pub(super) fn guarded<T>(case: &'static str, check: impl FnOnce() -> Result<T, Fault>) -> Result<T, Failure> {
    let fail = |message| Failure { case, message };
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(result) => result.map_err(|fault| fail(fault.to_string())),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(fail(format!("the backend panicked: {text}")))
        }
    }
}

/// Why a check ended early.
pub(super) enum Fault {
    /// What was expected and what was found.
    Wrong(String),
    /// The device refused the operation `op`; whether that is a failure depends on the case.
    Unsupported { op: &'static str, why: String, message: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Wrong(message) | Fault::Unsupported { message, .. } => f.write_str(message),
        }
    }
}

impl<E: Error + 'static> From<E> for Fault {
    fn from(e: E) -> Fault {
        let message = format!("an error where none was due: {e}");
        match (&e as &dyn Error).downcast_ref::<DeviceError>() {
            Some(DeviceError::Unsupported { op, dtype, why }) => {
                let why = dtype.map_or_else(|| why.clone(), |dtype| format!("{dtype}: {why}"));
                Fault::Unsupported { op, why, message }
            }
            _ => Fault::Wrong(message),
        }
    }
}

pub(super) fn ensure(ok: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if ok { Ok(()) } else { Err(Fault::Wrong(what())) }
}

/// Checks that an unsupported operation ended in an error that says so.
pub(super) fn refused(what: &str, result: Result<(), DeviceError>) -> Result<(), Fault> {
    let named = matches!(
        result,
        Err(DeviceError::Shape { .. }
            | DeviceError::Unsupported { .. }
            | DeviceError::OutOfRange { .. }
            | DeviceError::Type(_))
    );
    ensure(named, || format!("{what} gave {result:?}"))
}
