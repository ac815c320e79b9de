//! `vram plan`: predicts what stays, what streams, how long a pass takes, and what more memory
//! would buy.

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
use vram_stream::device::Memory;
use vram_stream::layers::state::Placement;
use vram_stream::layers::{self, Costs, EngineOptions, LayerWork, Plan, Profile, Setting};
use vram_stream::{Budget as Ledger, Device, Tier, VramConfig};
use vram_types::{ByteSize, DType};

use crate::arch::{Arch, Opening, Subject, path_beside};
use crate::args::{
    BUDGET, Budget, COMPUTING, ComputeDType, DEVICES, DeviceName, MEMORY, REPORTS, Read, Waits, at_least_one,
};
use crate::checkpoint::Checkpoint;
use crate::engine::explain;
use crate::output;
use crate::outputs::{Kind, Outputs};
use crate::progress::Working;
use document::{Checked, Document};
use probe::Probe;

/// Predict what a budget would do: what stays, what streams, how long a pass takes, and what more
/// memory would buy
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram plan model.safetensors --arch qwen-image-controlnet --budget 1GiB
  vram plan model.safetensors --arch qwen-image-controlnet --profile rtx3060-pcie3 --svg curve.svg
  vram plan model.safetensors --arch qwen-image-controlnet --budget 1GiB --save plan.json
  vram plan --check plan.json")]
pub(crate) struct Args {
    /// Checkpoint: a file, an index or a folder
    #[arg(value_name = "PATH", required_unless_present = "check", requires = "arch")]
    path: Option<PathBuf>,
    /// Architecture of the weights
    #[arg(long, value_enum, requires = "path")]
    arch: Option<Arch>,
    /// Limit for device memory, weights and activations included, such as 512MiB or 6GiB; auto
    /// takes all of it, 50% half of it, free-1GiB leaves 1 GiB free
    #[arg(long, value_name = BUDGET, default_value_t = Budget::Auto, requires = "path", help_heading = MEMORY)]
    budget: Budget,
    /// Limit for host memory: weights kept there, and staging; defaults to 64MiB on this machine,
    /// and to all host memory of a profile
    #[arg(long, value_name = "SIZE", requires = "path", help_heading = MEMORY)]
    host_budget: Option<ByteSize>,
    /// Plan for another machine: the name of a built-in profile, or a TOML file of that form;
    /// without it, this machine is probed
    #[arg(long, value_name = "NAME|FILE", requires = "path")]
    profile: Option<String>,
    /// Where to keep weights that do not fit on the device; host is the page cache if the device
    /// uses host memory; defaults to host if all weights fit the host budget of a device with its
    /// own memory, else to disk
    #[arg(long, value_enum, requires = "path", help_heading = MEMORY)]
    from: Option<Waits>,
    /// Apply the conversion rules in this file first, as forward does
    #[arg(long, value_name = "FILE.toml", requires = "path")]
    convert: Option<PathBuf>,
    /// Number of tokens in a pass; of a BERT encoder, in a sequence; defaults to 256, or to all
    /// positions of an encoder that has fewer
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "path", help_heading = COMPUTING)]
    tokens: Option<usize>,
    /// Dtype to compute in; defaults to the dtype of the checkpoint
    #[arg(long, value_enum, requires = "path", help_heading = COMPUTING)]
    dtype: Option<ComputeDType>,
    /// Device of this machine to probe; a plan for a profile uses the activations and scratch of
    /// its kernels
    #[arg(long, value_name = DEVICES, default_value_t = DeviceName::Cpu, requires = "path", help_heading = COMPUTING)]
    device: DeviceName,
    /// Number of threads that the cpu computes with when it is probed; defaults to all
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "path", help_heading = COMPUTING)]
    threads: Option<usize>,
    /// Draw the time of a pass over the budget as SVG to this file
    #[arg(long, value_name = "FILE", requires = "path", help_heading = REPORTS)]
    svg: Option<PathBuf>,
    /// Write the plan as JSON to this file
    #[arg(long, value_name = "FILE", requires = "path", help_heading = REPORTS)]
    save: Option<PathBuf>,
    /// Replace existing files; a file that is also an input is never replaced
    #[arg(long, requires = "path")]
    force: bool,
    /// Prove that a plan in a file is safe: within its budgets, loaded before used, nothing
    /// overwritten while it is read
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let checked = args.check.as_deref().map(check).transpose()?;
    let (Some(path), Some(arch)) = (&args.path, args.arch) else {
        let checked = checked.context("pass a checkpoint and --arch")?;
        return if json { output::json(&checked) } else { Ok(checked.print(&mut io::stdout().lock())?) };
    };
    let device = args.device.open(args.threads)?;
    let checkpoint = Checkpoint::open(DiskMap::options(), path, Read::Auto, args.convert.as_deref())?;
    let mut outputs = Outputs::new(args.force, json);
    outputs.reads_checkpoint(path, checkpoint.map());
    let read = [args.convert.as_deref(), args.check.as_deref(), args.profile.as_deref().map(Path::new)];
    read.into_iter().flatten().for_each(|path| outputs.reads(path));
    if arch == Arch::Bert {
        outputs.reads(path_beside(path, "config.json"));
    }
    let save = outputs.add_some("--save", args.save.as_deref(), Kind::Text)?;
    let svg = outputs.add_some("--svg", args.svg.as_deref(), Kind::Text)?;
    let source = checkpoint.into_source();
    let tokens = args.tokens.unwrap_or_else(|| arch.usual_tokens(path, &*source));
    let opening = Opening { arch, path, source, device, tokens };
    let machine = args.machine(&opening)?;
    let subject = opening.open(1.0, args.config(u64::MAX))?;
    let problem = args.problem(&opening, &*subject, &machine)?;

    let plan = problem.plan(machine.budget).map_err(explain)?;
    let working = Working::on("planning");
    let curve = curve::curve(&problem, &plan)?;
    drop(working);
    let document = Document::new(args, &opening, &problem, checked, plan, curve);
    // The result first: a file that cannot be written does not cost it.
    if json {
        output::json(&document)?;
    } else {
        let mut out = outputs.people();
        print::print(&mut out, &document)?;
        out.flush()?;
    }
    if let Some(save) = &save {
        save.write((serde_json::to_string_pretty(&document.plan)? + "\n").as_bytes())?;
    }
    if let Some(svg) = &svg {
        svg.write(svg::draw(&document).as_bytes())?;
    }
    Ok(())
}

