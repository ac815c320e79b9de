//! Modules, functions and launches.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::blocks::{Kind, Span};
use crate::config::Config;
use crate::kernel::{Launch, MOST_SHARED, Module};
use crate::nvrtc::image_at;
use crate::out::{put, text};
use crate::queue::Touch;
use crate::state::{Handle, LoadedFunction, LoadedModule, State, call};
use crate::status::Status;
use crate::work::Work;

/// The dynamic shared memory that a launch may request after `cuFuncSetAttribute`.
pub(super) const MOST_DYNAMIC: usize = MOST_SHARED;
/// The dynamic shared memory that a launch may request by default.
const PLAIN_DYNAMIC: usize = 48 << 10;

/// The most threads in a block.
const MOST_THREADS: u64 = 1024;

const MAX_THREADS_PER_BLOCK: c_int = 0;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;

/// Loads an image from NVRTC (the stand-in's own), and compiles it for this machine unless it is
/// cached.
#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(out: *mut usize, image: *const c_char) -> u32 {
    call("cuModuleLoadData", |state| {
        let context = state.need_context()?;
        // SAFETY: the caller passes an image, which ends with a zero.
        let image = unsafe { image_at(image) }.ok_or(Status::INVALID_IMAGE)?;
        if !image.arch.runs_on(state.config.major, state.config.minor) {
            return Err(Status::NO_BINARY_FOR_GPU);
        }
        let loaded = image.build().and_then(|path| Module::load(&path));
        let module = loaded.map_err(|log| state.refused(Status::INVALID_IMAGE, log))?;
        let bytes = state.config.module_bytes;
        state.take_own(context, bytes)?;
        let handle = state.handle(Handle::Module);
        state.modules.insert(handle, LoadedModule { context, module, bytes });
        state.books.objects += 1;
        put(out, handle)
    })
}

fn no_module(state: &mut State, module: usize) -> Status {
    state.refused(Status::INVALID_HANDLE, format!("module {module:#x} was unloaded, or never was one"))
}

/// Kernels of it that are queued still run.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> u32 {
    call("cuModuleUnload", |state| {
        let Some(gone) = state.modules.remove(&module) else { return Err(no_module(state, module)) };
        state.give_own(gone.context, gone.bytes);
        state.functions.retain(|_, f| f.module != module);
        state.books.objects -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(out: *mut usize, module: usize, name: *const c_char) -> u32 {
    call("cuModuleGetFunction", |state| {
        let name = text(name)?;
        let Some(loaded) = state.modules.get(&module) else { return Err(no_module(state, module)) };
        let context = loaded.context;
        let function = loaded.module.function(&name).ok_or(Status::NOT_FOUND)?;
        let handle = state.handle(Handle::Function);
        state.functions.insert(handle, LoadedFunction { context, module, function, dynamic: PLAIN_DYNAMIC });
        put(out, handle)
    })
}

fn no_function(state: &mut State, function: usize) -> Status {
    state.refused(Status::INVALID_HANDLE, format!("function {function:#x} is of no loaded module"))
}

/// `MAX_THREADS_PER_BLOCK` and `MAX_DYNAMIC_SHARED_SIZE_BYTES`. What only a compiler for cards
/// knows is `INVALID_VALUE`.
#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: usize) -> u32 {
    call("cuFuncGetAttribute", |state| {
        let Some(found) = state.functions.get(&function) else { return Err(no_function(state, function)) };
        match attribute {
            MAX_THREADS_PER_BLOCK => put(value, MOST_THREADS as c_int),
            MAX_DYNAMIC_SHARED_SIZE_BYTES => put(value, found.dynamic as c_int),
            _ => Err(Status::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> u32 {
    call("cuFuncSetAttribute", |state| {
        let Some(found) = state.functions.get_mut(&function) else {
            return Err(no_function(state, function));
        };
        let bytes =
            usize::try_from(value).ok().filter(|b| *b <= MOST_DYNAMIC).ok_or(Status::INVALID_VALUE)?;
        if attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES {
            return Err(Status::INVALID_VALUE);
        }
        found.dynamic = bytes;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: usize,
    arguments: *const *const c_void,
    extra: *const *const c_void,
) -> u32 {
    call("cuLaunchKernel", |state| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let stream = state.stream(stream)?;
        let Some(found) = state.functions.get(&function) else { return Err(no_function(state, function)) };
        let (context, dynamic, function) = (found.context, found.dynamic, found.function.clone());
        let current = state.need_context()?;
        if current != context || state.streams.get(&stream).is_none_or(|s| s.context != context) {
            let name = &function.name;
            let message =
                format!("kernel `{name}`, its stream and the current context are not of one context");
            return Err(state.refused(Status::INVALID_CONTEXT, message));
        }
        fits(grid, block)?;
        if shared as usize > dynamic {
            return Err(Status::INVALID_VALUE);
        }
        if Config::fails(&mut state.config.fail_launch) {
            return Err(Status::of(state.config.fail_code).unwrap_or(Status::UNKNOWN));
        }
        // Arguments packed into one buffer are not supported.
        if !extra.is_null() || function.arity() > 0 && arguments.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let mut values = Vec::with_capacity(function.arity());
        for i in 0..function.arity() {
            // SAFETY: the caller passes as many pointers as the kernel has parameters, to values
            // of their types.
            let value = unsafe {
                let at = *arguments.add(i);
                if at.is_null() {
                    return Err(Status::INVALID_VALUE);
                }
                function.argument(i, at)
            };
            values.push(value);
        }
        let mut launch = Launch {
            function,
            grid,
            block,
            dynamic: shared as usize,
            arguments: values,
            spans: Vec::new(),
            wrong: None,
        };
        let touches = pointed_to(state, &mut launch);
        let what = format!("kernel `{}`", launch.function.name).into();
        state.issue(stream, &what, Work::Launch(Box::new(launch)), &touches).map(|_| ())
    })
}

/// Whether a device runs this many blocks of this many threads.
fn fits(grid: [u32; 3], block: [u32; 3]) -> Result<(), Status> {
    let within = |n: [u32; 3], most: [u32; 3]| n.iter().zip(most).all(|(n, most)| *n > 0 && *n <= most);
    let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
    if !within(grid, [i32::MAX as u32, 65_535, 65_535])
        || !within(block, [1024, 1024, 64])
        || threads > MOST_THREADS
    {
        return Err(Status::INVALID_VALUE);
    }
    Ok(())
}

/// Finds what the pointers of a launch point to. It is not known how far a kernel reads from
/// there, so the first byte stands for all.
fn pointed_to(state: &State, launch: &mut Launch) -> Vec<Touch> {
    let mut touches = Vec::new();
    for (i, argument) in launch.arguments.iter().enumerate() {
        let Some((address, writes)) = argument.pointer() else { continue };
        let is_device = state.space.as_ref().is_some_and(|s| s.contains(address));
        let kind = if is_device { Kind::Device } else { Kind::Pinned };
        match state.blocks.around(kind, address) {
            Some((block, b)) => {
                // An address right after the last byte has no bytes.
                let bytes = usize::from(address < b.address + b.bytes as u64);
                let span = Span { block, address, bytes };
                launch.spans.push(span.clone());
                touches.push(Touch { span, writes });
            }
            None if is_device => {
                let what = state.blocks.freed_at(address).map_or_else(
                    || "in no allocation".to_owned(),
                    |number| format!("of allocation {number}, which was freed: use after free"),
                );
                launch.wrong = Some(format!("argument {i} pointing to {address:#x}, which is {what}"));
            }
            None => {}
        }
    }
    touches
}
