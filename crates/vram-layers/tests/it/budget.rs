//! The property that everything else serves: the budget is hard, exact, and never changes the answer.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use vram_device::{Budget, Kernels, Tier, View, ViewMut, ops};
use vram_layers::schedule::Residency;
use vram_layers::{
    Error, Event, Managed, ModuleMap, Observer, RunOptions, Split, TILE_ROWS, Uncovered, VramConfig,
    enable_vram_management,
};
use vram_types::{TensorMeta, WeightSource};

use crate::chain::{Block, Chain, ModelCase, StepCase, any_model, decode};
use crate::common::cpu;
use crate::source::{Layout, MemorySource};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Map {
    Layers,
    Wrap,
    NonRecurse,
    WholeBlocks,
}

#[derive(Clone, Debug)]
struct Case {
    model: ModelCase,
    map: Map,
    layout: Layout,
    discrete: bool,
    threads: usize,
    readers: usize,
    ring: Option<u64>,
    /// Where between the smallest budget and everything the budget lies, out of 64.
    share: u64,
    tight_host: bool,
}

fn any_case() -> impl Strategy<Value = Case> {
    let map = prop::sample::select(vec![Map::Layers, Map::Wrap, Map::NonRecurse, Map::WholeBlocks]);
    let layout = (
        prop::sample::select(vec![1u64, 512, 4096]),
        prop::sample::select(vec![vec![0], vec![0, 3, 64], vec![4095, 4096, 4097], vec![1, 700, 5000, 9000]]),
        (any::<bool>(), 1usize..3, prop::sample::select(vec![0usize, 0, 2, 8])),
    )
        .prop_map(|(alignment, gaps, (mapped, files, indirect))| Layout {
            alignment,
            mapped,
            gaps,
            files,
            indirect,
        });
    let ring = prop::option::of(0u64..60_000);
    let device = (any::<bool>(), 1usize..4, 1usize..4, any::<bool>());
    (any_model(), map, layout, device, ring, 0u64..64).prop_map(
        |(model, map, layout, device, ring, share)| {
            let (discrete, threads, readers, tight_host) = device;
            Case { model, map, layout, discrete, threads, readers, ring, share, tight_host }
        },
    )
}

/// A run of a model under a budget.
struct Run {
    managed: Managed<Chain>,
    source: Arc<MemorySource>,
    budget: Budget,
    host: Budget,
    steps: Arc<Steps>,
}

/// How far the last pass said that it was, each time.
#[derive(Debug, Default)]
struct Steps(Mutex<Vec<(u64, u64)>>);

impl Observer for Steps {
    fn event(&self, event: &Event<'_>) {
        if let Event::Progress { done, total } = *event {
            self.0.lock().unwrap().push((done, total));
        }
    }
}

impl Case {
    fn run(&self, limit: u64) -> Run {
        let map = ModuleMap::standard().uncovered(Uncovered::Layer);
        let map = match self.map {
            Map::Layers => map,
            Map::Wrap => map.wrap::<Block>(),
            Map::NonRecurse => map.non_recurse::<Block>(),
            Map::WholeBlocks => map.layer::<Block>(Split::Whole),
        };
        self.run_as(limit, &map, self.discrete, false)
    }

