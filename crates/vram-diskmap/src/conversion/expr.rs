//! What a tensor of the new state dict is made of: views, concatenations and casts of others,
//! without a byte of them.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use vram_types::cast::can_cast;
use vram_types::{DType, Shape, TensorMeta};

use super::error::{ConversionError, ConversionErrorKind};
use super::layout::{self, Steps, Unit};

/// Views, concatenations and casts are of one another at most this deep: each level reads through
/// memory of its own.
const MOST_DEPTH: u8 = 8;
/// Most parts of all concatenations in a tensor.
const MOST_PARTS: u32 = 1 << 16;

/// A tensor as it is to be: what it is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Expr {
    pub(super) meta: TensorMeta,
    /// Elements that are never parted.
    pub(super) unit: Unit,
    pub(super) node: Node,
    depth: u8,
    parts: u32,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// A whole tensor of the checkpoint, by its number.
    Source(u32),
    /// Elements of `of`, counted in its row-major order: the first, and the steps from one index
    /// to the next.
    View { of: Arc<Expr>, first: u64, steps: Steps },
    /// One after the other along an extent.
    Concat { dim: usize, parts: Vec<Arc<Expr>> },
    /// The same in another dtype.
    Cast(Arc<Expr>),
}

type Made = Result<Arc<Expr>, ConversionError>;

impl Expr {
    /// A tensor of the checkpoint.
    pub(super) fn source(number: u32, meta: TensorMeta, unit: Unit) -> Arc<Expr> {
        Arc::new(Expr { meta, unit, node: Node::Source(number), depth: 0, parts: 1 })
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.meta.shape().dims()
    }

    /// Bytes of a unit.
    pub(super) fn unit_bytes(&self) -> u64 {
        u64::from(self.unit.bytes)
    }

    /// Bytes of elements that make whole units.
    pub(super) fn bytes_of(&self, elements: u64) -> u64 {
        elements / u64::from(self.unit.elements) * self.unit_bytes()
    }

    /// The source that comes first, and how far into it: roughly where the tensor lies in the
    /// checkpoint.
    pub(super) fn place(&self) -> (u32, u64) {
        match &self.node {
            Node::Source(number) => (*number, 0),
            Node::View { of, first, .. } => {
                let (number, before) = of.place();
                (number, before.saturating_add(*first))
            }
            Node::Concat { parts, .. } => parts.first().map_or((0, 0), |part| part.place()),
            Node::Cast(of) => of.place(),
        }
    }

    /// Tells the number of each source, some of them repeatedly.
    pub(super) fn sources(&self, tell: &mut impl FnMut(u32)) {
        match &self.node {
            Node::Source(number) => tell(*number),
            Node::View { of, .. } | Node::Cast(of) => of.sources(tell),
            Node::Concat { parts, .. } => parts.iter().for_each(|part| part.sources(tell)),
        }
    }

    /// As a view: of what, the first element and the steps.
    fn as_view(self: &Arc<Expr>) -> (Arc<Expr>, u64, Steps) {
        match &self.node {
            Node::View { of, first, steps } => (Arc::clone(of), *first, steps.clone()),
            _ => (Arc::clone(self), 0, layout::dense(self.shape())),
        }
    }
}

/// A view of `of`, made as plain as it can be.
fn view(of: &Arc<Expr>, shape: &[usize], first: u64, mut steps: Steps) -> Made {
    let meta = meta_of(of.meta.dtype(), shape)?;
    layout::normalise(shape, &mut steps);
    let is_dense = steps == layout::dense(shape);
    if is_dense && first == 0 && shape == of.shape() {
        return Ok(Arc::clone(of));
    }
    if let Node::View { of: inner, first: before, steps: within } = &of.node
        && *within == layout::dense(of.shape())
    {
        return view(inner, shape, before + first, steps);
    }
    let unit = of.unit;
    if layout::Layout::new(shape, &steps, first, unit.elements).is_none() {
        return Err(parted(unit));
    }
    let depth = deeper(of.depth)?;
    let parts = of.parts;
    Ok(Arc::new(Expr { meta, unit, node: Node::View { of: Arc::clone(of), first, steps }, depth, parts }))
}

