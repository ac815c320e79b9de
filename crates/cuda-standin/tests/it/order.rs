//! Work runs as late as ordering permits, so a missing wait gives a wrong answer every time, and
//! is reported too.

use crate::standin::{ADD_ONE, NOT_READY, Standin, arg, ok};

/// A copy to the device on one stream, a kernel that reads it on another, and the result.
struct Pair {
    t: Standin,
    copies: usize,
    computes: usize,
    x: u64,
    y: u64,
    host: &'static mut [f32],
    copied: usize,
    kernel: usize,
}

const N: usize = 100;

impl Pair {
    fn new(settings: &[(&str, i64)]) -> Self {
        let t = Standin::new(settings);
        let host = t.pinned(N);
        host.fill(1.0);
        let (copies, computes, copied) = (t.stream(), t.stream(), t.event());
        let (x, y, kernel) = (t.alloc(4 * N), t.alloc(4 * N), t.function(ADD_ONE, "add_one"));
        Self { t, copies, computes, x, y, host, copied, kernel }
    }

    fn copy(&self) {
        ok((self.t.s.cuMemcpyHtoDAsync_v2)(self.x, self.host.as_ptr().cast(), 4 * N, self.copies));
        ok((self.t.s.cuEventRecord)(self.copied, self.copies));
    }

    fn wait(&self) {
        ok((self.t.s.cuStreamWaitEvent)(self.computes, self.copied, 0));
    }

    fn compute(&self) {
        let n = N as u32;
        ok(self.t.launch(self.kernel, 4, 32, self.computes, &[arg(&self.x), arg(&self.y), arg(&n)]));
    }

    /// What the kernel wrote, after waiting only for its stream.
    fn result(&self) -> f32 {
        ok((self.t.s.cuStreamSynchronize)(self.computes));
        let values: Vec<f32> = self.t.download(self.y, N);
        assert!(values.iter().all(|v| v.to_bits() == values[0].to_bits()), "{values:?}");
        values[0]
    }
}

#[test]
fn a_kernel_that_waits_for_its_copy_is_right() {
    let p = Pair::new(&[]);
    p.copy();
    p.wait();
    p.compute();
    assert_eq!(p.result(), 2.0);
    assert_eq!(p.t.misuse(), [""; 0]);
}

#[test]
fn a_kernel_that_does_not_wait_sees_poison_and_is_named() {
    let p = Pair::new(&[]);
    p.copy();
    p.compute();
    assert!(p.result().is_nan());
    p.t.expect_misuse("race: device allocation");
    let misuse = &p.t.misuse()[0];
    assert!(
        misuse.contains(
            "kernel `add_one` (stream 1, operation 1) reads from byte 0 on and is not ordered after"
        ),
        "{misuse}"
    );
    assert!(misuse.contains("copy to the device (stream 0, operation 1) writes bytes 0..400"), "{misuse}");
}

/// A copy into memory that a kernel still has to read. Late copies give the right answer by
/// chance, early ones do not; the missing ordering is reported in both cases.
#[test]
fn memory_that_is_overwritten_too_early() {
    for (early, expected) in [(0, 2.0), (1, 6.0)] {
        let mut p = Pair::new(&[("early_copies", early)]);
        p.copy();
        p.wait();
        p.compute();
        let next = p.t.pinned(N);
        next.fill(5.0);
        p.host = next;
        p.copy();
        assert_eq!(p.result(), expected, "early_copies = {early}");
        p.t.expect_misuse("copy to the device (stream 0, operation 3) writes bytes 0..400 and is not ordered after this: kernel");
    }
}

