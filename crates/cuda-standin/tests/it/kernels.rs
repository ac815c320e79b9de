//! CUDA C runs as on a card: blocks and threads, shared memory, barriers, warps, atomics,
//! arguments of every kind.

use std::ptr;

use crate::standin::{INVALID_VALUE, Standin, arg, ok};

/// Runs a kernel `f(const float *x, float *y)` and returns the `count` floats that it wrote.
fn run(t: &Standin, source: &str, grid: u32, block: u32, x: &[f32], count: usize) -> Vec<f32> {
    let (x, y) = (t.upload(x), t.alloc(4 * count));
    let kernel = t.function(source, "f");
    ok(t.launch(kernel, grid, block, 0, &[arg(&x), arg(&y)]));
    t.download(y, count)
}

/// The sum of each block's `blockDim.x` values, as a tree in shared memory.
const TREE: &str = r#"
extern "C" __global__ void __launch_bounds__(256) f(const float *__restrict__ x, float *__restrict__ y) {
    __shared__ float sums[256];
    unsigned t = threadIdx.x;
    sums[t] = x[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) sums[t] += sums[t + half];
        __syncthreads();
    }
    if (t == 0) y[blockIdx.x] = sums[0];
}
"#;

#[test]
fn barriers_let_threads_see_what_the_others_wrote() {
    let t = Standin::new(&[]);
    for (grid, block) in [(1, 2), (7, 64), (50, 256)] {
        let x: Vec<f32> = (0..grid * block).map(|i| (i % 13) as f32).collect();
        let expected: Vec<f32> = x.chunks(block as usize).map(|c| c.iter().sum()).collect();
        assert_eq!(run(&t, TREE, grid, block, &x, grid as usize), expected, "{grid} blocks of {block}");
    }
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn blocks_on_one_thread_or_on_all_give_the_same() {
    let x: Vec<f32> = (0..100 * 256).map(|i| (i as f32).sin()).collect();
    let results = [0, 1].map(|threads| run(&Standin::new(&[("threads", threads)]), TREE, 100, 256, &x, 100));
    assert_eq!(results[0], results[1]);
}

#[test]
fn shared_memory_is_poison_before_it_is_written() {
    let source = r#"
extern "C" __global__ void f(const float *x, float *y) {
    __shared__ float s[2][2];
    extern __shared__ float d[];
    unsigned t = threadIdx.x;
    y[4 * blockIdx.x + t] = s[t][1];
    y[4 * blockIdx.x + 2 + t] = d[t];
    __syncthreads();
    s[t][1] = d[t] = x[t];
}
"#;
    let t = Standin::new(&[("threads", 1)]);
    let (x, y) = (t.upload(&[1.0f32, 2.0]), t.alloc(48));
    let kernel = t.function(source, "f");
    let arguments = [arg(&x), arg(&y)];
    ok((t.s.cuLaunchKernel)(kernel, 3, 1, 1, 2, 1, 1, 8, 0, arguments.as_ptr(), ptr::null()));
    let found: Vec<f32> = t.download(y, 12);
    assert!(found.iter().all(|v| v.is_nan()), "{found:?}");
}

#[test]
fn lanes_exchange_values() {
    let source = r#"
extern "C" __global__ void f(const float *x, float *y) {
    const unsigned all = 0xFFFFFFFFu;
    unsigned t = threadIdx.x;
    float v = x[t], sum = v, scan = v;
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(all, sum, by);
    for (unsigned by = 1; by < 32; by *= 2) {
        float before = __shfl_up_sync(all, scan, by);
        if (t % 32 >= by) scan += before;
    }
    float down = __shfl_down_sync(all, v, 1, 8), first = __shfl_sync(all, v, 0);
    unsigned odd = __ballot_sync(all, (int)v % 2);
    int any = __any_sync(all, v == 40.0f), every = __all_sync(all, v < 64.0f);
    __syncwarp();
    float *to = y + 7 * t;
    to[0] = sum, to[1] = scan, to[2] = down, to[3] = first, to[4] = (float)__popc(odd), to[5] = any, to[6] = every;
}
"#;
    let t = Standin::new(&[]);
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let found = run(&t, source, 1, 64, &x, 7 * 64);
    for (i, got) in found.chunks(7).enumerate() {
        let warp = i / 32 * 32;
        let sum = |to: usize| x[warp..=to].iter().sum::<f32>();
        let down = if i % 8 == 7 { i } else { i + 1 };
        let any = if warp == 32 { 1.0 } else { 0.0 };
        assert_eq!(got, [sum(warp + 31), sum(i), down as f32, warp as f32, 16.0, any, 1.0], "lane {i}");
    }
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn a_last_warp_that_is_not_full_is_a_warp() {
    let source = r#"
extern "C" __global__ void f(const float *x, float *y) {
    float sum = x[threadIdx.x];
    for (int by = 4; by > 0; by /= 2) sum += __shfl_down_sync(0xFFu, sum, by, 8);
    y[threadIdx.x] = sum;
}
"#;
    let t = Standin::new(&[]);
    assert_eq!(run(&t, source, 1, 8, &[1.0; 8], 8)[0], 8.0);
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn atomics_count_across_blocks() {
    let source = r#"
extern "C" __global__ void f(const float *x, float *y) {
    atomicAdd(y, x[0]);
    atomicAdd((unsigned *)y + 1, 2u);
    atomicMax((int *)y + 2, (int)(blockIdx.x * blockDim.x + threadIdx.x));
}
"#;
    let t = Standin::new(&[]);
    let (x, y) = (t.upload(&[1.0f32]), t.upload(&[0u32; 3]));
    let kernel = t.function(source, "f");
    ok(t.launch(kernel, 100, 256, 0, &[arg(&x), arg(&y)]));
    assert_eq!(t.download::<u32>(y, 3), [25_600f32.to_bits(), 51_200, 25_599]);
}

#[test]
fn arguments_and_indices_of_every_kind() {
    #[repr(C)]
    struct Ids {
        values: [u32; 100],
        scale: f32,
    }
    let source = r#"
struct Ids { unsigned values[100]; float scale; };
template <int N> __device__ __forceinline__ unsigned plus(unsigned v) { return v + N; }
extern "C" __global__ void f(unsigned char c, unsigned long long *__restrict__ y, const Ids ids, unsigned long long big, float none[]) {
    unsigned i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned at = i * blockDim.x * blockDim.y * blockDim.z + t;
    y[at] = big + c + ids.values[at % 100] + (unsigned)ids.scale + plus<3>(0) + (none ? 1 : 0);
}
"#;
    let t = Standin::new(&[]);
    let (c, big, none, ids) =
        (7u8, 1u64 << 40, 0u64, Ids { values: std::array::from_fn(|i| i as u32), scale: 5.0 });
    let count = 2 * 3 * 4 * 5 * 2 * 3;
    let y = t.alloc(8 * count);
    let kernel = t.function(source, "f");
    let arguments = [arg(&c), arg(&y), arg(&ids), arg(&big), arg(&none)];
    ok((t.s.cuLaunchKernel)(kernel, 2, 3, 4, 5, 2, 3, 0, 0, arguments.as_ptr(), ptr::null()));
    let found: Vec<u64> = t.download(y, count);
    let expected: Vec<u64> = (0..count as u64).map(|i| big + 7 + i % 100 + 5 + 3).collect();
    assert_eq!(found, expected);
}

/// Runs one block of a faulty kernel, and returns its status.
fn broken(t: &Standin, body: &str, block: u32) -> u32 {
    let source = format!("extern \"C\" __global__ void f(float *y) {{ unsigned t = threadIdx.x;\n{body}\n}}");
    let (y, kernel) = (t.alloc(4096), t.function(&source, "f"));
    ok(t.launch(kernel, 1, block, 0, &[arg(&y)]));
    (t.s.cuStreamSynchronize)(0)
}

#[test]
fn barriers_that_not_all_threads_reach() {
    let check = |body: &str, status: u32, part: &str| {
        let t = Standin::new(&[]);
        assert_eq!(broken(&t, body, 64), status, "{body}");
        t.expect_misuse(part);
    };
    check(
        "if (t >= 40) return; __syncthreads(); y[t] = 1;",
        0,
        "kernel `f`: divergent barrier: 40 of 64 threads come to line 2",
    );
    check(
        "if (t < 40) __syncthreads();\nelse __syncthreads();",
        0,
        "some threads wait in line 2, others in line 3",
    );
    check(
        "if (t < 32) __syncwarp(0xFFFFFFFFu); else if (t < 40) __syncwarp(0x1FFu); else __syncthreads();",
        719,
        "a deadlock",
    );
    check("if (t > 3) __syncwarp(0xFFFFFFFFu);", 0, "line 2: lanes 0xf of the mask 0xffffffff have ended");
    check(
        "__shared__ float s[13000]; s[t] = t; __syncthreads(); y[t] = s[63 - t];",
        0,
        "52000 bytes of static shared memory",
    );
}

#[test]
fn launches_that_no_device_takes() {
    let t = Standin::new(&[]);
    let (y, kernel) = (t.alloc(4), t.function("extern \"C\" __global__ void f(float *y) { *y = 1; }", "f"));
    let arguments = [arg(&y)];
    let launch = |grid: [u32; 3], block: [u32; 3], shared: u32| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        (t.s.cuLaunchKernel)(kernel, gx, gy, gz, bx, by, bz, shared, 0, arguments.as_ptr(), ptr::null())
    };
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 65_536, 1], [1, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [32, 33, 1]),
        ([1, 1, 1], [1, 1, 65]),
    ] {
        assert_eq!(launch(grid, block, 0), INVALID_VALUE, "{grid:?} {block:?}");
    }
    assert_eq!(launch([1; 3], [1; 3], 50_000), INVALID_VALUE);
    ok((t.s.cuFuncSetAttribute)(kernel, 8, 60_000));
    ok(launch([1; 3], [1; 3], 50_000));
    assert_eq!((t.s.cuFuncSetAttribute)(kernel, 8, 1 << 20), INVALID_VALUE);
    assert_eq!(t.download::<f32>(y, 1), [1.0]);
}

