//! All checked operations.

use super::suite::Suite;
use super::{
    attention, binary, cast, custom, gated, gather, group_norm, im2col, layer_norm, linear, modulate,
    rms_norm, rotary, scaled_add, strided_copy, top_k, unary, upsample,
};

/// Every operation, in the order of [`Op`](crate::ops::Op).
pub(super) const SUITES: &[Suite] = &[
    linear::SUITE,
    gather::SUITE,
    rms_norm::SUITE,
    layer_norm::SUITE,
    group_norm::SUITE,
    unary::SUITE,
    gated::SUITE,
    binary::SUITE,
    modulate::SUITE,
    scaled_add::SUITE,
    rotary::SUITE,
    attention::SUITE,
    im2col::SUITE,
    upsample::SUITE,
    strided_copy::SUITE,
    top_k::SUITE,
    cast::SUITE,
    custom::SUITE,
];
