//! Reports which code touched forbidden memory before the process dies: the host that followed a
//! device pointer, or a kernel that accessed memory outside its operands.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The two ranges of [`Space`](crate::space::Space): their first addresses and their length, 0
/// before they are known.
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static REAL: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Pointer and length of the name of the running kernel.
static KERNEL: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static KERNEL_LENGTH: AtomicUsize = AtomicUsize::new(0);
/// The previous handler of such faults.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Starts to watch two ranges of this length.
pub(crate) fn watch(device: usize, real: usize, bytes: usize) {
    DEVICE.store(device, Ordering::Relaxed);
    REAL.store(real, Ordering::Relaxed);
    BYTES.store(bytes, Ordering::Relaxed);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed action has no flags. The handler only does what handlers may do, on the
        // stack that threads of the standard library have for it. The previous action is kept for
        // ever.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let before = Box::leak(Box::new(MaybeUninit::<libc::sigaction>::zeroed()));
            BEFORE.store(before.as_mut_ptr(), Ordering::Relaxed);
            libc::sigaction(libc::SIGSEGV, &action, before.as_mut_ptr());
        }
    });
}

/// Marks a kernel as running. Until this is dropped, faults are blamed on it.
pub(crate) struct Running<'a>(PhantomData<&'a str>);

/// Records which kernel runs. Only one runs at a time.
pub(crate) fn running(name: &str) -> Running<'_> {
    KERNEL_LENGTH.store(0, Ordering::SeqCst);
    KERNEL.store(name.as_ptr().cast_mut(), Ordering::SeqCst);
    KERNEL_LENGTH.store(name.len(), Ordering::SeqCst);
    Running(PhantomData)
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        KERNEL_LENGTH.store(0, Ordering::SeqCst);
    }
}

extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes valid information. Only loads, `write` and `sigaction` follow,
    // which a handler may call. The kernel's name lives while it runs. After the handler returns,
    // the same access reaches the previous handler.
    unsafe {
        let address = (*info).si_addr() as usize;
        let within =
            |first: usize| first != 0 && (first..first + BYTES.load(Ordering::Relaxed)).contains(&address);
        let (device, real) = (DEVICE.load(Ordering::Relaxed), REAL.load(Ordering::Relaxed));
        if within(device) {
            say(b"cuda-standin: the host (or a kernel, by a pointer that is no argument) followed the device address ");
            say_number(address);
        } else if within(real) {
            say(b"cuda-standin: kernel `");
            let length = KERNEL_LENGTH.load(Ordering::SeqCst);
            if length > 0 {
                say(std::slice::from_raw_parts(KERNEL.load(Ordering::SeqCst), length));
            }
            say(b"` went outside of every allocation, to the device address ");
            say_number(address - real + device);
        }
        libc::sigaction(signal, BEFORE.load(Ordering::Relaxed), ptr::null_mut());
    }
}

/// Writes to stderr.
fn say(bytes: &[u8]) {
    // SAFETY: the slice is valid.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// Writes a hexadecimal number and a newline.
fn say_number(number: usize) {
    let mut text = *b"0x0000000000000000\n";
    for (i, digit) in text[2..18].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[number >> (60 - 4 * i) & 15];
    }
    say(&text);
}
