//! What is the same for every device with memory of its own: tests of the backends for cards.

pub(crate) mod casts;
pub(crate) mod foreign;
pub(crate) mod order;
pub(crate) mod transfer;
pub(crate) mod util;

/// A test of each of these, on the device that an expression gives; where it gives none there is nothing to see.
macro_rules! tests {
    ($open:expr) => {
        $crate::gpu::tests! { $open;
            casts::every_pattern_casts_as_on_the_host,
            casts::eight_bit_weights_are_summed_as_their_values,
            casts::what_there_is_no_kernel_for_is_refused_by_name,
            order::a_copy_never_overtakes_the_kernels_that_use_its_target,
            order::copies_of_another_thread_come_where_they_were_issued,
            order::tickets_are_done_in_the_order_of_issue,
            transfer::uploads_write_what_they_are_told_to_and_nothing_beside,
            transfer::downloads_longer_than_what_is_read_back_at_once,
            transfer::an_arena_of_several_buffers_is_one,
        }
    };
    ($open:expr; $($module:ident::$name:ident,)+) => {$(
        #[test]
        fn $name() {
            if let Some(device) = $open {
                $crate::gpu::$module::$name(&device);
            }
        }
    )+};
}
pub(crate) use tests;
