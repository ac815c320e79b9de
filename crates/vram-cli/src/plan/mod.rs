//! `vram plan`: what stays, what streams, how fast that will be, and what a little more memory would buy.

mod curve;
mod document;
mod print;
mod probe;
mod svg;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use vram_diskmap::DiskMap;
use vram_stream::layers::state::Placement;
use vram_stream::layers::{self, Costs, EngineOptions, LayerWork, Plan, Profile, Setting};
use vram_stream::{Budget as Ledger, Device, Tier, VramConfig};
use vram_types::{ByteSize, DType};

use crate::arch::{Arch, Opening, Subject};
use crate::args::{Budget, ComputeDType, DEVICES, DeviceName, Read, Waits, at_least_one};
use crate::checkpoint::Checkpoint;
use crate::engine::explain;
use crate::output;
use document::{Checked, Document};
use probe::Probe;

/// Say what a budget would do: what stays, what streams, how fast a pass is, and what more memory would buy
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: a file, an index or a folder
    #[arg(value_name = "PATH", required_unless_present = "check", requires = "arch")]
    path: Option<PathBuf>,
    /// What the weights are of
    #[arg(long, value_enum, requires = "path")]
    arch: Option<Arch>,
    /// Most device memory that weights and activations may take, as 512MiB or 6GiB; auto is all of it, free-1GiB leaves
    /// so much
    #[arg(long, value_name = "SIZE|auto|free-SIZE", default_value_t = Budget::Auto, requires = "path")]
    budget: Budget,
    /// Most host memory for weights that wait there and for staging; 64MiB on this machine, and what a profile's host
    /// has, if not given
    #[arg(long, value_name = "SIZE", requires = "path")]
    host_budget: Option<ByteSize>,
    /// Reckon with a machine that is not here: the name of a profile that comes along, or a TOML file like them; this
    /// machine is probed if not given
    #[arg(long, value_name = "NAME|FILE", requires = "path")]
    profile: Option<String>,
    /// Where weights wait; host is the page cache where the device's memory is the host's; on disk unless all of them fit the
    /// host budget, if not given
    #[arg(long, value_enum, requires = "path")]
    from: Option<Waits>,
    /// Apply the rules of this file to the checkpoint first, as forward does
    #[arg(long, value_name = "FILE.toml", requires = "path")]
    convert: Option<PathBuf>,
    /// Tokens of a pass
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one, requires = "path")]
    tokens: usize,
    /// What to compute in; the checkpoint's own dtype if not given
    #[arg(long, value_enum, requires = "path")]
    dtype: Option<ComputeDType>,
    /// Which device of this machine is probed, and whose kernels' activations and scratch are reckoned with
    #[arg(long, value_name = DEVICES, default_value_t = DeviceName::Cpu, requires = "path")]
    device: DeviceName,
    /// Threads that the cpu computes with when it is probed; all of them if not given
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "path")]
    threads: Option<usize>,
    /// Draw the time of a pass over the budget into this file
    #[arg(long, value_name = "FILE", requires = "path")]
    svg: Option<PathBuf>,
    /// Write the plan as JSON to this file
    #[arg(long, value_name = "FILE", requires = "path")]
    save: Option<PathBuf>,
    /// Prove a plan in a file safe: within its budgets, loaded before used, nothing overwritten while it is read
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let checked = args.check.as_deref().map(check).transpose()?;
    let (Some(path), Some(arch)) = (&args.path, args.arch) else {
        let checked = checked.context("a checkpoint and --arch are needed")?;
        return if json { output::json(&checked) } else { Ok(checked.print(&mut io::stdout().lock())?) };
    };
    let device = args.device.open(args.threads)?;
    let checkpoint = Checkpoint::open(DiskMap::options(), path, Read::Auto, args.convert.as_deref())?;
    let source = checkpoint.into_source();
    let opening = Opening { arch, path, source, device, tokens: args.tokens };
    let machine = args.machine(&opening)?;
    let subject = opening.open(1.0, args.config(u64::MAX))?;
    let problem = args.problem(&opening, &*subject, &machine)?;

    let plan = problem.plan(machine.budget).map_err(explain)?;
    let curve = curve::curve(&problem, &plan)?;
    let document = Document::new(args, &problem, checked, plan, curve);
    if let Some(path) = &args.save {
        write(path, &(serde_json::to_string_pretty(&document.plan)? + "\n"))?;
    }
    if let Some(path) = &args.svg {
        write(path, &svg::draw(&document))?;
    }
    if json {
        return output::json(&document);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    print::print(&mut out, &document)?;
    Ok(out.flush()?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a plan and proves it safe.
fn check(path: &Path) -> Result<Checked> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("{} is no plan", path.display()))?;
    layers::check(&plan).with_context(|| format!("{}: the plan is not safe", path.display()))?;
    Ok(Checked::new(path, &plan))
}