    fn run_as(&self, limit: u64, map: &ModuleMap, discrete: bool, calibrate: bool) -> Run {
        let source = self.model.source(&self.layout);
        let budget = Budget::new(Tier::Device, limit);
        let staging = 2 * self.readers as u64 * (4 * self.layout.alignment + 1024);
        let host = Budget::new(Tier::Host, if self.tight_host { staging + 4096 } else { 8 << 20 });
        let mut config = VramConfig::disk(self.model.compute, budget.clone());
        config.host_limit = host.clone();
        config.ring = self.ring;
        config.readers = self.readers;
        config.calibrate = calibrate;
        let steps = Arc::<Steps>::default();
        config.observer = Some(Arc::<Steps>::clone(&steps));
        let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&source);
        let device = cpu(self.threads, discrete);
        let model = Chain::build(&self.model);
        let managed = enable_vram_management(model, from, device, map, config).unwrap();
        Run { managed, source, budget, host, steps }
    }

    /// Bytes of every slot that the finest cut makes, and of all weights at once; tables apart.
    fn slots(&self, source: &MemorySource) -> (Vec<u64>, u64) {
        let sector = self.layout.alignment;
        let (mut finest, mut natural, mut blocks) = (Vec::new(), 0, Vec::<(usize, Vec<Piece>)>::new());
        for (layer, metas) in self.model.layers().into_iter().filter(|(l, _)| l.split != Split::Gather) {
            let rows = metas[0].shape()[0];
            let pieces = |from: usize, to: usize| -> Vec<Piece> {
                layer.names.iter().zip(&metas).map(|(n, m)| piece(source, n, m, from, to)).collect()
            };
            if self.map != Map::WholeBlocks && layer.split == Split::Rows {
                let tile = |i: usize| slot(pieces(i, (i + TILE_ROWS).min(rows)), sector);
                finest.extend((0..rows).step_by(TILE_ROWS).map(tile));
            } else if self.map != Map::WholeBlocks {
                finest.push(slot(pieces(0, rows), sector));
            }
            match blocks.last_mut() {
                Some((b, all)) if Some(*b) == layer.block => all.extend(pieces(0, rows)),
                _ => blocks.push((layer.block.unwrap(), pieces(0, rows))),
            }
            natural += slot(pieces(0, rows), sector);
        }
        if matches!(self.map, Map::Wrap | Map::WholeBlocks) {
            natural = blocks.iter().map(|(_, all)| slot(all.clone(), sector)).sum();
        }
        if self.map == Map::WholeBlocks {
            finest = blocks.into_iter().map(|(_, all)| slot(all, sector)).collect();
        }
        (finest, natural)
    }

    /// Activations and scratch at their most, each at the lowest free multiple of 256.
    fn workspace(&self, kernels: &dyn Kernels) -> u64 {
        let (model, mut live, mut most) = (&self.model, Vec::<(u64, u64)>::new(), 0);
        let mut take = |live: &mut Vec<(u64, u64)>, bytes: u64| {
            let free = |at: &u64| live.iter().all(|l| at + bytes <= l.0 || l.1 <= *at);
            let ends = live.iter().map(|l| l.1.next_multiple_of(256));
            let at = ends.chain([0]).filter(free).min().unwrap();
            live.push((at, at + bytes));
            most = most.max(at + bytes);
        };
        let meta = |width| TensorMeta::new(model.compute, [model.tokens, width]).unwrap();
        take(&mut live, meta(model.width).bytes());
        if let Some((_, dtype)) = model.table {
            take(&mut live, TensorMeta::new(dtype, [model.tokens, model.width]).unwrap().bytes());
            live.pop();
        }
        let mut width = model.width;
        for block in &model.blocks {
            let steps = block.steps.iter().map(|(s, _)| s.clone());
            for step in block.gain.then_some(StepCase::RmsNorm).into_iter().chain(steps) {
                let x = meta(width);
                if let StepCase::Linear { outputs, .. } = step {
                    width = outputs;
                }
                take(&mut live, meta(width).bytes());
                if let StepCase::Linear { .. } = step {
                    take(&mut live, linear_scratch(kernels, &x, &meta(width)));
                    live.pop();
                }
                live.remove(0);
            }
        }
        most
    }

    fn smallest(&self, source: &MemorySource) -> u64 {
        let (finest, natural) = self.slots(source);
        let tile = finest.into_iter().max().unwrap();
        self.workspace(&*cpu(self.threads, self.discrete)) + tile.min(natural)
    }
}

/// File, offset (`None` where the bytes come by name) and length.
type Piece = (Option<(u32, u64)>, u64);

fn piece(source: &MemorySource, name: &str, meta: &TensorMeta, from: usize, to: usize) -> Piece {
    let row = meta.bytes() / meta.shape()[0] as u64;
    let place = match source.locate(name).unwrap().ranges.as_slice() {
        [range] => Some((range.file.0, range.offset + from as u64 * row)),
        _ => None,
    };
    (place, (to - from) as u64 * row)
}

/// Bytes that pieces take together: neighbours up to 4096 bytes apart are read at once, in whole sectors.
fn slot(mut pieces: Vec<Piece>, sector: u64) -> u64 {
    pieces.sort_by_key(|p| p.0); // stable: what comes by name keeps its order
    let mut runs: Vec<(u32, u64, u64)> = Vec::new();
    for (place, bytes) in &pieces {
        match (place, runs.last_mut()) {
            (None, _) => {}
            (Some((file, at)), Some(run)) if run.0 == *file && *at <= run.2 + 4096 => run.2 = at + bytes,
            (Some((file, at)), _) => runs.push((*file, *at, at + bytes)),
        }
    }
    let align = if sector == 1 { 64 } else { sector };
    let run = |end: u64, (_, from, to): &(u32, u64, u64)| {
        end.next_multiple_of(align) + to.next_multiple_of(sector) - from / sector * sector
    };
    let direct = runs.iter().fold(0, run);
    let named = pieces.iter().filter(|p| p.0.is_none());
    named.fold(direct, |end, (_, bytes)| end.next_multiple_of(64) + bytes)
}

