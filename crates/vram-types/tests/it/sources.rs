//! Sources that are made of others, against maps from names to bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use vram_types::{
    CancelToken, DType, FileId, FileRange, HostBytes, Joined, Located, Overlay, ReadOptions, ReadRequest,
    ReadTarget, SourceError, SourceErrorKind, StorageId, TensorMeta, WeightSource, WeightSourceExt,
};

/// Tensors of bytes, in files in memory.
#[derive(Debug)]
struct Memory {
    files: Vec<Vec<u8>>,
    tensors: Vec<(String, usize, usize, usize)>,
    alignment: u64,
    bytes_read: AtomicU64,
}

struct Window(Vec<u8>);

impl HostBytes for Window {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn prefault(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Memory {
    /// Each tensor with its bytes, in the file of that number.
    fn new(tensors: &[(&str, usize, &[u8])], alignment: u64) -> Arc<Memory> {
        let mut memory =
            Memory { files: Vec::new(), tensors: Vec::new(), alignment, bytes_read: AtomicU64::new(0) };
        for (name, file, bytes) in tensors {
            if memory.files.len() <= *file {
                memory.files.resize(file + 1, Vec::new());
            }
            let at = memory.files[*file].len();
            memory.files[*file].extend_from_slice(bytes);
            memory.tensors.push(((*name).to_owned(), *file, at, bytes.len()));
        }
        Arc::new(memory)
    }

    fn find(&self, name: &str) -> Option<(usize, usize, usize)> {
        let (_, file, at, len) = self.tensors.iter().find(|t| t.0 == name)?;
        Some((*file, *at, *len))
    }
}

impl WeightSource for Memory {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.iter().map(|t| t.0.as_str()))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (file, at, len) = self.find(name)?;
        let (file, offset) = (FileId(file as u32), at as u64);
        let range = FileRange { file, offset, bytes: len as u64 };
        let meta = TensorMeta::new(DType::U8, [len]).unwrap();
        Some(Located::new(meta, StorageId { file, offset }, [range]))
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        let bytes = self.files.get(file.0 as usize)?;
        Some(format!("{} bytes in memory", bytes.len()).into())
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        options.check()?;
        for request in requests {
            let bytes = request.bytes;
            let (file, from, tensor) = match request.target {
                ReadTarget::File { file, offset } => (file.0 as usize, offset as usize, None),
                ReadTarget::Tensor { name, offset } => {
                    let (file, at, _) = self.find(name).ok_or_else(|| {
                        SourceError::new(SourceErrorKind::NotFound, "not in memory").at_tensor(name)
                    })?;
                    (file, at + offset as usize, Some(name))
                }
            };
            let there = self.files.get(file).and_then(|f| f.get(from..from + bytes as usize));
            let there = there.ok_or_else(|| {
                let error = SourceError::new(SourceErrorKind::OutOfRange, "beyond the end");
                tensor.into_iter().fold(error, SourceError::at_tensor)
            })?;
            request.wanted()?.copy_from_slice(there);
            self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        let bytes = self.files.get(range.file.0 as usize)?;
        let window = bytes.get(range.offset as usize..range.end() as usize)?;
        Some(Ok(Arc::new(Window(window.to_vec()))))
    }

    fn alignment(&self) -> u64 {
        self.alignment
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

/// How sources are put together.
#[derive(Clone, Debug)]
enum Tree {
    /// Names, files and bytes.
    Leaf(Vec<(String, usize, Vec<u8>)>),
    Joined(Vec<(String, Tree)>),
    Overlay(Box<Tree>, Box<Tree>),
}

impl Tree {
    fn build(&self) -> Result<Arc<dyn WeightSource>, SourceError> {
        Ok(match self {
            Tree::Leaf(tensors) => {
                let tensors: Vec<_> =
                    tensors.iter().map(|(n, f, b)| (n.as_str(), *f, b.as_slice())).collect();
                Memory::new(&tensors, 1)
            }
            Tree::Joined(parts) => {
                let parts = parts.iter().map(|(prefix, tree)| Ok((prefix.clone(), tree.build()?)));
                Arc::new(Joined::new(parts.collect::<Result<Vec<_>, SourceError>>()?)?)
            }
            Tree::Overlay(base, upper) => Arc::new(Overlay::new(base.build()?, upper.build()?)?),
        })
    }

    /// What there is to be; `None` where two names collide.
    fn naive(&self) -> Option<BTreeMap<String, Vec<u8>>> {
        Some(match self {
            Tree::Leaf(tensors) => tensors.iter().map(|(n, _, b)| (n.clone(), b.clone())).collect(),
            Tree::Joined(parts) => {
                let mut all = BTreeMap::new();
                for (prefix, tree) in parts {
                    for (name, bytes) in tree.naive()? {
                        if all.insert(format!("{prefix}{name}"), bytes).is_some() {
                            return None;
                        }
                    }
                }
                all
            }
            Tree::Overlay(base, upper) => {
                let mut all = base.naive()?;
                all.extend(upper.naive()?);
                all
            }
        })
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let tensor = ("[ab]{1,2}", 0..3usize, prop::collection::vec(any::<u8>(), 0..20));
    let leaf = prop::collection::vec(tensor, 0..5).prop_map(|tensors| {
        let mut names = BTreeSet::new();
        Tree::Leaf(tensors.into_iter().filter(|(name, ..)| names.insert(name.clone())).collect())
    });
    leaf.prop_recursive(4, 16, 3, |inner| {
        let prefixed = ("(|[abp]\\.)", inner.clone());
        prop_oneof![
            prop::collection::vec(prefixed, 0..4).prop_map(Tree::Joined),
            (inner.clone(), inner).prop_map(|(base, upper)| Tree::Overlay(base.into(), upper.into())),
        ]
    })
}

proptest! {
    #[test]
    fn trees_of_sources_are_maps_of_names(tree in trees(), cut in 0..20usize) {
        let Some(expected) = tree.naive() else {
            let error = tree.build().map(drop).expect_err("two names are the same");
            prop_assert_eq!(error.kind(), SourceErrorKind::Duplicate);
            return Ok(());
        };
        let source = tree.build().unwrap();
        let names: Vec<&str> = source.names().collect();
        prop_assert_eq!(names.len(), expected.len());
        prop_assert!(names.iter().all(|name| expected.contains_key(*name)), "{names:?}");
        let mut storages = BTreeMap::new();
        // All at once, the first half by name and the second half by range.
        let mut buffers: Vec<Vec<u8>> = expected.values().map(|bytes| vec![0; bytes.len()]).collect();
        let mut requests: Vec<ReadRequest<'_>> = Vec::new();
        for (i, ((name, bytes), dst)) in expected.iter().zip(&mut buffers).enumerate() {
            let located = source.locate(name).unwrap();
            prop_assert_eq!(located.meta.bytes(), bytes.len() as u64);
            let window = source.map(located.ranges[0]).unwrap().unwrap();
            prop_assert_eq!(window.bytes(), bytes.as_slice());
            prop_assert!(source.describe(located.storage.file).unwrap().ends_with("bytes in memory"));
            if !bytes.is_empty() {
                let other = storages.insert(located.storage, name);
                prop_assert!(other.is_none(), "{name} is where {other:?} is");
            }
            let range = located.ranges[0];
            requests.push(match i % 2 {
                0 => ReadRequest::tensor(name, 0, dst),
                _ => ReadRequest::file(range.file, range.offset, dst),
            });
        }
        source.read_many(&mut requests, &ReadOptions::default()).unwrap();
        drop(requests);
        prop_assert!(expected.values().eq(&buffers));
        prop_assert_eq!(source.bytes_read(), expected.values().map(|bytes| bytes.len() as u64).sum::<u64>());
        for (name, bytes) in &expected {
            let cut = cut.min(bytes.len());
            let mut dst = vec![0; bytes.len() - cut];
            source.read_range(name, cut as u64..bytes.len() as u64, &mut dst).unwrap();
            prop_assert_eq!(&dst, &bytes[cut..]);
        }
        prop_assert_eq!(source.locate("nobody"), None);
        let nobody = source.read_range("nobody", 0..0, &mut []).unwrap_err();
        prop_assert_eq!((nobody.kind(), nobody.tensor()), (SourceErrorKind::NotFound, Some("nobody")));
        let far = ReadRequest::file(FileId(u32::MAX), 0, &mut []);
        let error = source.read_many(&mut [far], &ReadOptions::BLOCKING).unwrap_err();
        let is_leaf = matches!(tree, Tree::Leaf(_));
        prop_assert_eq!(error.kind(), if is_leaf { SourceErrorKind::OutOfRange } else { SourceErrorKind::NotFound });
    }
}

#[test]
fn a_collision_names_both() {
    let one = Memory::new(&[("b.w", 0, &[1])], 1);
    let two = Memory::new(&[("w", 0, &[2])], 1);
    let sources: [(&str, Arc<dyn WeightSource>); 2] = [("a.", one), ("a.b.", two)];
    let error = Joined::new(sources).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Duplicate, Some("a.b.w")));
    let said = error.to_string();
    assert!(said.contains(r#"source 0 has "b.w" under the prefix "a.""#), "{said}");
    assert!(said.contains(r#"source 1 has "w" under "a.b.""#), "{said}");
}

#[test]
fn an_overlay_wins_with_another_shape_and_errors_have_the_names_of_the_whole() {
    let base = Memory::new(&[("norm", 0, &[1]), ("w", 1, &[1, 2, 3])], 4096);
    let upper = Memory::new(&[("w", 0, &[7])], 512);
    let over: Arc<dyn WeightSource> = Arc::new(Overlay::new(base, upper).unwrap());
    let other: Arc<dyn WeightSource> = Memory::new(&[("w", 0, &[9, 9])], 64);
    let all = Joined::new([("dit.", Arc::clone(&over)), ("net.", other)]).unwrap();
    assert_eq!(all.alignment(), 4096);
    assert!(all.names().eq(["dit.norm", "dit.w", "net.w"]));
    let files: Vec<u32> = all.names().map(|name| all.locate(name).unwrap().storage.file.0).collect();
    assert_eq!(files, [0, 2, 3], "the base has two files, one of which is hidden");
    assert_eq!(all.describe(FileId(3)).as_deref(), Some("2 bytes in memory"));
    assert_eq!(all.describe(FileId(4)), None);
    assert_eq!(all.locate("dit.w").unwrap().meta.shape().dims(), [1]);
    let mut dst = [0; 2];
    let error = all.read_range("dit.w", 0..2, &mut dst).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::OutOfRange, Some("dit.w")));
    // What is hidden is still in its file.
    let hidden = ReadRequest::file(FileId(1), 1, &mut dst);
    all.read_many(&mut [hidden], &ReadOptions::BLOCKING).unwrap();
    assert_eq!(dst, [2, 3]);
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = ReadOptions::default().with_cancel(&cancel);
    let error = all.read_many(&mut [ReadRequest::tensor("net.w", 0, &mut dst)], &options).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Cancelled);
}

#[test]
fn a_source_that_is_there_twice_stays_tied() {
    let one: Arc<dyn WeightSource> = Memory::new(&[("w", 0, &[1, 2])], 1);
    let twice = Joined::new([("a.", Arc::clone(&one)), ("b.", Arc::clone(&one))]).unwrap();
    assert_eq!(twice.locate("a.w"), twice.locate("b.w"));
    let mut dst = [0; 2];
    twice.read_range("b.w", 0..2, &mut dst).unwrap();
    assert_eq!((dst, twice.bytes_read()), ([1, 2], 2));
}

#[test]
fn files_that_cannot_be_numbered_are_an_error() {
    struct Far;
    impl WeightSource for Far {
        fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
            Box::new(std::iter::once("w"))
        }
        fn locate(&self, _: &str) -> Option<Located> {
            let meta = TensorMeta::new(DType::U8, [1]).unwrap();
            let storage = StorageId { file: FileId(u32::MAX - 1), offset: 0 };
            Some(Located::new(meta, storage, []))
        }
        fn describe(&self, _: FileId) -> Option<Cow<'_, str>> {
            None
        }
        fn read_many(&self, _: &mut [ReadRequest<'_>], _: &ReadOptions) -> Result<(), SourceError> {
            Ok(())
        }
        fn bytes_read(&self) -> u64 {
            0
        }
    }
    let error = Overlay::new(Arc::new(Far), Memory::new(&[("w", 0, &[1])], 1)).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unsupported);
    assert!(Overlay::new(Arc::new(Far), Memory::new(&[], 1)).is_ok());
}
