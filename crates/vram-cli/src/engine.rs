//! What all commands that run a network share: the device, the budgets, errors.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use vram_stream::device::Memory;
use vram_stream::layers::state::Placement;
use vram_stream::layers::{self, Observer, VramLimit};
use vram_stream::{Budget as Ledger, Device, Kernels, Tier, VramConfig};
use vram_types::DType;

use crate::args::{Budget, Engine, Waits};
use crate::watch::Watch;

impl Engine {
    /// The device that `--device` names.
    pub(crate) fn open_device(&self) -> Result<Arc<dyn Kernels>> {
        self.device.open(self.threads)
    }

    /// Where weights are kept and how much memory they may take. `auto` is what the device has
    /// free now.
    pub(crate) fn config(&self, device: &dyn Kernels, watch: &Arc<Watch>) -> Result<VramConfig> {
        let limit = self.budget.now(device)?;
        let ledgers = (Ledger::new(Tier::Device, limit), Ledger::new(Tier::Host, self.host_budget.bytes()));
        // This dtype is a placeholder: `--dtype` or the checkpoint's own dtype replaces it.
        let mut config = match self.from {
            Waits::Disk => VramConfig { host_limit: ledgers.1, ..VramConfig::disk(DType::F32, ledgers.0) },
            Waits::Host => {
                ensure!(
                    device.info().topology.memory == Memory::Discrete,
                    "--from host is for devices with their own memory: {} uses host memory, and weights that stay there \
                     count against --budget",
                    self.device
                );
                VramConfig::host(DType::F32, ledgers.0, ledgers.1)
            }
        };
        config.computation = Placement { tier: Tier::Device, dtype: self.dtype.map(DType::from) };
        config.activations = self.activations.into();
        config.observer = Some(Arc::clone(watch) as Arc<dyn Observer>);
        Ok(config)
    }
}

impl Budget {
    /// The budget in bytes, now.
    pub(crate) fn now(self, device: &dyn Device) -> Result<u64> {
        if let Budget::Bytes(size) = self {
            return Ok(size.bytes());
        }
        let memory = device.memory().with_context(|| {
            format!("pass the budget as a size: {self} needs to know how much memory is free")
        })?;
        Ok(self.of(memory.free))
    }
}

/// For `--budget free-SIZE`, makes the engine check the free memory before each pass.
pub(crate) fn leave_free(budget: Budget, engine: &layers::Engine) -> Result<()> {
    match budget {
        Budget::LeaveFree(left) => engine.set_limit(VramLimit::LeaveFree(left.bytes())).map_err(explain),
        Budget::Auto | Budget::Bytes(_) | Budget::Percent(_) => Ok(()),
    }
}

/// Turns an engine error into one that says what to type instead, if that is known.
pub(crate) fn explain(error: layers::Error) -> anyhow::Error {
    match error {
        layers::Error::BudgetTooSmall { needed, .. } => anyhow!("{error}; it runs with --budget {needed}"),
        _ => anyhow::Error::new(error),
    }
}