impl Run {
    fn pass(&self, case: &Case, last: bool) -> Result<Vec<u8>, Error> {
        let options = RunOptions { last, ..RunOptions::default() };
        self.steps.0.lock().unwrap().clear();
        self.managed.run_with(options, |m, fwd| m.forward(fwd, &case.model))
    }

    fn minimum(&self, case: &Case) -> Result<u64, TestCaseError> {
        self.managed.minimum_budget(|m, fwd| m.forward(fwd, &case.model)).map_err(|e| fail(e.to_string()))
    }

    /// Three passes with the right answer, within the budget, and no byte moved that need not be.
    fn check(self, case: &Case, expected: &[u8]) -> Result<(), TestCaseError> {
        for pass in 0..3 {
            let output = self.pass(case, pass == 2).map_err(|e| fail(format!("pass {pass}: {e}")))?;
            prop_assert!(output == expected, "pass {} has other bits", pass);
            prop_assert!(self.budget.used() <= self.budget.limit());
            let steps = self.steps.0.lock().unwrap().clone();
            let total = steps.last().map_or(0, |step| step.1);
            prop_assert!(steps.iter().copied().eq((1..=total).map(|done| (done, total))), "{:?}", steps);
        }
        let report = self.managed.report();
        prop_assert!(report.peak_bytes <= self.budget.limit(), "{:?}", report);
        prop_assert!(self.host.peak() <= self.host.limit());
        let bytes: Vec<u64> = report.passes.iter().map(|p| p.device_bytes).collect();
        prop_assert_eq!(bytes[1], bytes[2]);
        prop_assert!(bytes[0] - bytes[1] <= report.resident_bytes, "{:?}", report);
        prop_assert_eq!(report.resident_bytes > 0, bytes[1] < bytes[0], "{:?}", report);
        prop_assert_eq!(self.source.bytes_read(), report.passes.iter().map(|p| p.disk_bytes).sum::<u64>());
        let everything = self.managed.engine().plan().units.iter().all(|u| u.kept == Residency::Device);
        prop_assert!(!everything || bytes[1] == 0, "{:?}", report);
        drop(self.managed);
        prop_assert_eq!((self.budget.used(), self.host.used()), (0, 0));
        Ok(())
    }
}

fn fail(message: String) -> TestCaseError {
    TestCaseError::fail(message)
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let resident = case.run_as(u64::MAX, &ModuleMap::standard().uncovered(Uncovered::Layer), false, false);
    let expected = resident.pass(case, true).map_err(|e| fail(e.to_string()))?;
    prop_assert!(decode(&expected, case.model.compute).iter().all(|v| v.is_finite()));
    resident.check(case, &expected)?;

    let probe = case.run(0);
    let smallest = case.smallest(&probe.source);
    let refused = |run: Run| match run.pass(case, false) {
        Err(Error::BudgetTooSmall { needed, given, .. }) => Ok((needed, given)),
        other => Err(fail(format!("not refused: {:?}", other.map(|o| o.len())))),
    };
    prop_assert_eq!(refused(probe)?, (smallest, 0));
    prop_assert_eq!(refused(case.run(smallest - 1))?, (smallest, smallest - 1));
    case.run(smallest).check(case, &expected).map_err(|e| fail(format!("at the smallest budget: {e}")))?;

    let all = case.slots(&case.model.source(&case.layout)).1;
    let between = smallest + all * case.share / 48;
    case.run(between).check(case, &expected).map_err(|e| fail(format!("with {between} bytes: {e}")))?;

    // Plans that are made anew from what was measured move other bytes, and change no bit.
    let map = ModuleMap::standard().uncovered(Uncovered::Layer);
    let limit = between.max(case.run_as(0, &map, case.discrete, true).minimum(case)?);
    let measured = case.run_as(limit, &map, case.discrete, true);
    for _ in 0..4 {
        prop_assert!(measured.pass(case, false).map_err(|e| fail(e.to_string()))? == expected);
    }
    prop_assert!(measured.budget.peak() <= limit && measured.host.peak() <= measured.host.limit());
    Ok(())
}

