//! Status codes of the driver, with the names and texts of `cuGetErrorName` and
//! `cuGetErrorString`.

use std::ffi::CStr;

/// A status other than success, with the number of `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u32);

/// The status of a successful call.
pub(crate) const SUCCESS: u32 = 0;

macro_rules! statuses {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        #[allow(dead_code, reason = "some are only given when a fault is configured by its number")]
        impl Status {
            $(pub(crate) const $name: Self = Self($code);)*

            /// The status with this number, if the stand-in knows it.
            pub(crate) fn of(code: i64) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        /// Name and text of a status, success included.
        pub(crate) fn describe(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            let (name, text) = match code {
                SUCCESS => ("CUDA_SUCCESS\0", "no error\0"),
                $($code => (concat!("CUDA_ERROR_", stringify!($name), "\0"), concat!($text, "\0")),)*
                _ => return None,
            };
            Some((CStr::from_bytes_until_nul(name.as_bytes()).ok()?, CStr::from_bytes_until_nul(text.as_bytes()).ok()?))
        }
    };
}

statuses! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "initialization error";
    DEINITIALIZED = 4, "driver shutting down";
    DEVICE_UNAVAILABLE = 46, "CUDA-capable device(s) is/are busy or unavailable";
    NO_DEVICE = 100, "no CUDA-capable device is detected";
    INVALID_DEVICE = 101, "invalid device ordinal";
    INVALID_IMAGE = 200, "device kernel image is invalid";
    INVALID_CONTEXT = 201, "invalid device context";
    NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    ECC_UNCORRECTABLE = 214, "uncorrectable ECC error encountered";
    OPERATING_SYSTEM = 304, "OS call failed or operation not supported on this OS";
    INVALID_HANDLE = 400, "invalid resource handle";
    NOT_FOUND = 500, "named symbol not found";
    NOT_READY = 600, "device not ready";
    ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    CONTEXT_IS_DESTROYED = 709, "context is destroyed";
    ASSERT = 710, "device-side assert triggered";
    LAUNCH_FAILED = 719, "unspecified launch failure";
    NOT_SUPPORTED = 801, "operation not supported";
    SYSTEM_DRIVER_MISMATCH = 803, "system has unsupported display driver / cuda driver combination";
    UNKNOWN = 999, "unknown error";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_driver() {
        let (name, text) = describe(700).unwrap();
        assert_eq!(name.to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(text.to_str().unwrap(), "an illegal memory access was encountered");
        assert_eq!(describe(0).unwrap().0.to_str().unwrap(), "CUDA_SUCCESS");
        assert!(describe(12345).is_none() && Status::of(12345).is_none());
    }
}
