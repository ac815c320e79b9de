//! Where weights are in each of the four states, and the budgets.

use std::sync::Arc;

use vram_device::ops::Activations;
use vram_device::{Budget, Kernels, Memory, Tier};
use vram_types::DType;

use crate::engine::EngineOptions;
use crate::error::Error;
use crate::model::converted::StorageDtypes;
use crate::observe::event::Observer;
use crate::plan::costs::Costs;
use crate::state::Placement;

/// Where weights are in each of the four states, and the budgets.
///
/// ```
/// use vram_device::{Budget, Tier};
/// use vram_layers::VramConfig;
/// use vram_types::DType;
///
/// // Weights wait on disk, and a pass may use 6 GiB of the card.
/// let disk = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, 6 << 30));
/// // They wait in 16 GiB of host memory, for a card with its own memory; the rest streams from disk.
/// let host = Budget::new(Tier::Host, 16 << 30);
/// let host = VramConfig::host(DType::BF16, Budget::new(Tier::Device, 6 << 30), host);
/// // One reader, and a ring of a chosen size.
/// let config = VramConfig { readers: 1, ring: Some(512 << 20), ..host };
/// # drop((disk, config));
/// ```
#[derive(Clone, Debug)]
pub struct VramConfig {
    /// While another model is active: on [`Tier::Disk`], or on [`Tier::Host`] to keep what was there.
    pub offload: Placement,
    /// While the model is active, for units that stream: on [`Tier::Disk`], or on [`Tier::Host`] as far as
    /// the host limit allows.
    pub onload: Placement,
    /// For units that stay, as far as the limit allows: on [`Tier::Device`], or on the tier of `onload` if
    /// none should stay. A dtype here, or on the host, is the storage dtype of weights that have left the
    /// disk.
    pub preparing: Placement,
    /// While a layer computes. Its dtype is the compute dtype; that of the checkpoint if `None`.
    pub computation: Placement,
    /// Whether the inputs of products with quantised blocks are rounded to 8 bits. Where it is asked for and no weight
    /// stays in such blocks, the model is refused.
    pub activations: Activations,
    /// The device budget: weights, activations and scratch together.
    pub vram_limit: Budget,
    /// The host budget: staging, and weights that wait on the host.
    pub host_limit: Budget,
    /// Storage dtypes by parameter, which override those of the placements: for norms that stay f32, and the
    /// like.
    pub dtypes: StorageDtypes,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Threads that read.
    pub readers: usize,
    /// The costs that the first plan is based on; assumed if `None`.
    pub costs: Option<Costs>,
    /// Whether the first passes are measured, and the plan is remade if that pays.
    pub calibrate: bool,
    /// Receives engine events.
    pub observer: Option<Arc<dyn Observer>>,
    /// Prefix of all the model's names in the checkpoint.
    pub prefix: String,
}

impl VramConfig {
    /// Like [`disk`](VramConfig::disk), but weights wait in host memory as far as `host_limit` allows; for
    /// devices with their own memory.
    pub fn host(dtype: DType, vram_limit: Budget, host_limit: Budget) -> VramConfig {
        VramConfig {
            offload: Placement::on(Tier::Host),
            onload: Placement::on(Tier::Host),
            host_limit,
            ..VramConfig::disk(dtype, vram_limit)
        }
    }

    /// Weights wait on disk until they are needed; as many stay resident as the limit allows; computes in
    /// `dtype`.
    pub fn disk(dtype: DType, vram_limit: Budget) -> VramConfig {
        VramConfig {
            offload: Placement::on(Tier::Disk),
            onload: Placement::on(Tier::Disk),
            preparing: Placement::on(Tier::Device),
            computation: Placement { tier: Tier::Device, dtype: Some(dtype) },
            activations: Activations::Exact,
            vram_limit,
            host_limit: Budget::new(Tier::Host, 64 << 20),
            dtypes: StorageDtypes::checkpoint(),
            ring: None,
            readers: EngineOptions::READERS,
            costs: None,
            calibrate: true,
            observer: None,
            prefix: String::new(),
        }
    }

    /// Refuses impossible placements, and returns the storage dtypes.
    pub(crate) fn check(&self, device: &dyn Kernels) -> Result<StorageDtypes, Error> {
        let refuse = |what: &str| Err(Error::Unsupported(what.to_owned()));
        let mut dtype = None;
        for placement in [self.offload, self.onload, self.preparing] {
            match (placement.tier, placement.dtype) {
                (Tier::Disk, Some(_)) => {
                    return refuse(
                        "on disk, weights are in the checkpoint's own dtype; give the dtype to the placements on the host or the device",
                    );
                }
                (_, Some(this)) if dtype.is_some_and(|other| other != this) => {
                    return refuse(
                        "weights have one storage dtype on the host and on the device: a unit may be in either place, and the budget must not change the answer",
                    );
                }
                (_, this) => dtype = dtype.or(this),
            }
        }
        for placement in [self.offload, self.onload] {
            match placement.tier {
                Tier::Disk => {}
                Tier::Host if device.info().topology.memory == Memory::Shared => {
                    return refuse(
                        "there is no host tier on a device whose memory is the host's: what stays in host memory is on the device already",
                    );
                }
                Tier::Host => {}
                Tier::Device => {
                    return refuse(
                        "offload and onload are on the disk or the host tier; what stays is preparing",
                    );
                }
            }
        }
        if self.offload.tier == Tier::Host && self.onload.tier == Tier::Disk {
            return refuse(
                "weights that wait in host memory while their model is offloaded must also wait there while it is active",
            );
        }
        if self.computation.tier != Tier::Device {
            return refuse("computation is on the device tier: kernels read device memory");
        }
        if self.preparing.tier == Tier::Host && self.onload.tier == Tier::Disk {
            return refuse("preparing is on the device tier, or on the tier of onload to keep nothing");
        }
        let mut dtypes = self.dtypes.clone();
        if let Some(dtype) = dtype {
            dtypes = dtypes.or_all(dtype);
        }
        Ok(dtypes)
    }
}
