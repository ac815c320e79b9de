//! A simulated disk: its time, its faults and its counts.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use vram_device::sim::{DiskFault, DiskProfile, DiskUsage, Lateness, SimSource, SimTopology};
use vram_types::{
    DType, FileId, Located, ReadOptions, ReadRequest, SourceError, SourceErrorKind, StorageId, TensorMeta,
    WeightSource, WeightSourceExt,
};

use crate::util::sim;

/// One tensor whose bytes count up.
struct Counting;

impl WeightSource for Counting {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(["w"].into_iter())
    }
    fn locate(&self, name: &str) -> Option<Located> {
        let meta = TensorMeta::new(DType::U8, [200]).ok()?;
        let storage = StorageId { file: FileId(0), offset: 0 };
        (name == "w").then(|| Located::new(meta, storage, []))
    }
    fn describe(&self, _file: FileId) -> Option<Cow<'_, str>> {
        Some("counting".into())
    }
    fn read_many(&self, requests: &mut [ReadRequest<'_>], _options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            request.wanted()?.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        }
        Ok(())
    }
    fn bytes_read(&self) -> u64 {
        0
    }
}

fn faulty(faults: Vec<(u64, DiskFault)>) -> SimSource {
    SimSource::new(Arc::new(Counting)).with_faults(faults)
}

fn read(source: &SimSource) -> Result<Vec<u8>, SourceError> {
    let mut bytes = vec![0xee; 100];
    source.read_range("w", 0..100, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn faults_come_once_and_in_their_place() {
    let source = faulty(vec![
        (2, DiskFault::Error { retryable: true }),
        (3, DiskFault::Short),
        (4, DiskFault::Panic),
        (5, DiskFault::Error { retryable: false }),
    ]);
    let right: Vec<u8> = (0..100).collect();
    assert_eq!(read(&source).unwrap(), right);
    let e = read(&source).unwrap_err();
    assert_eq!((e.kind(), e.is_retryable(), e.tensor()), (SourceErrorKind::Io, true, Some("w")));
    let mut half = [0xee; 100];
    let e = source.read_range("w", 0..100, &mut half).unwrap_err();
    assert_eq!(e.kind(), SourceErrorKind::Truncated);
    assert_eq!((half[49], half[50]), (49, 0xee), "half of the bytes came");
    let panic = catch_unwind(AssertUnwindSafe(|| read(&source))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a simulated panic"));
    assert!(!read(&source).unwrap_err().is_retryable());
    assert_eq!(read(&source).unwrap(), right);
    assert_eq!(source.usage(), DiskUsage { reads: 6, bytes: 600, faults: 4 });
}

#[test]
fn readers_share_the_disk_in_virtual_time() {
    let sim = Arc::new(sim(Lateness::Nothing, SimTopology::SeparateCopyQueue));
    let profile = DiskProfile { bytes_per_second: 1e9, latency: Duration::from_nanos(50) };
    let source =
        faulty(vec![(3, DiskFault::Slow(Duration::from_nanos(1000)))]).timed(Arc::clone(&sim), profile);
    read(&source).unwrap();
    assert_eq!(sim.now(), Duration::from_nanos(150));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            read(&source).unwrap();
            assert_eq!(sim.now(), Duration::from_nanos(300));
        });
    });
    assert_eq!(sim.now(), Duration::from_nanos(150));
    read(&source).unwrap();
    assert_eq!(sim.now(), Duration::from_nanos(1450));
    assert_eq!(sim.elapsed(), Duration::ZERO, "the device did nothing");
}
