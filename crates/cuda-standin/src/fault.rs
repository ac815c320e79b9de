//! Says who it was when a process dies of memory that it may not touch: the host that followed a device pointer, or a kernel
//! that strayed from its operands. The process dies all the same.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The two ranges of [`Space`](crate::space::Space): their first addresses and their length, 0 before they are known.
static DEVICE: AtomicUsize = AtomicUsize::new(0);
static REAL: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Name of the kernel that runs: its bytes, and how many there are.
static KERNEL: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static KERNEL_LENGTH: AtomicUsize = AtomicUsize::new(0);
/// What was done about such faults before.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Watches over two ranges of so many bytes, from now on.
pub(crate) fn watch(device: usize, real: usize, bytes: usize) {
    DEVICE.store(device, Ordering::Relaxed);
    REAL.store(real, Ordering::Relaxed);
    BYTES.store(bytes, Ordering::Relaxed);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed action is one without flags; the handler does only what a handler may, on the stack that threads of
        // the standard library have for it. What was there before is kept for ever.
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

/// A kernel that runs, and that a fault is blamed on until this is dropped.
pub(crate) struct Running<'a>(PhantomData<&'a str>);

/// Keeps in mind which kernel runs. One does at a time.
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
    // SAFETY: the system gives the information; only loads, `write` and `sigaction` follow, which a handler may call. The
    // kernel's name lives while it runs. Back from here, the same access goes to whom it went before.
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
    // SAFETY: these bytes are there.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// Writes a number in hexadecimal, and ends the line.
fn say_number(number: usize) {
    let mut text = *b"0x0000000000000000\n";
    for (i, digit) in text[2..18].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[number >> (60 - 4 * i) & 15];
    }
    say(&text);
}