#[test]
fn the_budget_is_hard_and_exact_and_never_changes_the_answer() {
    let number = |name: &str, default: u64| -> u64 {
        std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
    };
    let (seed, cases) = (number("VRAM_SEED", 20_240_607), number("VRAM_CASES", 1000) as u32);
    println!("VRAM_SEED={seed} VRAM_CASES={cases}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    runner.run(&any_case(), |case| check(&case)).unwrap_or_else(|e| panic!("VRAM_SEED={seed}: {e}"));
}

/// The smallest budget once more, in thirty lines that share nothing with the engine nor with `smallest`: linear
/// layers one after the other, each tensor in one place of a file.
fn oracle(case: &Case, source: &MemorySource, kernels: &dyn Kernels) -> u64 {
    let (sector, align) = (case.layout.alignment, case.layout.alignment.max(64));
    let meta = |width| TensorMeta::new(case.model.compute, [case.model.tokens, width]).unwrap();
    let mut live = vec![(0, meta(case.model.width).bytes())];
    let (mut workspace, mut tile, mut everything) = (live[0].1, 0, 0);
    for (layer, metas) in case.model.layers() {
        let (rows, inputs) = (metas[0].shape()[0], metas[0].shape()[1]);
        let scratch = linear_scratch(kernels, &meta(inputs), &meta(rows));
        for bytes in [meta(rows).bytes(), scratch] {
            let free = |at: &u64| live.iter().all(|l: &(u64, u64)| at + bytes <= l.0 || l.1 <= *at);
            let at = live.iter().map(|l| l.1.next_multiple_of(256)).chain([0]).filter(free).min().unwrap();
            live.push((at, at + bytes));
            workspace = workspace.max(at + bytes);
        }
        live = vec![live[1]]; // the input and the scratch are gone, the output is the next input
        let slot = |from: usize, to: usize| {
            let mut runs = Vec::from_iter(layer.names.iter().zip(&metas).map(|(name, meta)| {
                let (range, row) = (source.locate(name).unwrap().ranges[0], meta.bytes() / rows as u64);
                (range.file, range.offset + from as u64 * row, range.offset + to as u64 * row)
            }));
            runs.sort(); // and those that are near are one, up to the end of the later
            runs.dedup_by(|b, a| b.0 == a.0 && b.1 <= a.2 + 4096 && std::mem::replace(&mut a.2, b.2) < b.2);
            let sectors = |a: u64, b: u64| b.next_multiple_of(sector) - a / sector * sector;
            runs.iter().fold(0u64, |end, (_, a, b)| end.next_multiple_of(align) + sectors(*a, *b))
        };
        tile = (0..rows).step_by(16).map(|i| slot(i, (i + 16).min(rows))).max().unwrap().max(tile);
        everything += slot(0, rows);
    }
    workspace + tile.min(everything)
}

/// Only the linear layers of a case, and their tensors each in one place.
fn plain(mut case: Case) -> Option<Case> {
    (case.map, case.layout.indirect, case.model.table) = (Map::Layers, 0, None);
    for block in &mut case.model.blocks {
        block.gain = false;
        block.steps.retain(|(step, _)| matches!(step, StepCase::Linear { .. }));
    }
    case.model.blocks.retain(|b| !b.steps.is_empty());
    (!case.model.blocks.is_empty()).then_some(case)
}

#[test]
fn a_thousand_models_are_accepted_at_n_bytes_and_refused_at_one_less() {
    let config = Config { cases: 1000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let cases = any_case().prop_filter_map("no linear layer", plain);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&cases, |case| {
        let kernels = cpu(case.threads, case.discrete);
        let n = oracle(&case, &case.model.source(&case.layout), &*kernels);
        let expected = case.run(u64::MAX).pass(&case, true).map_err(|e| fail(e.to_string()))?;
        let refused = case.run(n - 1).pass(&case, true);
        let exact = matches!(&refused, Err(Error::BudgetTooSmall { needed, .. }) if *needed == n);
        prop_assert!(exact, "{} bytes: {:?}", n - 1, refused.map(|o| o.len()));
        let run = case.run(n);
        prop_assert!(run.pass(&case, true).map_err(|e| fail(e.to_string()))? == expected);
        prop_assert!(run.budget.peak() <= n);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// Scratch of a linear layer from `x` to `y`.
fn linear_scratch(kernels: &dyn Kernels, x: &TensorMeta, y: &TensorMeta) -> u64 {
    let weight = TensorMeta::new(x.dtype(), [y.shape().last(), x.shape().last()]).unwrap();
    let (x, weight) = (View::absent(x.clone()), View::absent(weight));
    kernels.scratch(&ops::Linear::new(x, weight, ViewMut::absent(y.clone())).into())
}