/// Reads a plan and proves that it is safe.
fn check(path: &Path) -> Result<Checked> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_document = || serde_json::from_str::<Printed>(&text).is_ok();
    let plan: Plan = serde_json::from_str(&text).with_context(|| match is_document() {
        true => format!(
            "{} is what plan --json prints, which has no fetches to check; plan --save writes a plan",
            path.display()
        ),
        false => format!("{} is not a plan", path.display()),
    })?;
    layers::check(&plan).with_context(|| format!("{}: the plan is not safe", path.display()))?;
    Ok(Checked::new(path, &plan))
}

/// What tells a [`Document`] from a plan.
#[derive(serde::Deserialize)]
struct Printed {
    #[serde(rename = "curve")]
    _curve: serde::de::IgnoredAny,
}

/// The machine to plan for: this one, or one from a profile.
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
        let budget = self.budget.of(profile.device_bytes());
        Ok(Machine {
            about: format!("{name}: {}", profile.about),
            topology: profile.topology(),
            budget,
            host_budget: host_budget(profile.host_bytes()),
            profile: Some(profile),
        })
    }

    /// The configuration of the model, for planning and for probing.
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
        let discrete = machine.topology.memory == Memory::Discrete;
        let from = match self.from {
            Some(from) => from,
            None if discrete && fits_host(subject, &setting, &work)? => Waits::Host,
            None => Waits::Disk,
        };
        setting.host_weights = from == Waits::Host && discrete;
        let (mut costs, probe) = match &machine.profile {
            Some(profile) => (profile.costs(&work, subject.dtype()).map_err(explain)?, None),
            None => {
                // Most machines have room for the few probed layers, whatever the budget is.
                let room = opening.device.memory().map_or(u64::MAX, |m| m.free);
                let _working = Working::on("measuring this machine");
                let (costs, probe) = probe::probe(opening, subject, from, self.config(room))?;
                (costs, Some(probe))
            }
        };
        if from == Waits::Host && !discrete {
            // From the page cache: a copy within one memory.
            costs.disk = costs.bus;
        }
        Ok(Problem { subject, machine, setting, from, costs, probe })
    }
}

/// Whether host memory holds all weights, together with staging and an input.
fn fits_host(subject: &dyn Subject, setting: &Setting, work: &[LayerWork]) -> Result<bool> {
    let nothing = Costs::assumed(work.iter().map(|w| w.bytes));
    let workspace = match subject.plan(&Setting { budget: 0, ..*setting }, &nothing) {
        Ok(plan) => plan.workspace_bytes,
        Err(layers::Error::BudgetTooSmall { workspace, .. }) => workspace,
        Err(e) => return Err(explain(e)),
    };
    Ok(subject.weights_bytes() <= setting.host_budget.saturating_sub(setting.staging + workspace))
}

/// The staging of all readers of an engine.
const STAGING: u64 = EngineOptions::READERS as u64 * (EngineOptions::PIECE_BYTES + 2 * 4096);

/// Finds a profile by name, or reads it from a file.
fn profile(name: &str) -> Result<Profile> {
    if Profile::names().any(|n| n == name) {
        return Ok(Profile::named(name)?);
    }
    let path = Path::new(name);
    match fs::read_to_string(path) {
        Ok(text) => Ok(Profile::parse(name, &text)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let names: Vec<&str> = Profile::names().collect();
            bail!("{name:?} is neither a profile nor a file; the profiles are {}", names.join(", "))
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
    /// Whether weights wait in the page cache: in the memory that kernels read, but not where they read them.
    fn waits_in_page_cache(&self) -> bool {
        self.from == Waits::Host && self.machine.topology.memory == Memory::Shared
    }

    fn plan(&self, budget: u64) -> Result<Plan, layers::Error> {
        self.subject.plan(&Setting { budget, ..self.setting }, &self.costs)
    }
}
