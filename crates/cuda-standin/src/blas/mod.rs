//! cublasLt: handles, descriptions, a choice of algorithms, and products that are queued on a
//! stream like kernels.
//!
//! There are three algorithms, which sum in different orders. As in the real library, the first
//! proposal of the heuristic depends on the number of columns. So code that chooses by shape,
//! although it must not, gets different bits.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

mod product;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};

use crate::blocks::{Kind, Span};
use crate::config::Config;
use crate::out::put;
use crate::queue::Touch;
use crate::state::{State, call};
use crate::status::Status;
use crate::work::Work;
pub(crate) use product::Product;
use product::{Element, Layout, Order};

/// `cublasStatus_t`.
const SUCCESS: u32 = 0;
const NOT_INITIALIZED: u32 = 1;
const ALLOC_FAILED: u32 = 3;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

/// Everything that a `cublasLt...Create` function made.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    handles: HashMap<usize, (usize, i64)>,
    products: HashMap<usize, Description>,
    layouts: HashMap<usize, Layout>,
    preferences: HashMap<usize, Preference>,
    last: usize,
}

impl Objects {
    /// How many of each kind there are.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("cublasLt handle", self.handles.len()),
            ("cublasLt product description", self.products.len()),
            ("cublasLt matrix layout", self.layouts.len()),
            ("cublasLt preference", self.preferences.len()),
        ]
    }

    /// Removes the handles of a context, and returns how many there were.
    pub(crate) fn end_context(&mut self, context: usize) -> usize {
        let before = self.handles.len();
        self.handles.retain(|_, (c, _)| *c != context);
        before - self.handles.len()
    }

    fn next(&mut self) -> usize {
        self.last += 1;
        (9 << 40) | (self.last << 4)
    }
}

/// What to compute.
#[derive(Clone, Copy, Debug)]
struct Description {
    transposed: [bool; 2],
}

/// Constraints on the choice of an algorithm.
#[derive(Clone, Copy, Debug)]
struct Preference {
    /// Whether partial sums may be added at the end.
    may_split: bool,
    /// Guaranteed alignment of A, B, C and D, in bytes.
    alignments: [u32; 4],
}

/// `cublasLtMatmulAlgo_t`: the algorithm's number (its index in [`ALGORITHMS`] plus one), the
/// alignment it needs, what the number of rows of D must be a multiple of, and the most rows and
/// columns of D it computes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
struct Proposal {
    algorithm: Algorithm,
    workspace: usize,
    state: u32,
    waves: f32,
    reserved: [c_int; 4],
}

const ALGORITHMS: [Order; 3] = [Order::Sequential, Order::Interleaved, Order::Split(4)];

fn blas(name: &'static str, body: impl FnOnce(&mut State) -> Result<(), u32>) -> u32 {
    let mut own = None;
    let status = call(name, |state| {
        own = body(state).err();
        Ok(())
    });
    match (own, status) {
        (Some(own), _) => own,
        (None, crate::status::SUCCESS) => SUCCESS,
        // If the driver refuses because its device is lost, the library cannot execute.
        (None, status) => {
            if status == Status::NOT_INITIALIZED.0 {
                NOT_INITIALIZED
            } else {
                EXECUTION_FAILED
            }
        }
    }
}

fn bad<E>(_: E) -> u32 {
    INVALID_VALUE
}

fn gone(state: &mut State, what: &str) -> u32 {
    state.misused(format!("the {what} was destroyed, or never was one"));
    INVALID_VALUE
}

