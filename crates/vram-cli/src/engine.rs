//! What the commands that run a network have in common: the device, the budgets, errors.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
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

    /// Where weights are and how much they may take. `auto` is what the device has free now.
    pub(crate) fn config(&self, device: &dyn Kernels, watch: &Arc<Watch>) -> Result<VramConfig> {
        let limit = self.budget.now(device)?;
        let ledgers = (Ledger::new(Tier::Device, limit), Ledger::new(Tier::Host, self.host_budget.bytes()));
        // The dtype given here is replaced by the one asked for, or by the checkpoint's own.
        let mut config = match self.from {
            Waits::Disk => VramConfig { host_limit: ledgers.1, ..VramConfig::disk(DType::F32, ledgers.0) },
            Waits::Host => {
                ensure!(
                    !device.info().topology.host_visible,
                    "--from host is for devices with memory of their own: the memory of {} is the host's, and what stays there \
                     counts as --budget",
                    self.device
                );
                VramConfig::host(DType::F32, ledgers.0, ledgers.1)
            }
        };
        config.computation = Placement { tier: Tier::Device, dtype: self.dtype.map(DType::from) };
        config.observer = Some(Arc::clone(watch) as Arc<dyn Observer>);
        Ok(config)
    }
}

impl Budget {
    /// Bytes that it is now.
    pub(crate) fn now(self, device: &dyn Device) -> Result<u64> {
        let left = match self {
            Budget::Bytes(size) => return Ok(size.bytes()),
            Budget::Auto => 0,
            Budget::LeaveFree(left) => left.bytes(),
        };
        let memory = device
            .memory()
            .with_context(|| format!("give the budget as a size: {self} needs to know what is free"))?;
        Ok(memory.free.saturating_sub(left))
    }
}

/// Tells the engine what `--budget free-SIZE` asks for: to look before each pass at what is free.
pub(crate) fn leave_free(budget: Budget, engine: &layers::Engine) -> Result<()> {
    match budget {
        Budget::LeaveFree(left) => engine.set_limit(VramLimit::LeaveFree(left.bytes())).map_err(explain),
        Budget::Auto | Budget::Bytes(_) => Ok(()),
    }
}

/// An error of the engine, with what to type instead where that is known.
pub(crate) fn explain(error: layers::Error) -> anyhow::Error {
    match error {
        layers::Error::BudgetTooSmall { needed, .. } => anyhow!("{error}; it runs with --budget {needed}"),
        _ => anyhow::Error::new(error),
    }
}