#[test]
fn mathematics_and_vectors() {
    let source = r#"
extern "C" __global__ void f(const float *x, float *y) {
    float4 v = *(const float4 *)x;
    *(float2 *)y = make_float2(max(v.x, v.y), min(v.z, 2.5f));
    y[2] = __uint_as_float(__float_as_uint(v.x) ^ 0x80000000u);
    y[3] = fmaf(v.x, v.y, v.z) + rsqrtf(v.w) + __expf(0.0f) + erff(0.0f) + tanhf(0.0f) + __ldg(x);
    y[4] = (float)(max(3, 4u) + __clz(1) + __ffs(8) + min(7ull, 9ull));
    y[5] = fmaxf(v.x, -v.x) + sizeof(ushort4) + alignof(uint4) + INFINITE;
}
"#;
    let t = Standin::new(&[]);
    let source = source.replace("INFINITE", "(__int_as_float(0x7f800000) > 1e30f ? 100.0f : 0.0f)");
    let found = run(&t, &source, 1, 1, &[1.0, 2.0, 3.0, 4.0], 6);
    assert_eq!(
        found,
        [2.0, 2.5, -1.0, 5.0 + 0.5 + 1.0 + 1.0, 4.0 + 31.0 + 4.0 + 7.0, 1.0 + 8.0 + 16.0 + 100.0]
    );
}
