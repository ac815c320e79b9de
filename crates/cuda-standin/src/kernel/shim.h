// The built-ins of CUDA C for the host's C++ compiler: qualifiers, indices, shared memory, barriers,
// warps, atomics, mathematics and vector types. `frame.rs` has the same `Frame`.
//
// The threads of a block run one after another. A thread that has to wait for others is suspended on its own stack and
// continues later. This file includes nothing, because kernels define their own types with common names.

#define __CUDA_STANDIN__ 1
#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict

typedef __SIZE_TYPE__ size_t;

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace standin {

struct Slot {
    const void *key;
    void *memory;
};

/// The running block, and its running thread.
struct Frame {
    uint3 thread, block, block_dim, grid_dim;
    /// Index of the thread that starts next, and how many have started.
    uint3 cursor;
    unsigned next;
    unsigned total;
    /// The thread's number in its block.
    unsigned linear;
    /// Whether this thread was ever suspended; if so, its stack ends with it.
    unsigned suspended;
    unsigned slots_used;
    unsigned char *dynamic;
    unsigned char *arena;
    unsigned long long arena_used, arena_bytes;
    Slot slots[64];
    /// Waits for the block (kind 0) or for the lanes in `mask` (kind 1), and passes them `value`. Returns the lanes' values,
    /// and after them for each lane which lanes took part.
    const unsigned long long *(*wait)(Frame *, unsigned kind, unsigned mask, unsigned line, unsigned long long value);
    void (*complain)(Frame *, const char *);
};

static thread_local Frame *frame __attribute__((tls_model("initial-exec")));

/// A static array in shared memory: the same bytes for every thread of a block, filled with poison for each block.
template <class T, class Tag> inline T &shared() {
    static char key;
    Frame *f = frame;
    for (unsigned i = 0; i < f->slots_used; i++)
        if (f->slots[i].key == &key) return *static_cast<T *>(f->slots[i].memory);
    const unsigned long long align = alignof(T) < 16 ? 16 : alignof(T);
    const unsigned long long at = (f->arena_used + align - 1) / align * align;
    if (f->slots_used == 64 || at + sizeof(T) > f->arena_bytes) {
        f->complain(f, "more shared memory is declared than a block can have");
        __builtin_trap();
    }
    f->arena_used = at + sizeof(T);
    void *memory = f->arena + at;
    __builtin_memset(memory, 0xFF, sizeof(T));
    f->slots[f->slots_used++] = {&key, memory};
    return *static_cast<T *>(memory);
}

struct Param {
    unsigned bytes;
    /// 0: not a pointer; 1: a pointer for reading; 2: a pointer for writing.
    unsigned pointer;
};

struct Entry {
    const char *name;
    void (*run)(Frame *, void *const *);
    const Param *params;
    unsigned count;
};

template <class T> struct PointerKind {
    static constexpr unsigned value = 0;
};
template <class T> struct PointerKind<T *> {
    static constexpr unsigned value = 2;
};
template <class T> struct PointerKind<const T *> {
    static constexpr unsigned value = 1;
};
template <class T> struct PointerKind<T *__restrict> : PointerKind<T *> {};
template <class T> struct Plain {
    typedef T type;
};
template <class T> struct Plain<const T> {
    typedef T type;
};

template <auto F, class... A> inline void threads(Frame *f, A... args) {
    frame = f;
    while (f->next < f->total) {
        f->thread = f->cursor;
        f->linear = f->next++;
        if (++f->cursor.x == f->block_dim.x) {
            f->cursor.x = 0;
            if (++f->cursor.y == f->block_dim.y) {
                f->cursor.y = 0;
                ++f->cursor.z;
            }
        }
        F(args...);
        if (f->suspended) return;
    }
}

template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <unsigned... I> struct MakeIndices<0, I...> {
    typedef Indices<I...> type;
};

template <auto F> struct Kernel;
template <class... A, void (*F)(A...)> struct Kernel<F> {
    static constexpr Param params[sizeof...(A) + 1] = {{sizeof(A), PointerKind<typename Plain<A>::type>::value}..., {0, 0}};
    template <unsigned... I> static void unpack(Frame *f, void *const *values, Indices<I...>) {
        (void)values;
        threads<F>(f, *static_cast<typename Plain<A>::type *>(values[I])...);
    }
    static void run(Frame *f, void *const *values) { unpack(f, values, typename MakeIndices<sizeof...(A)>::type()); }
};

template <auto F> constexpr Entry entry(const char *name) {
    return {name, Kernel<F>::run, Kernel<F>::params, sizeof(Kernel<F>::params) / sizeof(Param) - 1};
}

template <class To, class From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}

