//! The functions of [`UnaryKind`](crate::ops::UnaryKind), for all operations that apply one.

/// The kernel of a kind: its function of `x`, as in `shaders/values.wgsl`, and what follows it.
macro_rules! activation {
    ($kind:expr, $name:literal, $x:literal, $rest:literal) => {{
        use $crate::ops::UnaryKind;
        use $crate::wgpu::ops::activation::function;
        match $kind {
            UnaryKind::Gelu => function!($name, "gelu", $x, $rest),
            UnaryKind::GeluTanh => function!($name, "gelu_tanh", $x, $rest),
            UnaryKind::GeluSigmoid => function!($name, "gelu_sigmoid", $x, $rest),
            UnaryKind::Silu => function!($name, "silu", $x, $rest),
            UnaryKind::Tanh => function!($name, "tanh_of", $x, $rest),
            UnaryKind::Sigmoid => function!($name, "sigmoid", $x, $rest),
        }
    }};
}

macro_rules! function {
    ($name:literal, $function:literal, $x:literal, $rest:literal) => {{
        static PROGRAM: $crate::wgpu::pipeline::Program = $crate::wgpu::ops::elements::program!(
            concat!($name, " ", $function),
            $function,
            "(",
            $x,
            ")",
            $rest
        );
        &PROGRAM
    }};
}

pub(super) use activation;
pub(super) use function;