/// Indices `range` of one extent.
pub(super) fn slice(expr: &Arc<Expr>, dim: usize, range: Range<usize>) -> Made {
    let extent = extent_of(expr, dim)?;
    if range.start > range.end || range.end > extent {
        return Err(shape_error(format!("the range {range:?} of extent {dim}, which is {extent}")));
    }
    match &expr.node {
        Node::Cast(of) => cast(&slice(of, dim, range)?, expr.meta.dtype()),
        Node::Concat { dim: along, parts } if *along == dim => concat(&within(parts, dim, range)?, dim),
        Node::Concat { dim: along, parts } => {
            let parts: Result<Vec<_>, _> = parts.iter().map(|p| slice(p, dim, range.clone())).collect();
            concat(&parts?, *along)
        }
        Node::Source(_) | Node::View { .. } => {
            let (of, first, steps) = expr.as_view();
            let mut shape: SmallVec<[usize; 4]> = SmallVec::from_slice(expr.shape());
            shape[dim] = range.len();
            let skipped = if shape.contains(&0) { 0 } else { range.start as u64 * steps[dim] };
            view(&of, &shape, first + skipped, steps)
        }
    }
}

/// The parts of a concatenation that `range` touches, cut to it; at least one, if only of no
/// width.
fn within(parts: &[Arc<Expr>], dim: usize, range: Range<usize>) -> Result<Vec<Arc<Expr>>, ConversionError> {
    let mut before = 0;
    let mut touched = Vec::new();
    for part in parts {
        let extent = part.shape()[dim];
        let (start, end) =
            (range.start.clamp(before, before + extent), range.end.clamp(before, before + extent));
        if start < end {
            touched.push(slice(part, dim, start - before..end - before)?);
        }
        before += extent;
    }
    if touched.is_empty()
        && let Some(part) = parts.first()
    {
        touched.push(slice(part, dim, 0..0)?);
    }
    Ok(touched)
}

/// The extents in another order: new extent `i` is the old one `axes[i]`.
pub(super) fn transpose(expr: &Arc<Expr>, axes: &[usize]) -> Made {
    let rank = expr.shape().len();
    let mut seen = axes.to_vec();
    seen.sort_unstable();
    if !seen.into_iter().eq(0..rank) {
        return Err(shape_error(format!(
            "the axes {axes:?} are no order of the {rank} extents of {}",
            expr.meta.shape()
        )));
    }
    match &expr.node {
        Node::Cast(of) => cast(&transpose(of, axes)?, expr.meta.dtype()),
        Node::Concat { dim, parts } => {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| transpose(part, axes)).collect();
            concat(&parts?, axes.iter().position(|axis| axis == dim).unwrap_or(*dim))
        }
        Node::Source(_) | Node::View { .. } => {
            let (of, first, steps) = expr.as_view();
            let shape: SmallVec<[usize; 4]> = axes.iter().map(|&axis| expr.shape()[axis]).collect();
            view(&of, &shape, first, axes.iter().map(|&axis| steps[axis]).collect())
        }
    }
}

/// The same elements in the same order under another shape; one extent may be -1.
pub(super) fn reshape(expr: &Arc<Expr>, asked: &[i64]) -> Made {
    let shape = layout::inferred(expr.meta.elements(), asked).ok_or_else(|| {
        let (elements, from) = (expr.meta.elements(), expr.meta.shape());
        shape_error(format!("the shape {asked:?} has not the {elements} elements of {from}"))
    })?;
    reshaped(expr, &shape)
}

