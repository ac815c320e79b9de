//! Parameters: policies, initial values, storage and identity.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vram_alloc::{
    AlignedBytes, AllocError, Init, InitPolicy, ParamStorage, Parameter, named_parameters, skip_init,
    with_init,
};
use vram_types::{DType, TensorMeta, TypeError};

use crate::models::{ControlNet, Lm};

fn meta(dtype: DType, shape: &[usize]) -> TensorMeta {
    TensorMeta::new(dtype, shape.to_vec()).unwrap()
}

fn values(p: &Parameter) -> Vec<f32> {
    assert_eq!(p.meta().dtype(), DType::F32);
    p.host().unwrap().bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn filled(init: Init, elements: usize) -> Vec<f32> {
    with_init(InitPolicy::Allocate { seed: 1 }, || {
        values(&Parameter::new(meta(DType::F32, &[elements]), init).unwrap())
    })
}

#[test]
fn the_policy_comes_back_after_a_panic() {
    let caught = catch_unwind(AssertUnwindSafe(|| skip_init(|| panic!("while building"))));
    assert!(caught.is_err());
    assert_eq!(InitPolicy::current(), InitPolicy::Allocate { seed: 0 });
}

#[test]
fn threads_take_the_policy_as_a_value() {
    skip_init(|| {
        let policy = InitPolicy::current();
        let (without, with) = std::thread::scope(|s| {
            let without = s.spawn(InitPolicy::current).join().unwrap();
            let make = move || Parameter::new(meta(DType::F32, &[4]), Init::Zeros).unwrap();
            (without, s.spawn(move || with_init(policy, make).is_meta()).join().unwrap())
        });
        assert_ne!(without, InitPolicy::Skip);
        assert!(with);
    });
}

#[test]
fn equal_seeds_give_equal_models_whatever_the_pool() {
    let build = |seed, threads| {
        let pool = rayon_pool(threads);
        with_init(InitPolicy::Allocate { seed }, || {
            // `install` would run the closure on a thread without our policy, so pass the policy
            // explicitly.
            let policy = InitPolicy::current();
            pool.install(|| with_init(policy, || ControlNet::new(2, 160, 16).unwrap()))
        })
    };
    let bytes = |net: &ControlNet| -> Vec<Vec<u8>> {
        named_parameters(net).iter().map(|(_, p)| p.host().unwrap().bytes().to_vec()).collect()
    };
    let first = bytes(&build(7, 1));
    assert_eq!(first, bytes(&build(7, 3)));
    let other = bytes(&build(8, 1));
    assert_ne!(first[0], other[0]);
    // The projections of the two blocks have the same shape and must have different values.
    assert_ne!(first[4], first[10]);
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

#[test]
fn initial_values_have_the_distributions_of_pytorch() {
    let n = 200_000;
    let moments = |v: &[f32]| {
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        let var = v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / v.len() as f64;
        (mean, var.sqrt())
    };
    assert!(filled(Init::Zeros, 9).iter().all(|&x| x == 0.0));
    assert!(filled(Init::Ones, 9).iter().all(|&x| x == 1.0));
    assert!(filled(Init::Constant(-2.5), 9).iter().all(|&x| x == -2.5));

    let linear = filled(Init::linear(256), n);
    let bound = 1.0 / 16.0;
    assert!(linear.iter().all(|x| x.abs() <= bound * 1.000_001));
    assert!(linear.iter().any(|x| *x > 0.99 * bound) && linear.iter().any(|x| *x < -0.99 * bound));
    let (mean, std) = moments(&linear);
    assert!(mean.abs() < 2e-4 && (std - f64::from(bound) / 3f64.sqrt()).abs() < 2e-4, "{mean} {std}");

    let normal = filled(Init::EMBEDDING, n);
    assert!(normal.iter().all(|x| x.is_finite()));
    let (mean, std) = moments(&normal);
    assert!(mean.abs() < 0.01 && (std - 1.0).abs() < 0.01, "{mean} {std}");
    let within = normal.iter().filter(|x| x.abs() < 1.0).count() as f64 / n as f64;
    assert!((within - 0.6827).abs() < 0.005, "{within}");
    let pairs: f64 = normal.chunks(2).map(|p| f64::from(p[0] * p[1])).sum::<f64>() / (n / 2) as f64;
    assert!(pairs.abs() < 0.02, "{pairs}");
    assert_eq!(filled(Init::KaimingUniform { fan_in: 0, a: 1.0 }, 2), [0.0; 2]);
}

#[test]
fn only_zeros_for_dtypes_that_f32_does_not_cast_to() {
    for build in [skip_init::<AllocError>, |f| f()] as [fn(fn() -> AllocError) -> AllocError; 2] {
        let e = build(|| Parameter::new(meta(DType::I64, &[4]), Init::Ones).unwrap_err());
        assert!(matches!(e, AllocError::Init { dtype: DType::I64 }) && !e.is_oom(), "{e}");
    }
    let p = Parameter::new(meta(DType::F4, &[4]), Init::Zeros).unwrap();
    assert_eq!(p.host().unwrap().bytes(), [0, 0]);
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let e = Parameter::new(meta(DType::U8, &[usize::MAX / 4]), Init::Zeros).unwrap_err();
    assert!(e.is_oom(), "{e}");
    assert!(AlignedBytes::zeroed(u64::MAX).unwrap_err().is_oom());
}

#[test]
fn storage_is_checked_and_aligned() {
    let mut p = skip_init(|| Parameter::new(meta(DType::BF16, &[2, 3]), Init::Ones)).unwrap();
    assert!(p.is_meta() && p.host().is_none());
    let wrong = ParamStorage::from_f32(DType::F32, [3, 2], &[0.0; 6]).unwrap();
    assert!(matches!(p.set_host(wrong), Err(AllocError::Shape { .. })));
    let right = ParamStorage::from_f32(DType::F32, [2, 3], &[0.5; 6]).unwrap();
    assert_eq!(right.bytes().as_ptr() as usize % AlignedBytes::ALIGN, 0);
    p.set_host(right.clone()).unwrap();
    assert_eq!((p.meta().dtype(), p.is_meta()), (DType::F32, false));
    assert!(p.take_host().unwrap().shares_bytes_with(&right));
    assert!(p.is_meta());

    let short = ParamStorage::copy_from(meta(DType::F32, &[2]), &[0; 7]).unwrap_err();
    let expected = TypeError::Length { what: "a tensor's storage", expected: 8, actual: 7 };
    assert!(matches!(short, AllocError::Type(e) if e == expected));
    assert_eq!(format!("{right:?}"), "ParamStorage(F32[2, 3], 24 bytes)");
}

#[test]
fn computed_buffers_are_there_inside_skip_init_and_stay() {
    let mut lm = skip_init(Lm::new).unwrap();
    assert_eq!(values(&lm.inv_freq), [1.0, 0.01]);
    assert!(lm.inv_freq.take_host().is_none() && !lm.inv_freq.is_meta());
    assert!(lm.scale.is_meta() && lm.position_ids.is_meta());
    assert!(Lm::new().unwrap().position_ids.is_meta());
}

#[test]
fn tied_parameters_share_identity_and_bytes_and_no_others_do() {
    let lm = Lm::new().unwrap();
    assert_eq!(lm.embed.id(), lm.head.weight.id());
    assert!(lm.embed.host().unwrap().shares_bytes_with(lm.head.weight.host().unwrap()));
    assert_ne!(lm.embed.id(), lm.scale.id());
}
