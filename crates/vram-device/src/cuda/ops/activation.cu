// The functions of `unary` and `gated`, by the numbers in `activation.rs`.

#define GELU 0u
#define GELU_TANH 1u
#define GELU_SIGMOID 2u
#define SILU 3u
#define TANH 4u

DEVICE float sigmoid_times(float x, float v) { return x / (1.0f + expf(-v)); }

DEVICE float activation(u32 kind, float v) {
    switch (kind) {
        // By erfc, which keeps its digits where 1 + erf has lost them.
        case GELU: return 0.5f * v * erfcf(-0.70710678f * v);
        // (1 + tanh u) / 2 is sigmoid(2 u), which keeps its digits where 1 + tanh has lost them.
        case GELU_TANH: return sigmoid_times(v, 1.59576912f * v * fmaf(0.044715f * v, v, 1.0f));
        case GELU_SIGMOID: return sigmoid_times(v, 1.702f * v);
        case SILU: return sigmoid_times(v, v);
        case TANH: return tanhf(v);
        default: return sigmoid_times(1.0f, v);
    }
}