fn reshaped(expr: &Arc<Expr>, shape: &[usize]) -> Made {
    if shape == expr.shape() {
        return Ok(Arc::clone(expr));
    }
    match &expr.node {
        Node::Cast(of) => return cast(&reshaped(of, shape)?, expr.meta.dtype()),
        Node::Concat { dim, parts } => {
            // What is only changed further in is changed in each part.
            let outer = dim + 1;
            let kept = shape.get(..outer).is_some_and(|s| s == &expr.shape()[..outer]);
            if kept && !expr.shape().contains(&0) {
                let inner = &shape[outer..];
                let part = |part: &Arc<Expr>| reshaped(part, &[&part.shape()[..outer], inner].concat());
                return concat(&parts.iter().map(part).collect::<Result<Vec<_>, _>>()?, *dim);
            }
        }
        Node::View { of, first, steps } => {
            if let Some(steps) = layout::restepped(expr.shape(), steps, shape) {
                return view(of, shape, *first, steps);
            }
        }
        Node::Source(_) => {}
    }
    view(expr, shape, 0, layout::dense(shape))
}

/// One after the other along an extent.
pub(super) fn concat(parts: &[Arc<Expr>], dim: usize) -> Made {
    let Some(like) = parts.first() else {
        return Err(ConversionError::new(ConversionErrorKind::Invalid, "a concatenation of no parts"));
    };
    extent_of(like, dim)?;
    parts.iter().try_for_each(|part| fits(like, part, dim))?;
    let flat = flattened(parts, dim)?;
    match flat.as_slice() {
        [] => return Ok(Arc::clone(like)),
        [only] => return Ok(Arc::clone(only)),
        _ => {}
    }
    let count = flat.iter().fold(0u32, |n, part| n.saturating_add(part.parts));
    if count > MOST_PARTS {
        let message = format!("{count} parts are put together; {MOST_PARTS} are the most");
        return Err(ConversionError::new(ConversionErrorKind::Unsupported, message));
    }
    let mut shape = like.shape().to_vec();
    let extent = flat.iter().try_fold(0usize, |sum, part| sum.checked_add(part.shape()[dim]));
    shape[dim] = extent.ok_or_else(|| shape_error("an extent overflows".to_owned()))?;
    let unit = like.unit;
    let whole = |part: &Arc<Expr>| run_elements(part, dim).is_multiple_of(u64::from(unit.elements));
    if !shape.contains(&0) && !flat.iter().all(whole) {
        return Err(parted(unit));
    }
    let depth = deeper(flat.iter().map(|part| part.depth).max().unwrap_or(0))?;
    let meta = meta_of(like.meta.dtype(), &shape)?;
    Ok(Arc::new(Expr { meta, unit, node: Node::Concat { dim, parts: flat }, depth, parts: count }))
}

/// The parts of parts, without those of no width, and neighbours that are one view as one.
fn flattened(parts: &[Arc<Expr>], dim: usize) -> Result<Vec<Arc<Expr>>, ConversionError> {
    let mut flat: Vec<Arc<Expr>> = Vec::new();
    for part in parts {
        let inner = match &part.node {
            Node::Concat { dim: along, parts } if *along == dim => parts.as_slice(),
            _ => std::slice::from_ref(part),
        };
        for part in inner.iter().filter(|part| part.shape()[dim] > 0) {
            if let Some(last) = flat.last_mut()
                && let Some(both) = joined(last, part, dim)?
            {
                *last = both;
            } else {
                flat.push(Arc::clone(part));
            }
        }
    }
    Ok(flat)
}

/// Elements that a part of a concatenation has side by side in the whole.
pub(super) fn run_elements(part: &Expr, dim: usize) -> u64 {
    part.shape()[dim..].iter().map(|&d| d as u64).product()
}

