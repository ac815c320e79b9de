//! Reading what a tensor is made of, through a bounded amount of memory.

use std::sync::Arc;

use vram_types::{ReadOptions, ReadRequest, SourceError, SourceErrorKind, WeightSource, cast::cast_pieces};

use super::expr::{Expr, Node, run_elements};
use super::identity::{SourceTensor, runs};
use super::layout::Layout;
use crate::read::strides::{self, Group};

/// Most bytes that are fetched at a time to be put where they belong.
const MOST_BATCH_BYTES: u64 = 2 << 20;
/// Most reads of such a batch.
const MOST_BATCH_READS: usize = 256;
/// Bytes that are cast at a time: they stay in the processor's cache.
const CAST_BYTES: usize = 256 << 10;
/// The same for what is gathered first, where long pieces make long reads.
const GATHERED_CAST_BYTES: usize = 4 << 20;
/// From here on a run is read to where it belongs at once.
const LEAST_RUN_BYTES: u64 = 256 << 10;
/// No unit is longer: the longest quantised block has 210 bytes.
const MOST_UNIT_BYTES: usize = 256;

/// Reads tensors of a source, as one request of a caller asks for.
pub(super) struct Gather<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) tensors: &'a [SourceTensor],
    pub(super) options: &'a ReadOptions,
}

impl Gather<'_> {
    /// Fills `dst` from byte `offset` of a tensor. The caller has checked the bounds.
    pub(super) fn bytes(&self, expr: &Expr, offset: u64, dst: &mut [u8]) -> Result<(), SourceError> {
        let unit = expr.unit_bytes();
        let (mut number, within) = (offset / unit, (offset % unit) as usize);
        let mut rest = dst;
        if within > 0 {
            let len = (unit as usize - within).min(rest.len());
            let (head, after) = std::mem::take(&mut rest).split_at_mut(len);
            self.part_of_unit(expr, number, within, head)?;
            (number, rest) = (number + 1, after);
        }
        let whole = rest.len() as u64 / unit;
        let (middle, tail) = rest.split_at_mut((whole * unit) as usize);
        self.units(expr, number, middle)?;
        self.part_of_unit(expr, number + whole, 0, tail)
    }

    fn part_of_unit(&self, expr: &Expr, number: u64, from: usize, dst: &mut [u8]) -> Result<(), SourceError> {
        if dst.is_empty() {
            return Ok(());
        }
        let mut memory = [0; MOST_UNIT_BYTES];
        let unit = &mut memory[..expr.unit_bytes() as usize];
        self.units(expr, number, unit)?;
        dst.copy_from_slice(&unit[from..from + dst.len()]);
        Ok(())
    }

    /// Fills `dst` with whole units of a tensor, from number `first` on.
    fn units(&self, expr: &Expr, first: u64, dst: &mut [u8]) -> Result<(), SourceError> {
        if dst.is_empty() {
            return Ok(());
        }
        match &expr.node {
            Node::Source(number) => {
                let request = self.request(*number, first * expr.unit_bytes(), dst)?;
                self.source.read_many(&mut [request], self.options)
            }
            Node::Cast(of) => self.cast(expr, of, first, dst),
            Node::Concat { dim, parts } => self.concat(expr, *dim, parts, first, dst),
            Node::View { of, first: begin, steps } => {
                let layout = Layout::new(expr.shape(), steps, *begin, expr.unit.elements)
                    .ok_or_else(|| internal("a view parts what it was made not to part"))?;
                if layout.is_dense() {
                    return self.units(of, layout.first + first, dst);
                }
                self.strided(of, &layout, first, dst)
            }
        }
    }

    fn request<'r>(
        &'r self,
        number: u32,
        offset: u64,
        dst: &'r mut [u8],
    ) -> Result<ReadRequest<'r>, SourceError> {
        let tensor = self.tensors.get(number as usize).ok_or_else(|| internal("no such source"))?;
        Ok(ReadRequest::tensor(&tensor.name, offset, dst))
    }

    fn cast(&self, expr: &Expr, of: &Expr, first: u64, dst: &mut [u8]) -> Result<(), SourceError> {
        let (from, to) = (of.meta.dtype(), expr.meta.dtype());
        let most = if runs(of, 0..of.meta.bytes()).is_some() { CAST_BYTES } else { GATHERED_CAST_BYTES };
        // What can be cast has units of one element.
        cast_pieces(from, dst, to, most, |after, piece| self.units(of, first + after, piece))
    }

    /// Each part has a run in each row of the whole; what is wanted of a part lies side by side in
    /// it.
    fn concat(
        &self,
        expr: &Expr,
        dim: usize,
        parts: &[Arc<Expr>],
        first: u64,
        dst: &mut [u8],
    ) -> Result<(), SourceError> {
        let unit = expr.unit_bytes();
        let width = |part: &Expr| run_elements(part, dim) / u64::from(expr.unit.elements);
        let row = parts.iter().map(|part| width(part)).sum();
        let last = first + dst.len() as u64 / unit;
        let (mut before, mut memory) = (0, Vec::new());
        for part in parts {
            let rows = Rows { run: width(part), row, before, first, unit };
            let (mut at, end) = (rows.up_to(first), rows.up_to(last));
            while at < end {
                self.options.check()?;
                let run = rows.left(at).min(end - at);
                if run * unit >= LEAST_RUN_BYTES || run == end - at {
                    self.units(part, at, &mut dst[rows.place(at)..][..(run * unit) as usize])?;
                    at += run;
                    continue;
                }
                let len = (MOST_BATCH_BYTES / 2 / unit).min(end - at);
                memory.resize((len * unit) as usize, 0);
                self.units(part, at, &mut memory)?;
                rows.scatter(&memory, at, dst);
                at += len;
            }
            before += rows.run;
        }
        Ok(())
    }

    fn strided(&self, of: &Expr, layout: &Layout, first: u64, dst: &mut [u8]) -> Result<(), SourceError> {
        let unit = of.unit_bytes();
        let last = first + dst.len() as u64 / unit;
        let mut batch = Batch { of, origin: layout.first * unit, groups: Vec::new(), bytes: 0 };
        let mut memory = Vec::new();
        for part in strides::parts(&layout.shape, &layout.steps, unit, first..last) {
            for group in part.groups() {
                let bytes = group.bytes.end - group.bytes.start;
                if batch.bytes + bytes > MOST_BATCH_BYTES || batch.groups.len() == MOST_BATCH_READS {
                    self.fetch(&mut batch, &mut memory, dst)?;
                }
                batch.bytes += bytes;
                batch.groups.push(group);
            }
        }
        self.fetch(&mut batch, &mut memory, dst)
    }

    /// Reads all groups of a batch at once and puts them where they belong.
    fn fetch(&self, batch: &mut Batch<'_>, memory: &mut Vec<u8>, dst: &mut [u8]) -> Result<(), SourceError> {
        self.options.check()?;
        memory.resize(batch.bytes as usize, 0);
        let of = batch.of;
        let mut requests = Vec::new();
        let mut rest = memory.as_mut_slice();
        for group in &batch.groups {
            let len = (group.bytes.end - group.bytes.start) as usize;
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(len);
            let from = batch.origin + group.bytes.start;
            match &of.node {
                Node::Source(number) => requests.push(self.request(*number, from, bytes)?),
                _ => self.units(of, from / of.unit_bytes(), bytes)?,
            }
            rest = after;
        }
        if !requests.is_empty() {
            self.source.read_many(&mut requests, self.options)?;
        }
        drop(requests);
        let mut rest = memory.as_slice();
        for group in batch.groups.drain(..) {
            let (bytes, after) = rest.split_at((group.bytes.end - group.bytes.start) as usize);
            for line in group.lines() {
                strides::scatter(line, of.unit_bytes() as usize, bytes, group.bytes.start, dst);
            }
            rest = after;
        }
        batch.bytes = 0;
        Ok(())
    }
}

