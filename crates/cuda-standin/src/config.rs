//! What the stand-in pretends to be, and what shall go wrong: from the environment, or by `standin_set`.

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr;)*) => {
        /// Every setting is a number. `STANDIN_` and the name in capitals is its variable in the environment.
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
            /// Where the setting of this name is kept.
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
    /// How many devices there are.
    devices = 1;
    /// Memory of each device, in bytes.
    capacity = 4 << 30;
    /// Compute capability, major number.
    major = 8;
    /// Compute capability, minor number.
    minor = 9;
    /// What `cuDriverGetVersion` says: 1000 times the major number and 10 times the minor one.
    driver_version = 12_080;
    /// What `nvrtcVersion` says, in the same form.
    nvrtc_version = 12_080;
    /// Bytes of a device that its context takes.
    context_bytes = 64 << 20;
    /// Bytes of a device that each loaded module takes.
    module_bytes = 2 << 20;
    /// Bytes of a device that each handle of cublasLt takes.
    blas_bytes = 8 << 20;
    /// How often an event or stream whose work has not run says that it is not ready before it runs it.
    queries = 2;
    /// 0: copies run as late as their order permits. 1: as early as it permits, while kernels still run late.
    early_copies = 0;
    /// Threads that run the blocks of a kernel; 0 for one per core.
    threads = 0;
    /// 1: a process that misused the driver or leaked ends with status 86.
    strict = 0;
    /// What `cuInit` answers instead of success.
    init_error = 0;
    /// The n-th allocation of device memory from now on fails with out of memory; so for all `fail_` settings, 0 for never.
    fail_alloc = 0;
    /// The n-th allocation of pinned memory fails.
    fail_pinned = 0;
    /// The n-th launch (of a kernel or a product) is refused with `fail_code`.
    fail_launch = 0;
    /// The n-th copy is refused with `fail_code`.
    fail_copy = 0;
    /// What refused launches and copies answer.
    fail_code = 701;
    /// The n-th kernel or product that runs ends with `lose_code` instead, and its context with it.
    lose_at_kernel = 0;
    /// The n-th call from now on, and every later one, answers `lose_code`: the device is gone.
    lose_at_call = 0;
    /// What a lost device answers.
    lose_code = 46;
}

impl Config {
    /// The defaults, changed by the environment; and what in the environment makes no sense.
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

    /// Changes a setting; false if there is none of that name.
    pub(crate) fn set(&mut self, name: &str, value: i64) -> bool {
        self.slot(name).map(|slot| *slot = value).is_some()
    }

    /// Counts one of a thing down, and says whether it is the one that fails.
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