/// Reads the value of an attribute.
fn value<T: Copy>(from: *const c_void, bytes: usize) -> Result<T, u32> {
    if from.is_null() || bytes != size_of::<T>() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller states that it has this type's size; only numbers are read.
    Ok(unsafe { from.cast::<T>().read_unaligned() })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    120_800
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(status: u32) -> *const c_char {
    let text = match status {
        SUCCESS => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        ALLOC_FAILED => c"CUBLAS_STATUS_ALLOC_FAILED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"unknown status",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtCreate(out: *mut usize) -> u32 {
    blas("cublasLtCreate", |state| {
        let context = state.need_context().map_err(|_| NOT_INITIALIZED)?;
        let bytes = state.config.blas_bytes;
        state.take_own(context, bytes).map_err(|_| ALLOC_FAILED)?;
        let handle = state.blas.next();
        state.blas.handles.insert(handle, (context, bytes));
        put(out, handle).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: usize) -> u32 {
    blas("cublasLtDestroy", |state| {
        let Some((context, bytes)) = state.blas.handles.remove(&handle) else {
            return Err(gone(state, "handle"));
        };
        state.give_own(context, bytes);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescCreate(out: *mut usize, compute: u32, scale: u32) -> u32 {
    blas("cublasLtMatmulDescCreate", |state| {
        // CUBLAS_COMPUTE_32F or _PEDANTIC, and factors of CUDA_R_32F.
        if ![68, 69].contains(&compute) || scale != 0 {
            return Err(NOT_SUPPORTED);
        }
        let handle = state.blas.next();
        state.blas.products.insert(handle, Description { transposed: [false; 2] });
        put(out, handle).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescDestroy(desc: usize) -> u32 {
    blas("cublasLtMatmulDescDestroy", |state| match state.blas.products.remove(&desc) {
        Some(_) => Ok(()),
        None => Err(gone(state, "description")),
    })
}

/// `TRANSA`, `TRANSB`, and those whose only supported value is the default: factors on the host,
/// no epilogue.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescSetAttribute(
    desc: usize,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> u32 {
    blas("cublasLtMatmulDescSetAttribute", |state| {
        let wanted: u32 = value(from, bytes)?;
        let Some(found) = state.blas.products.get_mut(&desc) else { return Err(gone(state, "description")) };
        match (attribute, wanted) {
            (3 | 4, 0 | 1) => found.transposed[attribute as usize - 3] = wanted == 1,
            (2, 0) | (7, 1) => {}
            (2 | 3 | 4 | 7, _) => return Err(NOT_SUPPORTED),
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    })
}

fn element(number: u32) -> Result<Element, u32> {
    match number {
        0 => Ok(Element::F32),
        2 => Ok(Element::F16),
        14 => Ok(Element::Bf16),
        _ => Err(NOT_SUPPORTED),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutCreate(
    out: *mut usize,
    kind: u32,
    rows: u64,
    columns: u64,
    ld: i64,
) -> u32 {
    blas("cublasLtMatrixLayoutCreate", |state| {
        let ld = usize::try_from(ld).ok().filter(|ld| *ld as u64 >= rows).ok_or(INVALID_VALUE)?;
        let (rows, columns) = (rows as usize, columns as usize);
        let layout = Layout { element: element(kind)?, rows, columns, ld, batches: 1, stride: 0 };
        let handle = state.blas.next();
        state.blas.layouts.insert(handle, layout);
        put(out, handle).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutDestroy(layout: usize) -> u32 {
    blas("cublasLtMatrixLayoutDestroy", |state| match state.blas.layouts.remove(&layout) {
        Some(_) => Ok(()),
        None => Err(gone(state, "layout")),
    })
}

/// `BATCH_COUNT`, `STRIDED_BATCH_OFFSET`, and columns as the order.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: usize,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> u32 {
    blas("cublasLtMatrixLayoutSetAttribute", |state| {
        let Some(found) = state.blas.layouts.get_mut(&layout) else { return Err(gone(state, "layout")) };
        match attribute {
            1 if value::<u32>(from, bytes)? == 0 => {}
            1 => return Err(NOT_SUPPORTED),
            5 => found.batches = usize::try_from(value::<i32>(from, bytes)?).map_err(bad)?,
            6 => found.stride = usize::try_from(value::<i64>(from, bytes)?).map_err(bad)?,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceCreate(out: *mut usize) -> u32 {
    blas("cublasLtMatmulPreferenceCreate", |state| {
        let handle = state.blas.next();
        state.blas.preferences.insert(handle, Preference { may_split: true, alignments: [256; 4] });
        put(out, handle).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(preference: usize) -> u32 {
    blas("cublasLtMatmulPreferenceDestroy", |state| match state.blas.preferences.remove(&preference) {
        Some(_) => Ok(()),
        None => Err(gone(state, "preference")),
    })
}

/// `MAX_WORKSPACE_BYTES` (none is ever needed), `REDUCTION_SCHEME_MASK` and the four
/// `MIN_ALIGNMENT`s.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: usize,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> u32 {
    blas("cublasLtMatmulPreferenceSetAttribute", |state| {
        let Some(found) = state.blas.preferences.get_mut(&preference) else {
            return Err(gone(state, "preference"));
        };
        match attribute {
            1 => _ = value::<u64>(from, bytes)?,
            3 => found.may_split = value::<u32>(from, bytes)? != 0,
            5..=8 => found.alignments[attribute as usize - 5] = value::<u32>(from, bytes)?,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    })
}

/// The layouts of a product, if they are compatible.
fn shapes(
    state: &mut State,
    desc: usize,
    layouts: [usize; 4],
) -> Result<([Layout; 4], [bool; 2], usize), u32> {
    let Some(description) = state.blas.products.get(&desc).copied() else {
        return Err(gone(state, "description"));
    };
    let mut found = Vec::new();
    for layout in layouts {
        let Some(layout) = state.blas.layouts.get(&layout).copied() else {
            return Err(gone(state, "layout"));
        };
        found.push(layout);
    }
    let [a, b, c, d] = found[..] else { return Err(INVALID_VALUE) };
    let turned = |l: Layout, t: bool| if t { (l.columns, l.rows) } else { (l.rows, l.columns) };
    let (rows, inner) = turned(a, description.transposed[0]);
    let (other, columns) = turned(b, description.transposed[1]);
    let fits =
        inner == other && (rows, columns) == (d.rows, d.columns) && (rows, columns) == (c.rows, c.columns);
    let batches = [a, b, c].iter().all(|l| l.batches == d.batches || l.batches == 1);
    if !fits || !batches {
        return Err(INVALID_VALUE);
    }
    // Both inputs have one type; the result is f32 or that type.
    if a.element != b.element || c.element != d.element || ![a.element, Element::F32].contains(&d.element) {
        return Err(NOT_SUPPORTED);
    }
    Ok(([a, b, c, d], description.transposed, inner))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    desc: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    wanted: c_int,
    results: *mut Proposal,
    count: *mut c_int,
) -> u32 {
    blas("cublasLtMatmulAlgoGetHeuristic", |state| {
        check_handle(state, handle)?;
        let (layouts, _, inner) = shapes(state, desc, [a, b, c, d])?;
        let Some(preference) = state.blas.preferences.get(&preference).copied() else {
            return Err(gone(state, "preference"));
        };
        let mut order = vec![1, 2];
        if layouts[3].columns <= 16 {
            order.reverse();
        }
        if preference.may_split && inner >= 256 {
            order.insert(0, 3);
        }
        let alignment = preference.alignments.into_iter().min().map_or(1, |a| a.clamp(1, 16));
        // As on an H100, where the proposals for a large product may refuse other products.
        let large = layouts[3].rows.is_multiple_of(8) && layouts[3].rows >= 1024;
        let [rows, columns] = [layouts[3].rows, layouts[3].columns].map(|n| 2 * n as u64);
        let limits = if large { [8, rows, columns] } else { [1, u64::MAX, u64::MAX] };
        order.truncate(usize::try_from(wanted).unwrap_or(0));
        for (i, number) in order.iter().enumerate() {
            let [multiple, rows, columns] = limits;
            let data = [*number, u64::from(alignment), multiple, rows, columns, 0, 0, 0];
            let algorithm = Algorithm { data };
            put(results.wrapping_add(i), proposal(algorithm)).map_err(bad)?;
        }
        put(count, order.len() as c_int).map_err(bad)
    })
}

fn proposal(algorithm: Algorithm) -> Proposal {
    Proposal { algorithm, workspace: 0, state: SUCCESS, waves: 1.0, reserved: [0; 4] }
}

fn check_handle(state: &mut State, handle: usize) -> Result<usize, u32> {
    match state.blas.handles.get(&handle) {
        Some((context, _)) => Ok(*context),
        None => Err(gone(state, "handle")),
    }
}

/// Whether an algorithm that [`known`] has checked can compute such a D.
fn computes(algorithm: *const Algorithm, d: &Layout) -> Result<(), u32> {
    // SAFETY: `known` has checked that it is not null; only numbers are read.
    let [_, _, multiple, rows, columns, ..] = unsafe { algorithm.read_unaligned() }.data;
    let fits = (d.rows as u64).is_multiple_of(multiple) && d.rows as u64 <= rows;
    if fits && d.columns as u64 <= columns { Ok(()) } else { Err(NOT_SUPPORTED) }
}

/// The algorithm that a caller passes back, and the alignment it needs.
fn known(algorithm: *const Algorithm) -> Result<(Order, u64), u32> {
    if algorithm.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, and the caller's copy of one that the heuristic returned; only numbers are
    // read.
    let data = unsafe { algorithm.read_unaligned() }.data;
    let order =
        usize::try_from(data[0]).ok().and_then(|n| ALGORITHMS.get(n.checked_sub(1)?)).ok_or(INVALID_VALUE)?;
    Ok((*order, data[1].max(1)))
}

/// `ID`, `SPLITK_NUM` and `REDUCTION_SCHEME`, four bytes each.
#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoConfigGetAttribute(
    algorithm: *const Algorithm,
    attribute: u32,
    to: *mut c_void,
    bytes: usize,
    written: *mut usize,
) -> u32 {
    blas("cublasLtMatmulAlgoConfigGetAttribute", |_| {
        let (order, _) = known(algorithm)?;
        let parts = if let Order::Split(parts) = order { parts as u32 } else { 1 };
        let answer = match attribute {
            0 => ALGORITHMS.iter().position(|o| *o == order).map_or(0, |i| i as u32),
            2 => parts,
            // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
            3 => {
                if parts > 1 {
                    2
                } else {
                    0
                }
            }
            _ => return Err(INVALID_VALUE),
        };
        if !written.is_null() {
            put(written, 4).map_err(bad)?;
        }
        if to.is_null() && bytes == 0 {
            return Ok(());
        }
        if bytes < 4 {
            return Err(INVALID_VALUE);
        }
        put(to.cast::<u32>(), answer).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoCheck(
    handle: usize,
    desc: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    algorithm: *const Algorithm,
    result: *mut Proposal,
) -> u32 {
    blas("cublasLtMatmulAlgoCheck", |state| {
        check_handle(state, handle)?;
        let (layouts, ..) = shapes(state, desc, [a, b, c, d])?;
        known(algorithm)?;
        computes(algorithm, &layouts[3])?;
        // SAFETY: `known` has checked that it is not null.
        put(result, proposal(unsafe { algorithm.read_unaligned() })).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmul(
    handle: usize,
    desc: usize,
    alpha: *const c_void,
    a: u64,
    a_layout: usize,
    b: u64,
    b_layout: usize,
    beta: *const c_void,
    c: u64,
    c_layout: usize,
    d: u64,
    d_layout: usize,
    algorithm: *const Algorithm,
    _workspace: *mut c_void,
    _workspace_bytes: usize,
    stream: usize,
) -> u32 {
    blas("cublasLtMatmul", |state| {
        let context = check_handle(state, handle)?;
        let stream = state.stream(stream).map_err(bad)?;
        if state.streams.get(&stream).is_none_or(|s| s.context != context) {
            state.misused("the stream is of another context than the handle".to_owned());
            return Err(EXECUTION_FAILED);
        }
        let (layouts, transposed, _) = shapes(state, desc, [a_layout, b_layout, c_layout, d_layout])?;
        let (alpha, beta) = (value::<f32>(alpha, 4)?, value::<f32>(beta, 4)?);
        let (order, alignment) = known(algorithm)?;
        computes(algorithm, &layouts[3])?;
        if Config::fails(&mut state.config.fail_launch) {
            return Err(EXECUTION_FAILED);
        }
        // Without beta, C is not read.
        let addresses = [a, b, if beta == 0.0 { d } else { c }, d];
        let mut spans = Vec::new();
        for (name, (address, layout)) in ["A", "B", "C", "D"].iter().zip(addresses.into_iter().zip(&layouts))
        {
            if address % alignment != 0 {
                state.misused(format!(
                    "{name} at {address:#x} is not aligned to {alignment} bytes, as the algorithm needs"
                ));
                return Err(INVALID_VALUE);
            }
            spans.push(operand(state, name, address, layout)?);
        }
        let Ok(spans) = <[Span; 4]>::try_from(spans) else { return Err(INVALID_VALUE) };
        let touches = [(0, false), (1, false), (2, false), (3, true)]
            .map(|(i, writes): (usize, bool)| Touch { span: spans[i].clone(), writes });
        let product = Product { spans, layouts, transposed, alpha, beta, order };
        let touches = if beta == 0.0 { [&touches[..2], &touches[3..]].concat() } else { touches.to_vec() };
        state
            .issue(stream, &"product".into(), Work::Product(Box::new(product)), &touches)
            .map(|_| ())
            .map_err(|_| EXECUTION_FAILED)
    })
}

/// The memory of an operand.
fn operand(state: &mut State, name: &str, address: u64, layout: &Layout) -> Result<Span, u32> {
    let bytes = layout.bytes().ok_or(INVALID_VALUE)?;
    let wrong = match state.blocks.span(Kind::Device, address, bytes) {
        Ok(Some(span)) => return Ok(span),
        Ok(None) => match state.blocks.freed_at(address) {
            Some(number) => format!("{name} is in allocation {number}, which was freed: use after free"),
            None => format!("{name} at {address:#x} is in no allocation of a device"),
        },
        Err(wrong) => format!("{name} is out of range: {wrong}"),
    };
    state.misused(wrong);
    Err(EXECUTION_FAILED)
}