/// Whether `part` can stand beside `like` along `dim`.
fn fits(like: &Expr, part: &Expr, dim: usize) -> Result<(), ConversionError> {
    let (a, b) = (like.meta.dtype(), part.meta.dtype());
    if a != b || like.unit != part.unit {
        let message = format!("parts of {a} and of {b} are not put together; cast them first");
        return Err(ConversionError::new(ConversionErrorKind::Unsupported, message));
    }
    let others = |expr: &Expr| {
        let mut shape = expr.shape().to_vec();
        if let Some(extent) = shape.get_mut(dim) {
            *extent = 0;
        }
        shape
    };
    if others(like) != others(part) {
        let (a, b) = (like.meta.shape(), part.meta.shape());
        return Err(shape_error(format!("the shapes {a} and {b} differ in more than extent {dim}")));
    }
    Ok(())
}

/// Two neighbours as the one view that they are, where they are one.
fn joined(a: &Arc<Expr>, b: &Arc<Expr>, dim: usize) -> Result<Option<Arc<Expr>>, ConversionError> {
    let ((of, first, mut steps), (b_of, b_first, b_steps)) = (a.as_view(), b.as_view());
    let (extent, b_extent) = (a.shape()[dim], b.shape()[dim]);
    if of != b_of || matches!(a.node, Node::Concat { .. } | Node::Cast(_)) || a.shape().contains(&0) {
        return Ok(None);
    }
    let Some(apart) = b_first.checked_sub(first) else { return Ok(None) };
    // An extent of 1 has no step of its own.
    let step = match (extent, b_extent) {
        (1, 1) => apart,
        (1, _) => b_steps[dim],
        _ => steps[dim],
    };
    let same_step = b_extent == 1 || b_steps[dim] == step;
    let others = steps.iter().zip(&b_steps).enumerate().all(|(i, (a, b))| i == dim || a == b);
    if step == 0 || !same_step || !others || apart != extent as u64 * step {
        return Ok(None);
    }
    let mut shape = a.shape().to_vec();
    shape[dim] += b_extent;
    steps[dim] = step;
    view(&of, &shape, first, steps).map(Some)
}

/// In another dtype.
pub(super) fn cast(expr: &Arc<Expr>, to: DType) -> Made {
    let from = expr.meta.dtype();
    if from == to {
        return Ok(Arc::clone(expr));
    }
    if !can_cast(from, to) {
        let message = format!("there is no conversion from {from} to {to}");
        return Err(ConversionError::new(ConversionErrorKind::Unsupported, message));
    }
    let (meta, unit) = (meta_of(to, expr.shape())?, Unit::of(to));
    if unit.elements != 1 || expr.unit.elements != 1 {
        return Err(parted(unit));
    }
    let depth = deeper(expr.depth)?;
    Ok(Arc::new(Expr { meta, unit, node: Node::Cast(Arc::clone(expr)), depth, parts: expr.parts }))
}

/// One level more than what something is made of has.
fn deeper(depth: u8) -> Result<u8, ConversionError> {
    if depth >= MOST_DEPTH {
        let message = format!("views, concatenations and casts of one another, more than {MOST_DEPTH} deep");
        return Err(ConversionError::new(ConversionErrorKind::Unsupported, message));
    }
    Ok(depth + 1)
}

fn extent_of(expr: &Expr, dim: usize) -> Result<usize, ConversionError> {
    let none = || shape_error(format!("there is no extent {dim} in the shape {}", expr.meta.shape()));
    expr.shape().get(dim).copied().ok_or_else(none)
}

fn meta_of(dtype: DType, shape: &[usize]) -> Result<TensorMeta, ConversionError> {
    TensorMeta::new(dtype, Shape::new(shape))
        .map_err(|e| ConversionError::new(ConversionErrorKind::Unsupported, e.to_string()).caused_by(e))
}

fn shape_error(message: String) -> ConversionError {
    ConversionError::new(ConversionErrorKind::Shape, message)
}

fn parted(unit: Unit) -> ConversionError {
    let message = format!("elements would be parted in the middle of {}", unit.describe());
    ConversionError::new(ConversionErrorKind::Unsupported, message)
}