/// Where the units of a part go in a whole whose rows it has a run of; all in units but `unit`
/// itself.
struct Rows {
    /// Of the part in each row.
    run: u64,
    /// Of a row.
    row: u64,
    /// Of the row before the run.
    before: u64,
    /// The number of the destination's first.
    first: u64,
    /// Bytes.
    unit: u64,
}

impl Rows {
    /// How many of the part there are before a place in the whole.
    fn up_to(&self, whole: u64) -> u64 {
        whole / self.row * self.run + (whole % self.row).saturating_sub(self.before).min(self.run)
    }

    /// How many of the part are left in a run.
    fn left(&self, at: u64) -> u64 {
        self.run - at % self.run
    }

    /// The byte of the destination at which a unit of the part goes.
    fn place(&self, at: u64) -> usize {
        ((at / self.run * self.row + self.before + at % self.run - self.first) * self.unit) as usize
    }

    /// Copies units of the part, from `at` on, run by run.
    fn scatter(&self, mut units: &[u8], mut at: u64, dst: &mut [u8]) {
        while !units.is_empty() {
            let len = (self.left(at) * self.unit).min(units.len() as u64) as usize;
            let (run, after) = units.split_at(len);
            dst[self.place(at)..][..len].copy_from_slice(run);
            (units, at) = (after, at + len as u64 / self.unit);
        }
    }
}

/// Reads that are done together.
struct Batch<'a> {
    of: &'a Expr,
    /// Where the view begins in what it is of, in bytes.
    origin: u64,
    groups: Vec<Group>,
    bytes: u64,
}

/// What cannot be, said rather than panicked.
fn internal(message: &str) -> SourceError {
    SourceError::new(
        SourceErrorKind::Invalid,
        format!("the conversion is not what it was compiled to: {message}"),
    )
}