#[test]
fn a_copy_that_waits_for_the_reader_is_right_early_and_late() {
    for early in [0, 1] {
        let mut p = Pair::new(&[("early_copies", early)]);
        let computed = p.t.event();
        p.copy();
        p.wait();
        p.compute();
        ok((p.t.s.cuEventRecord)(computed, p.computes));
        ok((p.t.s.cuStreamWaitEvent)(p.copies, computed, 0));
        let next = p.t.pinned(N);
        next.fill(5.0);
        p.host = next;
        p.copy();
        assert_eq!(p.result(), 2.0, "early_copies = {early}");
        assert_eq!(p.t.misuse(), [""; 0]);
        ok((p.t.s.cuEventSynchronize)(p.copied));
        assert_eq!(p.t.download::<f32>(p.x, N)[0], 5.0);
    }
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs() {
    let p = Pair::new(&[]);
    p.copy();
    p.wait();
    p.compute();
    let staging = p.host.as_ptr().cast_mut();
    // SAFETY: the memory is ours; that a queued copy reads it is what this test is about.
    unsafe { staging.write(9.0) };
    ok((p.t.s.cuStreamSynchronize)(p.computes));
    assert_eq!(p.t.download::<f32>(p.y, 2), [10.0, 2.0]);
}

#[test]
fn results_arrive_when_the_host_waits_and_not_before() {
    let p = Pair::new(&[]);
    let (computed, out) = (p.t.event(), p.t.pinned(N));
    p.copy();
    p.wait();
    p.compute();
    ok((p.t.s.cuMemcpyDtoHAsync_v2)(out.as_mut_ptr().cast(), p.y, 4 * N, p.computes));
    ok((p.t.s.cuEventRecord)(computed, p.computes));
    assert!(out.iter().all(|v| v.is_nan()));
    ok((p.t.s.cuEventSynchronize)(computed));
    assert!(out.iter().all(|v| *v == 2.0));
}

#[test]
fn events_are_not_ready_for_a_while_and_then_make_progress() {
    let p = Pair::new(&[("queries", 3)]);
    p.copy();
    let asked: Vec<u32> = (0..5).map(|_| (p.t.s.cuEventQuery)(p.copied)).collect();
    assert_eq!(asked, [NOT_READY, NOT_READY, NOT_READY, 0, 0]);
    p.compute();
    // The host knows that the copy is done, so the kernel comes after it.
    let asked: Vec<u32> = (0..4).map(|_| (p.t.s.cuStreamQuery)(p.computes)).collect();
    assert_eq!(asked, [NOT_READY, NOT_READY, NOT_READY, 0]);
    assert_eq!(p.result(), 2.0);
    assert_eq!(p.t.misuse(), [""; 0]);
    assert_eq!((p.t.s.cuEventQuery)(p.t.event()), 0);
}

/// A wait refers to the record that existed when it was requested.
#[test]
fn an_event_recorded_anew_stands_for_something_later() {
    let p = Pair::new(&[]);
    p.copy();
    p.wait();
    p.compute();
    let next = p.t.pinned(N);
    next.fill(5.0);
    let spare = p.t.alloc(4 * N);
    ok((p.t.s.cuMemcpyHtoDAsync_v2)(spare, next.as_ptr().cast(), 4 * N, p.copies));
    ok((p.t.s.cuEventRecord)(p.copied, p.copies));
    assert_eq!(p.result(), 2.0);
    assert_eq!((p.t.s.cuEventQuery)(p.copied), NOT_READY);
}

#[test]
fn the_default_stream_waits_for_streams_that_block_and_they_for_it() {
    let p = Pair::new(&[]);
    let mut blocking = 0;
    ok((p.t.s.cuStreamCreate)(&mut blocking, 0));
    ok((p.t.s.cuMemcpyHtoDAsync_v2)(p.x, p.host.as_ptr().cast(), 4 * N, blocking));
    let n = N as u32;
    ok(p.t.launch(p.kernel, 4, 32, 0, &[arg(&p.x), arg(&p.y), arg(&n)]));
    ok((p.t.s.cuMemcpyDtoDAsync_v2)(p.x, p.y, 4 * N, blocking));
    ok((p.t.s.cuStreamSynchronize)(blocking));
    assert_eq!(p.t.download::<f32>(p.x, N), [2.0; N]);
    assert_eq!(p.t.misuse(), [""; 0]);
}

#[test]
fn a_context_is_synchronised_with_all_its_streams() {
    let p = Pair::new(&[]);
    p.copy();
    ok((p.t.s.cuCtxSynchronize)());
    p.compute();
    assert_eq!(p.result(), 2.0);
    assert_eq!(p.t.misuse(), [""; 0]);
}

#[test]
fn events_that_keep_the_time_have_run_in_their_order() {
    let t = Standin::new(&[]);
    let (mut start, mut end, mut time) = (0, 0, -1.0);
    ok((t.s.cuEventCreate)(&mut start, 0));
    ok((t.s.cuEventCreate)(&mut end, 0));
    let (stream, x) = (t.stream(), t.alloc(1 << 20));
    ok((t.s.cuEventRecord)(start, stream));
    ok((t.s.cuMemsetD8Async)(x, 7, 1 << 20, stream));
    ok((t.s.cuEventRecord)(end, stream));
    assert_eq!((t.s.cuEventElapsedTime)(&mut time, start, end), NOT_READY);
    ok((t.s.cuEventSynchronize)(end));
    ok((t.s.cuEventElapsedTime)(&mut time, start, end));
    assert!(time > 0.0, "{time}");
    assert_eq!(t.download::<u8>(x, 3), [7; 3]);
    // Events without timing have no time.
    assert_eq!((t.s.cuEventElapsedTime)(&mut time, t.event(), end), 400);
}

/// Threads with their own streams, each copying, computing and waiting: each sees its own values,
/// and no ordering is missing.
#[test]
fn many_threads_use_one_device() {
    let t = Standin::new(&[]);
    let kernel = t.function(ADD_ONE, "add_one");
    let work = &|thread: usize| {
        ok((t.s.cuCtxSetCurrent)(t.context));
        let (copies, computes, copied) = (t.stream(), t.stream(), t.event());
        let (x, y, n) = (t.alloc(4 * N), t.alloc(4 * N), N as u32);
        let (host, out) = (t.pinned(N), t.pinned(N));
        for round in 0..20 {
            let value = (100 * thread + round) as f32;
            host.fill(value);
            ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 4 * N, copies));
            ok((t.s.cuEventRecord)(copied, copies));
            ok((t.s.cuStreamWaitEvent)(computes, copied, 0));
            ok(t.launch(kernel, 4, 32, computes, &[arg(&x), arg(&y), arg(&n)]));
            ok((t.s.cuMemcpyDtoHAsync_v2)(out.as_mut_ptr().cast(), y, 4 * N, computes));
            ok((t.s.cuStreamSynchronize)(computes));
            assert!(out.iter().all(|v| *v == value + 1.0), "thread {thread}, round {round}");
        }
    };
    std::thread::scope(|scope| (0..6).for_each(|thread| _ = scope.spawn(move || work(thread))));
    assert_eq!(t.misuse(), [""; 0]);
}
