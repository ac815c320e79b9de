//! Loading from a source: exact and inexact, tied and cast, failing and cancelled.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use vram_alloc::{
    AllocError, DTypePolicy, LoadOptions, LoadReport, Parameter, check, load, named_parameters, skip_init,
};
use vram_types::{DType, SourceErrorKind, WeightSource};

use crate::models::{Linear, Lm};
use crate::source::MemorySource;

fn embedding() -> Vec<f32> {
    (0..24).map(|i| i as f32 / 8.0).collect()
}

/// Everything that `Lm` loads; the tied weight is stored under its second name.
fn lm_source() -> MemorySource {
    let mut source = MemorySource::default();
    source
        .add_f32("lm_head.weight", &[6, 4], &embedding())
        .add("norm.weight", DType::BF16, &[4], &[0x80, 0x3f, 0, 0x40, 0x40, 0x40, 0x80, 0x40])
        .add_f32("scale", &[], &[3.0])
        .add_f32("inv_freq", &[2], &[9.0, 9.0])
        .add("position_ids", DType::I64, &[8], &[1; 64]);
    source
}

fn meta_lm() -> Lm {
    skip_init(Lm::new).unwrap()
}

fn f32s(p: &Parameter) -> Vec<f32> {
    let host = p.host().unwrap();
    let mut wide = vec![0; host.meta().elements() as usize * 4];
    vram_types::cast::cast(host.bytes(), host.meta().dtype(), &mut wide, DType::F32).unwrap();
    wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn incompatible(e: AllocError) -> LoadReport {
    match e {
        AllocError::Incompatible(report) => *report,
        other => panic!("{other}"),
    }
}

#[test]
fn an_exact_checkpoint_fills_everything_once() {
    let (source, mut lm) = (lm_source(), meta_lm());
    let checked = check(&lm, &source, &LoadOptions::default()).unwrap();
    assert_eq!(source.bytes_read(), 0, "a check reads nothing");
    let report = load(&mut lm, &source, &LoadOptions::default()).unwrap();
    assert_eq!(report, checked);
    assert_eq!((report.parameters, report.tensors, report.bytes), (4, 3, 96 + 8 + 4));
    assert_eq!(source.bytes_read(), report.bytes);
    assert_eq!(f32s(&lm.embed), embedding());
    assert_eq!(f32s(&lm.scale), [3.0]);
    assert!(lm.embed.host().unwrap().shares_bytes_with(lm.head.weight.host().unwrap()));
    assert_eq!(f32s(&lm.inv_freq), [1.0, 0.01], "computed, not loaded");
    assert!(lm.position_ids.is_meta(), "ignored");
    let norm = named_parameters(&lm).into_iter().find(|(name, _)| name == "norm.weight").unwrap().1;
    assert_eq!(f32s(norm), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(report.to_string(), "4 parameters from 3 tensors (108 B)");
}

#[test]
fn everything_that_does_not_fit_is_in_one_error() {
    let mut source = MemorySource::default();
    source
        .add_f32("embed.weight", &[4, 6], &embedding())
        .add_f32("norm.weight", &[4], &[2.0; 4])
        .add_f32("extra.a", &[1], &[0.0])
        .add_f32("extra.b", &[1], &[0.0]);
    let mut lm = meta_lm();
    let error = load(&mut lm, &source, &LoadOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the checkpoint does not fit the model: 1 parameters from 1 tensors (16 B); 1 missing: scale; \
         2 unexpected: extra.a, extra.b; 1 mismatched: embed.weight ([4, 6], but must be [6, 4])"
    );
    assert_eq!(source.bytes_read(), 0);
    assert_eq!(incompatible(check(&lm, &source, &LoadOptions::default()).unwrap_err()), incompatible(error));

    let lenient = LoadOptions { strict: false, ..LoadOptions::default() };
    let report = load(&mut lm, &source, &lenient).unwrap();
    assert_eq!((report.missing.len(), report.unexpected.len(), report.mismatched.len()), (1, 2, 1));
    assert!(lm.embed.is_meta() && lm.scale.is_meta());
    assert_eq!(source.bytes_read(), 16);
}

#[test]
fn dtypes_are_the_checkpoints_unless_asked_for() {
    let with = |dtype| {
        let mut lm = meta_lm();
        load(&mut lm, &lm_source(), &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        let dtypes: Vec<DType> = named_parameters(&lm)
            .iter()
            .filter(|(_, p)| p.role().is_loaded())
            .map(|(_, p)| p.meta().dtype())
            .collect();
        assert_eq!(f32s(&lm.embed), embedding(), "exact in every dtype used here");
        dtypes
    };
    use DType::{BF16, F16, F32};
    // embed, scale, norm, lm_head
    assert_eq!(with(DTypePolicy::Checkpoint), [F32, F32, BF16, F32]);
    assert_eq!(with(DTypePolicy::Floats(BF16)), [BF16; 4]);
    let norms_stay_f32 =
        DTypePolicy::PerParameter(Arc::new(|name, _| Some(if name.contains("norm") { F32 } else { F16 })));
    assert_eq!(with(norms_stay_f32), [F16, F16, F32, F16]);
    assert_eq!(with(DTypePolicy::PerParameter(Arc::new(|_, _| None))), [F32, F32, BF16, F32]);
}

#[test]
fn a_cast_that_does_not_exist_is_a_mismatch() {
    let dtype = DTypePolicy::PerParameter(Arc::new(|name, _| (name == "scale").then_some(DType::I64)));
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let report = incompatible(check(&meta_lm(), &lm_source(), &options).unwrap_err());
    assert_eq!(report.mismatched[0].to_string(), "scale (no cast from F32 to I64)");
}

#[test]
fn tensors_that_share_storage_are_read_once() {
    let mut source = lm_source();
    source.alias("embed.weight", "lm_head.weight");
    let mut lm = meta_lm();
    // Untied in the model, stored once in the file.
    lm.head = skip_init(|| Linear::new(4, 6, false)).unwrap();
    let report = load(&mut lm, &source, &LoadOptions::default()).unwrap();
    assert_eq!((report.parameters, report.tensors), (4, 3));
    assert_eq!(source.bytes_read(), 96 + 8 + 4);
    assert!(lm.embed.host().unwrap().shares_bytes_with(lm.head.weight.host().unwrap()));
}

#[test]
fn a_prefix_selects_one_model_of_a_file() {
    let mut source = MemorySource::default();
    source.add_f32("vae.weight", &[1], &[0.0]).add_f32("head.weight", &[1, 2], &[1.0, 2.0]).add_f32(
        "head.other",
        &[1],
        &[0.0],
    );
    let mut linear = skip_init(|| Linear::new(2, 1, false)).unwrap();
    let mut options = LoadOptions { prefix: "head.".to_owned(), ..LoadOptions::default() };
    let report = incompatible(check(&linear, &source, &options).unwrap_err());
    assert_eq!((report.unexpected, report.missing), (vec!["head.other".to_owned()], vec![]));
    options.strict = false;
    load(&mut linear, &source, &options).unwrap();
    assert_eq!(f32s(&linear.weight), [1.0, 2.0]);
}

#[test]
fn a_failure_or_cancellation_leaves_the_model_as_it_was() {
    let kind = |e: AllocError| match e {
        AllocError::Source(e) => e.kind(),
        other => panic!("{other}"),
    };
    // One tensor at a time, so that the first is read before the second fails.
    let options = LoadOptions { batch_bytes: 0, ..LoadOptions::default() };
    for calls in 0..3 {
        let mut source = lm_source();
        source.calls_before_failure = Some(AtomicUsize::new(calls));
        let mut lm = meta_lm();
        assert_eq!(kind(load(&mut lm, &source, &options).unwrap_err()), SourceErrorKind::Truncated);
        assert!(lm.embed.is_meta() && lm.scale.is_meta());
    }
    let mut lm = meta_lm();
    options.cancel.cancel();
    assert_eq!(kind(load(&mut lm, &lm_source(), &options).unwrap_err()), SourceErrorKind::Cancelled);
    assert!(lm.embed.is_meta());
}
