//! What the stand-in simulates, and which faults it injects. Set by the environment or with
//! `standin_set`.

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr;)*) => {
        /// All settings are numbers. The environment variable of a setting is `STANDIN_` and its
        /// name in capitals.
        #[derive(Clone, Debug)]
        pub(crate) struct Config {
            $($(#[doc = $doc])+ pub(crate) $name: i64,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Config {
            /// The value of the setting with this name.
            fn slot(&mut self, name: &str) -> Option<&mut i64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            const NAMES: &[&str] = &[$(stringify!($name)),*];
        }
    };
}

settings! {
    /// Number of devices.
    devices = 1;
    /// Memory of each device, in bytes.
    capacity = 4 << 30;
    /// Compute capability, major number.
    major = 8;
    /// Compute capability, minor number.
    minor = 9;
    /// The result of `cuDriverGetVersion`: 1000 times the major number plus 10 times the minor
    /// one.
    driver_version = 12_080;
    /// The result of `nvrtcVersion`, in the same form.
    nvrtc_version = 12_080;
    /// Device memory that a context takes, in bytes.
    context_bytes = 64 << 20;
    /// Device memory that each loaded module takes, in bytes.
    module_bytes = 2 << 20;
    /// Device memory that each cublasLt handle takes, in bytes.
    blas_bytes = 8 << 20;
    /// How many times an event or stream with pending work reports that it is not ready before the
    /// work runs.
    queries = 2;
    /// 0: copies run as late as their order permits. 1: as early as it permits, while kernels
    /// still run late.
    early_copies = 0;
    /// Threads that run the blocks of a kernel; 0 for one per core.
    threads = 0;
    /// 1: a process that misused the driver or leaked exits with status 86.
    strict = 0;
    /// The status that `cuInit` returns.
    init_error = 0;
    /// The n-th device allocation from now on fails with out of memory. 0 means never, as for all
    /// `fail_` settings.
    fail_alloc = 0;
    /// The n-th allocation of pinned memory fails.
    fail_pinned = 0;
    /// The n-th launch (of a kernel or a product) is refused with `fail_code`.
    fail_launch = 0;
    /// The n-th copy is refused with `fail_code`.
    fail_copy = 0;
    /// The status of refused launches and copies.
    fail_code = 701;
    /// The n-th kernel or product that runs fails with `lose_code`, which also ends its context.
    lose_at_kernel = 0;
    /// The n-th call from now on and all later calls return `lose_code`: the device is lost.
    lose_at_call = 0;
    /// The status that a lost device returns.
    lose_code = 46;
}

impl Config {
    /// The defaults, changed by the environment, and a message for each invalid variable.
    pub(crate) fn from_environment() -> (Self, Vec<String>) {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let mut config = Self::default();
        let mut wrong = Vec::new();
        for name in Self::NAMES {
            let full = format!("STANDIN_{}", name.to_uppercase());
            let Some(text) = variable(&full) else { continue };
            match text.parse() {
                Ok(value) => _ = config.set(name, value),
                Err(_) => wrong.push(format!("{full}={text} is not a number")),
            }
        }
        (config, wrong)
    }

    /// Changes a setting; false if no setting has this name.
    pub(crate) fn set(&mut self, name: &str, value: i64) -> bool {
        self.slot(name).map(|slot| *slot = value).is_some()
    }

    /// Counts one event down, and returns whether this is the one that fails.
    pub(crate) fn fails(setting: &mut i64) -> bool {
        if *setting > 0 {
            *setting -= 1;
            return *setting == 0;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_variables_and_nonsense_is_told() {
        let of = |name: &str| match name {
            "STANDIN_CAPACITY" => Some("4096".to_owned()),
            "STANDIN_MAJOR" => Some("nine".to_owned()),
            _ => None,
        };
        let (mut config, wrong) = Config::from_variables(of);
        assert_eq!((config.capacity, config.major), (4096, 8));
        assert_eq!(wrong, ["STANDIN_MAJOR=nine is not a number"]);
        assert!(config.set("fail_alloc", 2) && !config.set("no_such_thing", 1));
        let failed: Vec<bool> = (0..3).map(|_| Config::fails(&mut config.fail_alloc)).collect();
        assert_eq!(failed, [false, true, false]);
    }
}
