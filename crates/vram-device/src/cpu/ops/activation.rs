//! The functions of [`UnaryKind`](crate::ops::UnaryKind), for all operations that apply one.

use crate::cpu::math;

/// A function of one element.
pub(super) trait Function: Send + Sync {
    fn apply<const FMA: bool>(x: f32) -> f32;
}

macro_rules! functions {
    ($($name:ident => $function:ident,)*) => {$(
        pub(super) struct $name;

        impl Function for $name {
            #[inline(always)]
            fn apply<const FMA: bool>(x: f32) -> f32 {
                math::$function::<FMA>(x)
            }
        }
    )*};
}

functions! {
    Gelu => gelu,
    GeluTanh => gelu_tanh,
    GeluSigmoid => gelu_sigmoid,
    Silu => silu,
    Tanh => tanh,
    Sigmoid => sigmoid,
}

/// `with_function!(kind, F => expression)`: the expression with `F` bound to the function.
macro_rules! with_function {
    ($kind:expr, $f:ident => $body:expr) => {
        match $kind {
            $crate::ops::UnaryKind::Gelu => {
                type $f = $crate::cpu::ops::activation::Gelu;
                $body
            }
            $crate::ops::UnaryKind::GeluTanh => {
                type $f = $crate::cpu::ops::activation::GeluTanh;
                $body
            }
            $crate::ops::UnaryKind::GeluSigmoid => {
                type $f = $crate::cpu::ops::activation::GeluSigmoid;
                $body
            }
            $crate::ops::UnaryKind::Silu => {
                type $f = $crate::cpu::ops::activation::Silu;
                $body
            }
            $crate::ops::UnaryKind::Tanh => {
                type $f = $crate::cpu::ops::activation::Tanh;
                $body
            }
            $crate::ops::UnaryKind::Sigmoid => {
                type $f = $crate::cpu::ops::activation::Sigmoid;
                $body
            }
        }
    };
}

pub(super) use with_function;
