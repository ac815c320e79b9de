//! Kernels that were compiled before.

use std::fs;
use std::path::Path;

use vram_device::cuda::{Cuda, CudaCache, CudaOptions};
use vram_device::{DeviceError, KernelsExt, ops};
use vram_types::DType::F32;

use crate::util::{f32s, get, put, values, view_mut};

fn open(cache: &Path) -> Option<Cuda> {
    match Cuda::new(CudaOptions { cache: CudaCache::At(cache.to_owned()), ..Default::default() }) {
        Ok(cuda) => Some(cuda),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Something that needs one program.
fn works(cuda: &Cuda) {
    let mut x = put(cuda, &f32s(&[0.0, 1.0]));
    cuda.call(ops::Unary::silu(view_mut(&mut x, F32, &[2])), None).unwrap();
    let expected = 1.0 / (1.0 + (-1.0f32).exp());
    let [zero, one] = values(&get(cuda, &x))[..] else { panic!("two values") };
    assert!(zero == 0.0 && (one - expected).abs() < 1e-6, "{zero} {one}");
}

fn files(cache: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::metadata(&path).unwrap().modified().unwrap())).collect()
}

#[test]
fn kernels_are_compiled_once_and_damage_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let Some(cuda) = open(&cache) else { return };
    works(&cuda);
    let first = files(&cache);
    assert_eq!(first.len(), 1, "{first:?}");
    let image = fs::read(&first[0].0).unwrap();
    // Another device finds them, and writes nothing.
    works(&open(&cache).unwrap());
    assert_eq!(files(&cache), first);
    // A file that was cut short, or changed, is compiled again.
    for damaged in
        [image[..image.len() / 2].to_vec(), [&image[..image.len() - 1], &[!image[image.len() - 1]]].concat()]
    {
        fs::write(&first[0].0, damaged).unwrap();
        works(&open(&cache).unwrap());
        assert_eq!(fs::read(&first[0].0).unwrap().len(), image.len());
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_noted_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file and no folder");
    fs::write(&file, b"").unwrap();
    let Some(cuda) = open(&file) else { return };
    works(&cuda);
    let notes = cuda.notes();
    assert!(
        notes.iter().any(|note| note.contains("not cached on disk") && note.contains("a file and no folder")),
        "{notes:?}"
    );
}
