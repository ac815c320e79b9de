//! A table: from the device where it is there, else only the rows that are asked for are read.

use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::{Budget, Tier};
use vram_layers::layers::Embedding;
use vram_layers::{Error, ModuleMap, VramConfig, enable_vram_management};
use vram_types::{DType, TensorMeta, WeightSource};

use crate::chain::encode;
use crate::common::{Random, cpu};
use crate::source::{Layout, MemorySource};

#[test]
fn rows_are_the_same_streamed_or_resident_and_nothing_else_is_read() {
    const ROWS: usize = 301;
    let layouts = [
        Layout::plain(),
        Layout { alignment: 512, gaps: vec![77], ..Layout::plain() },
        Layout { mapped: true, ..Layout::plain() },
        Layout { indirect: 8, ..Layout::plain() },
    ];
    for (i, layout) in layouts.into_iter().enumerate() {
        for stored in [DType::F32, DType::BF16, DType::F8_E4M3] {
            for (compute, width, discrete) in
                [(DType::F32, 33, false), (DType::BF16, 7, true), (DType::F16, 1, false)]
            {
                let mut random = Random::new(i as u64);
                let values: Vec<f32> = (0..ROWS * width).map(|_| random.value()).collect();
                let meta = TensorMeta::new(stored, [ROWS, width]).unwrap();
                let row_bytes = meta.row_bytes().unwrap();
                let mut source = MemorySource::new(layout.clone());
                source.add(&mut random, "weight", meta.clone(), encode(&values, stored));
                let source = Arc::new(source.finish());
                let ids: Vec<u32> = [0, 300, 7, 7, 150].into();
                let run = |limit: u64, ids: &[u32]| {
                    let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&source);
                    let config = VramConfig::disk(compute, Budget::new(Tier::Device, limit));
                    let model = skip_init(|| Embedding::new(ROWS, width, stored)).unwrap();
                    let map = ModuleMap::standard();
                    let model = enable_vram_management(model, from, cpu(2, discrete), &map, config).unwrap();
                    let before = source.bytes_read();
                    let forward = |m: &Embedding, fwd: &mut vram_layers::Forward<'_>| {
                        let y = m.forward(fwd, ids)?;
                        fwd.download(&y)
                    };
                    let first = model.run(forward)?;
                    assert!(model.run(forward)? == first);
                    Ok::<_, Error>((first, source.bytes_read() - before, model.report()))
                };
                let (resident, read, report) = run(1 << 20, &ids).unwrap();
                assert_eq!(read, meta.bytes(), "the table once, for both passes");
                assert_eq!((report.passes[1].disk_bytes, report.passes[1].device_bytes), (0, 0));
                let (streamed, read, report) = run(report.workspace_bytes, &ids).unwrap();
                assert!(streamed == resident, "{stored} {compute}");
                assert_eq!(read, 2 * ids.len() as u64 * row_bytes);
                assert_eq!(report.passes[1].disk_bytes, ids.len() as u64 * row_bytes);
                assert!(matches!(run(1 << 20, &[301]), Err(Error::Shape(_))));
                assert_eq!(run(1 << 20, &[]).unwrap().0.len(), 0);
            }
        }
    }
}