/// Converts a value to 64 bits, and back.
template <class T> inline unsigned long long pack(T value) {
    static_assert(sizeof(T) <= 8, "");
    unsigned long long word = 0;
    __builtin_memcpy(&word, &value, sizeof(T));
    return word;
}
template <class T> inline T unpack(unsigned long long word) {
    T value;
    __builtin_memcpy(&value, &word, sizeof(T));
    return value;
}

inline unsigned lane() { return frame->linear % 32; }

/// The value of another lane; poison if that lane did not take part.
template <class T> inline T from_lane(unsigned mask, T value, unsigned source, unsigned line) {
    const unsigned self = lane();
    const unsigned long long *lanes = frame->wait(frame, 1, mask, line, pack(value));
    return unpack<T>(lanes[32 + self] >> source & 1 ? lanes[source] : ~0ull);
}

/// One bit for each lane in `mask` whose value is not zero.
inline unsigned votes(unsigned mask, int value, unsigned line) {
    const unsigned self = lane();
    const unsigned long long *lanes = frame->wait(frame, 1, mask, line, value != 0);
    unsigned found = 0;
    for (unsigned i = 0; i < 32; i++) found |= (unsigned)(lanes[32 + self] >> i & 1 & lanes[i]) << i;
    return found;
}

} // namespace standin

#define threadIdx (standin::frame->thread)
#define blockIdx (standin::frame->block)
#define blockDim (standin::frame->block_dim)
#define gridDim (standin::frame->grid_dim)
static const int warpSize = 32;

// Barriers and warps. The line number identifies where a thread waits.