/// What is reckoned with: this machine, or one from a profile.
struct Machine {
    about: String,
    profile: Option<Profile>,
    topology: vram_stream::device::Topology,
    /// The device budget in bytes.
    budget: u64,
    host_budget: u64,
}

impl Args {
    fn machine(&self, opening: &Opening<'_>) -> Result<Machine> {
        let host_budget = |default: u64| self.host_budget.map_or(default, ByteSize::bytes);
        let Some(name) = &self.profile else {
            let info = opening.device.info();
            let device: &dyn Device = &*opening.device;
            return Ok(Machine {
                about: format!("this machine, {}: {}", info.backend, info.name),
                profile: None,
                topology: info.topology,
                budget: self.budget.now(device)?,
                host_budget: host_budget(64 << 20),
            });
        };
        let profile = profile(name)?;
        let budget = match self.budget {
            Budget::Auto => profile.device_bytes(),
            Budget::Bytes(size) => size.bytes(),
            Budget::LeaveFree(left) => profile.device_bytes().saturating_sub(left.bytes()),
        };
        Ok(Machine {
            about: format!("{name}: {}", profile.about),
            topology: profile.topology(),
            budget,
            host_budget: host_budget(profile.host_bytes()),
            profile: Some(profile),
        })
    }

    /// How the model is put under management to be planned for, and to be probed.
    fn config(&self, budget: u64) -> VramConfig {
        let mut config = VramConfig::disk(DType::F32, Ledger::new(Tier::Device, budget));
        config.computation = Placement { tier: Tier::Device, dtype: self.dtype.map(DType::from) };
        config
    }

    fn problem<'a>(
        &self,
        opening: &Opening<'_>,
        subject: &'a dyn Subject,
        machine: &'a Machine,
    ) -> Result<Problem<'a>> {
        let work: Vec<_> = subject.work().map_err(explain)?.into_iter().map(|(_, w)| w).collect();
        let mut setting = Setting {
            topology: machine.topology,
            budget: machine.budget,
            host_budget: machine.host_budget,
            staging: STAGING.min(machine.host_budget / 2),
            host_weights: false,
        };
        let host_visible = machine.topology.host_visible;
        let from = match self.from {
            Some(from) => from,
            None if !host_visible && fits_host(subject, &setting, &work)? => Waits::Host,
            None => Waits::Disk,
        };
        setting.host_weights = from == Waits::Host && !host_visible;
        let (mut costs, probe) = match &machine.profile {
            Some(profile) => (profile.costs(&work, subject.dtype()).map_err(explain)?, None),
            None => {
                // Most machines have room for the few layers that are probed beside whatever the budget is.
                let room = opening.device.memory().map_or(u64::MAX, |m| m.free);
                let (costs, probe) = probe::probe(opening, subject, from, self.config(room))?;
                (costs, Some(probe))
            }
        };
        if from == Waits::Host && host_visible {
            // Out of the page cache: a copy within one memory.
            costs.disk = costs.bus;
        }
        Ok(Problem { subject, machine, setting, from, costs, probe })
    }
}

/// Whether all weights can wait in host memory, beside staging and an input.
fn fits_host(subject: &dyn Subject, setting: &Setting, work: &[LayerWork]) -> Result<bool> {
    let nothing = Costs::assumed(work.iter().map(|w| w.bytes));
    let workspace = match subject.plan(&Setting { budget: 0, ..*setting }, &nothing) {
        Ok(plan) => plan.workspace_bytes,
        Err(layers::Error::BudgetTooSmall { workspace, .. }) => workspace,
        Err(e) => return Err(explain(e)),
    };
    Ok(subject.weights_bytes() <= setting.host_budget.saturating_sub(setting.staging + workspace))
}

/// Staging of all readers, as an engine takes it.
const STAGING: u64 = EngineOptions::READERS as u64 * (EngineOptions::PIECE_BYTES + 2 * 4096);

/// A profile by its name or from a file.
fn profile(name: &str) -> Result<Profile> {
    if Profile::names().any(|n| n == name) {
        return Ok(Profile::named(name)?);
    }
    let path = Path::new(name);
    match fs::read_to_string(path) {
        Ok(text) => Ok(Profile::parse(name, &text)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let names: Vec<&str> = Profile::names().collect();
            bail!("{name:?} is no profile and no file; there are the profiles {}", names.join(", "))
        }
        Err(e) => Err(anyhow!(e).context(format!("cannot read the profile {name:?}"))),
    }
}

/// A model on a machine, to be planned under any budget.
struct Problem<'a> {
    subject: &'a dyn Subject,
    machine: &'a Machine,
    setting: Setting,
    from: Waits,
    costs: Costs,
    probe: Option<Probe>,
}

impl Problem<'_> {
    fn plan(&self, budget: u64) -> Result<Plan, layers::Error> {
        self.subject.plan(&Setting { budget, ..self.setting }, &self.costs)
    }
}