inline void __syncthreads(unsigned line = __builtin_LINE()) {
    if (standin::frame->total > 1) standin::frame->wait(standin::frame, 0, 0, line, 0);
}
inline void __syncwarp(unsigned mask = ~0u, unsigned line = __builtin_LINE()) {
    standin::frame->wait(standin::frame, 1, mask, line, 0);
}
template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, unsigned line = __builtin_LINE()) {
    const unsigned first = standin::lane() & ~(width - 1);
    return standin::from_lane(mask, v, first + (from & (width - 1)), line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, unsigned line = __builtin_LINE()) {
    const unsigned self = standin::lane(), first = self & ~(width - 1);
    return standin::from_lane(mask, v, self < first + by ? self : self - by, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, unsigned line = __builtin_LINE()) {
    const unsigned self = standin::lane(), last = self | (width - 1);
    return standin::from_lane(mask, v, self + by > last ? self : self + by, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32, unsigned line = __builtin_LINE()) {
    const unsigned self = standin::lane(), last = self | (width - 1), other = self ^ by;
    return standin::from_lane(mask, v, other > last ? self : other, line);
}
inline unsigned __ballot_sync(unsigned mask, int v, unsigned line = __builtin_LINE()) { return standin::votes(mask, v, line); }
inline int __any_sync(unsigned mask, int v, unsigned line = __builtin_LINE()) { return standin::votes(mask, v, line) != 0; }
inline int __all_sync(unsigned mask, int v, unsigned line = __builtin_LINE()) { return standin::votes(mask, !v, line) == 0; }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Atomics, because blocks run on several host threads. Each returns the previous value.

template <class T, class F> inline T standin_update(T *at, F change) {
    typedef unsigned long long Wide;
    if constexpr (sizeof(T) == 4) {
        unsigned *word = reinterpret_cast<unsigned *>(at), old = __atomic_load_n(word, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(word, &old, standin::bits<unsigned>(change(standin::bits<T>(old))), false,
                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
        return standin::bits<T>(old);
    } else {
        Wide *word = reinterpret_cast<Wide *>(at), old = __atomic_load_n(word, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(word, &old, standin::bits<Wide>(change(standin::bits<T>(old))), false,
                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
        return standin::bits<T>(old);
    }
}
template <class T> inline T atomicAdd(T *at, T v) { return standin_update(at, [=](T old) { return T(old + v); }); }
template <class T> inline T atomicSub(T *at, T v) { return standin_update(at, [=](T old) { return T(old - v); }); }
template <class T> inline T atomicMax(T *at, T v) { return standin_update(at, [=](T old) { return old > v ? old : v; }); }
template <class T> inline T atomicMin(T *at, T v) { return standin_update(at, [=](T old) { return old < v ? old : v; }); }
template <class T> inline T atomicAnd(T *at, T v) { return standin_update(at, [=](T old) { return T(old & v); }); }
template <class T> inline T atomicOr(T *at, T v) { return standin_update(at, [=](T old) { return T(old | v); }); }
template <class T> inline T atomicExch(T *at, T v) { return standin_update(at, [=](T) { return v; }); }
template <class T> inline T atomicCAS(T *at, T expected, T v) {
    return standin_update(at, [=](T old) { return old == expected ? v : old; });
}

// Mathematics.

extern "C" {
float expf(float), exp2f(float), exp10f(float), expm1f(float), logf(float), log2f(float), log10f(float), log1pf(float);
float sqrtf(float), cbrtf(float), powf(float, float), sinf(float), cosf(float), tanf(float), tanhf(float), erff(float);
float erfcf(float), fabsf(float), fmaxf(float, float), fminf(float, float), floorf(float), ceilf(float), truncf(float);
float roundf(float), rintf(float), fmodf(float, float), fmaf(float, float, float), copysignf(float, float), ldexpf(float, int);
double exp(double), log(double), sqrt(double), pow(double, double), sin(double), cos(double), tanh(double), erf(double);
double fabs(double), fmax(double, double), fmin(double, double), floor(double), ceil(double), fma(double, double, double);
}
inline float exp(float x) { return expf(x); }
inline float log(float x) { return logf(x); }
inline float sqrt(float x) { return sqrtf(x); }
inline float tanh(float x) { return tanhf(x); }
inline float fabs(float x) { return fabsf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
// The compiler must not fuse these with the surrounding expressions.
inline float __fadd_rn(float x, float y) { volatile float sum = x + y; return sum; }
inline float __fmul_rn(float x, float y) { volatile float product = x * y; return product; }
inline float __fdiv_rn(float x, float y) { volatile float quotient = x / y; return quotient; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline int abs(int x) { return x < 0 ? -x : x; }

inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
template <class A, class B> inline auto max(A a, B b) -> decltype(true ? A() : B()) { return a > b ? a : b; }
template <class A, class B> inline auto min(A a, B b) -> decltype(true ? A() : B()) { return a < b ? a : b; }

inline unsigned __float_as_uint(float x) { return standin::bits<unsigned>(x); }
inline int __float_as_int(float x) { return standin::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return standin::bits<float>(x); }
inline float __int_as_float(int x) { return standin::bits<float>(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
template <class T> inline T __ldg(const T *at) { return *at; }

// Vector types.

#define STANDIN_VECTOR(T, NAME, BYTES)                                                                                         \
    struct alignas(BYTES * 2) NAME##2 { T x, y; };                                                                            \
    struct NAME##3 { T x, y, z; };                                                                                            \
    struct alignas(BYTES * 4 > 16 ? 16 : BYTES * 4) NAME##4 { T x, y, z, w; };                                                \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                                                \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                                                        \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
STANDIN_VECTOR(signed char, char, 1)
STANDIN_VECTOR(unsigned char, uchar, 1)
STANDIN_VECTOR(short, short, 2)
STANDIN_VECTOR(unsigned short, ushort, 2)
STANDIN_VECTOR(int, int, 4)
STANDIN_VECTOR(float, float, 4)
STANDIN_VECTOR(double, double, 8)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
