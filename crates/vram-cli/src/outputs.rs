//! The files that a command writes. One rule for all commands, applied before any work is done:
//!
//! - An existing file is only replaced with `--force`.
//! - A file that the command also reads is never replaced, whatever its name or the links to it.
//! - A symbolic link is followed. A device or a FIFO is written into, never replaced. A folder, a
//!   socket or a disk is refused.
//! - Two outputs are two files.
//! - The file can be created, and the disk has room for it if its size is known.

use std::fs::{self, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use vram_diskmap::{DiskMap, SafetensorsWriter, safetensors_header, write_file};
use vram_types::{ByteSize, FileId, TensorMeta};

/// The name that stands for stdout.
const STDOUT: &str = "-";

/// Endings that promise another format than safetensors.
const OTHER_FORMATS: [&str; 8] = ["bin", "ckpt", "gguf", "json", "npz", "onnx", "pt", "pth"];

/// How a command writes an output, which decides what it can write into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tensors, written in one go at the end.
    Tensors,
    /// Tensors that several threads write, each in its place.
    TensorsInPlaces,
    /// A document, written in one go at the end.
    Text,
}

/// The inputs and outputs of a command.
#[derive(Debug)]
pub(crate) struct Outputs {
    force: bool,
    /// Whether stdout is taken: `--json` prints a document.
    json: bool,
    inputs: Vec<(Id, PathBuf)>,
    targets: Vec<Known>,
    needed: Vec<Needed>,
}

/// An output that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As the user wrote it.
    path: PathBuf,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A new file takes the name when it is complete.
    File,
    /// A device or a FIFO.
    Into,
    Stdout,
}

/// What a file is, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Id {
    #[cfg(unix)]
    Inode { device: u64, inode: u64 },
    #[cfg_attr(unix, expect(dead_code, reason = "other systems have no inodes"))]
    Path(PathBuf),
}

/// An output that was accepted, to compare others with.
#[derive(Debug)]
struct Known {
    flag: String,
    id: Option<Id>,
    /// Its folder without links, and its name.
    place: Option<PathBuf>,
    path: PathBuf,
}

/// Bytes that one file system must have room for.
#[derive(Debug)]
struct Needed {
    folder: PathBuf,
    device: Option<Id>,
    bytes: u64,
}

impl Outputs {
    pub(crate) fn new(force: bool, json: bool) -> Outputs {
        Outputs { force, json, inputs: Vec::new(), targets: Vec::new(), needed: Vec::new() }
    }

    /// Notes a file that the command reads. One that does not exist is for its reader to report.
    pub(crate) fn reads(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if let Ok(found) = fs::metadata(path) {
            self.inputs.push((Id::of(path, &found), path.to_owned()));
        }
    }

    /// Notes every file of a checkpoint that was opened as `path`, its index included.
    pub(crate) fn reads_checkpoint(&mut self, path: &Path, map: &DiskMap) {
        self.reads(path);
        for file in (0..map.files().len()).filter_map(|i| map.path(FileId(i as u32))) {
            self.reads(file);
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().ends_with(b".index.json") {
                self.reads(entry.path());
            }
        }
    }

    /// Checks an output if there is one; see [`Outputs::add`].
    pub(crate) fn add_some(
        &mut self,
        flag: &'static str,
        path: Option<&Path>,
        kind: Kind,
    ) -> Result<Option<Target>> {
        path.map(|path| self.add(flag, path, kind)).transpose()
    }

    /// Checks the output that a flag names, against the rules above. All inputs must be known.
    pub(crate) fn add(&mut self, flag: &'static str, path: &Path, kind: Kind) -> Result<Target> {
        let shown = path.display();
        let found = match fs::metadata(path) {
            _ if path == Path::new(STDOUT) => None,
            Ok(found) => Some(found),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(anyhow!(e).context(path.display().to_string())),
        };
        if path == Path::new(STDOUT) || found.as_ref().is_some_and(|found| is_stdout(path, found)) {
            ensure!(
                kind != Kind::TensorsInPlaces,
                "{flag} {shown}: several threads write, each in its place, which stdout does not allow; \
                 name a file"
            );
            ensure!(!self.json, "{flag} {shown} and --json would both write to stdout; name a file");
            self.note(flag, Path::new(STDOUT), None, None)?;
            return Ok(Target { path: path.to_owned(), way: Way::Stdout });
        }
        if kind != Kind::Text {
            let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
            ensure!(
                !OTHER_FORMATS.iter().any(|other| ending == *other),
                "{shown}: the output is safetensors, and .{} is the ending of another format; name it \
                 *.safetensors",
                ending.display()
            );
        }
        let id = found.as_ref().map(|found| Id::of(path, found));
        if let Some((_, input)) = self.inputs.iter().find(|(input, _)| Some(input) == id.as_ref()) {
            let also = if input == path { String::new() } else { format!(" as {}", input.display()) };
            bail!("{shown}: {flag} would replace a file that this command reads{also}");
        }
        let way = match &found {
            Some(found) => way(found.file_type(), kind).map_err(|why| anyhow!("{shown}: {why}"))?,
            None => {
                let ends_in_slash = path.as_os_str().as_encoded_bytes().last() == Some(&b'/');
                ensure!(!ends_in_slash, "{shown}: this names a folder; name a file in it");
                Way::File
            }
        };
        let is_there = found.is_some_and(|found| found.is_file());
        ensure!(self.force || !is_there, "{shown} already exists; pass --force to replace it");
        // Devices are one thing to all that write into them.
        let place = if way == Way::File { place(path) } else { None };
        let id = id.filter(|_| way == Way::File);
        self.note(flag, path, id, place)?;
        if way == Way::File {
            vram_diskmap::check_writable(path)?;
        }
        Ok(Target { path: path.to_owned(), way })
    }

    /// Notes an output, unless it is another one already.
    fn note(
        &mut self,
        flag: &'static str,
        path: &Path,
        id: Option<Id>,
        place: Option<PathBuf>,
    ) -> Result<()> {
        let is_same = |other: &Known| {
            let both_stdout = [path, &other.path].iter().all(|path| *path == Path::new(STDOUT));
            both_stdout || id.is_some() && id == other.id || place.is_some() && place == other.place
        };
        if let Some(other) = self.targets.iter().find(|other| is_same(other)) {
            bail!("{}: {flag} and {} are the same file", path.display(), other.flag);
        }
        self.targets.push(Known { flag: flag.to_owned(), id, place, path: path.to_owned() });
        Ok(())
    }

    /// Checks that there is room for an output of this size, besides all others.
    pub(crate) fn needs(&mut self, target: &Target, bytes: u64) -> Result<()> {
        if target.way != Way::File {
            return Ok(());
        }
        let place = place(&target.path).unwrap_or_else(|| target.path.clone());
        let folder = place.parent().unwrap_or(Path::new("/")).to_owned();
        let device = fs::metadata(&folder).ok().and_then(|found| Id::device(&found));
        let found = self.needed.iter().position(|needed| needed.device == device);
        let number = found.unwrap_or_else(|| {
            self.needed.push(Needed { folder, device, bytes: 0 });
            self.needed.len() - 1
        });
        let needed = &mut self.needed[number];
        needed.bytes = needed.bytes.saturating_add(bytes);
        let Some(free) = free_bytes(&needed.folder) else { return Ok(()) };
        ensure!(
            needed.bytes <= free,
            "{}: there is no room: {} are to be written and {} are free",
            target.path.display(),
            ByteSize(needed.bytes),
            ByteSize(free)
        );
        Ok(())
    }

    /// Whether an output goes to stdout.
    pub(crate) fn has_stdout(&self) -> bool {
        self.targets.iter().any(|target| target.path == Path::new(STDOUT))
    }

    /// Where to print for people: stdout, unless an output goes there.
    pub(crate) fn people(&self) -> Box<dyn Write> {
        match self.has_stdout() {
            true => Box::new(io::stderr()),
            false => Box::new(io::BufWriter::new(io::stdout().lock())),
        }
    }
}

impl Target {
    /// As the user wrote it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a document.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        let at_path = || format!("cannot write {}", self.path.display());
        match self.way {
            Way::File => Ok(write_file(&self.path, bytes)?),
            Way::Into => OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|mut file| file.write_all(bytes))
                .with_context(at_path),
            // Not wrapped, so that a closed pipe is recognised as one.
            Way::Stdout => {
                let mut out = io::stdout().lock();
                Ok(out.write_all(bytes).and_then(|()| out.flush())?)
            }
        }
    }

    /// Writes tensors as a safetensors file.
    pub(crate) fn write_tensors(&self, tensors: &[(&str, TensorMeta, &[u8])]) -> Result<()> {
        let metas = tensors.iter().map(|(name, meta, _)| (*name, meta.clone()));
        if self.way == Way::File {
            let mut writer = SafetensorsWriter::create(&self.path, metas, &[])?;
            for (_, _, bytes) in tensors {
                writer.write(bytes)?;
            }
            return Ok(writer.finish()?);
        }
        let mut all = safetensors_header(metas, &[])?;
        for (_, _, bytes) in tensors {
            all.extend_from_slice(bytes);
        }
        self.write(&all)
    }
}

/// How to write to something that exists.
fn way(found: FileType, kind: Kind) -> Result<Way, String> {
    if found.is_file() {
        return Ok(Way::File);
    }
    if found.is_dir() {
        return Err("this is a folder; name a file in it".to_owned());
    }
    let (name, is_stream) = special(found);
    match kind {
        _ if !is_stream => Err(format!("this is a {name}, which cannot be written into")),
        Kind::TensorsInPlaces => Err(format!(
            "this is a {name}, and several threads write, each in its place; name a regular file"
        )),
        Kind::Tensors | Kind::Text => Ok(Way::Into),
    }
}

/// What a file is called that is neither a regular one nor a folder, and whether bytes can be
/// written into it one after the other without harm.
#[cfg(unix)]
fn special(found: FileType) -> (&'static str, bool) {
    use std::os::unix::fs::FileTypeExt;

    if found.is_char_device() {
        ("device", true)
    } else if found.is_fifo() {
        ("FIFO", true)
    } else if found.is_socket() {
        ("socket", false)
    } else if found.is_block_device() {
        ("disk", false)
    } else {
        ("special file", false)
    }
}

#[cfg(not(unix))]
fn special(_found: FileType) -> (&'static str, bool) {
    ("special file", false)
}

impl Id {
    #[cfg(unix)]
    fn of(_path: &Path, found: &Metadata) -> Id {
        use std::os::unix::fs::MetadataExt;

        Id::Inode { device: found.dev(), inode: found.ino() }
    }

    #[cfg(not(unix))]
    fn of(path: &Path, _found: &Metadata) -> Id {
        Id::Path(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The file system of a file, if that is known.
    #[cfg(unix)]
    fn device(found: &Metadata) -> Option<Id> {
        use std::os::unix::fs::MetadataExt;

        Some(Id::Inode { device: found.dev(), inode: 0 })
    }

    #[cfg(not(unix))]
    fn device(_found: &Metadata) -> Option<Id> {
        None
    }
}

/// Whether a path leads to the pipe or file that stdout is, as `/dev/stdout` does.
#[cfg(unix)]
fn is_stdout(path: &Path, found: &Metadata) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;

    let stdout = io::stdout().as_fd().try_clone_to_owned().map(fs::File::from);
    let Ok(stdout) = stdout.and_then(|stdout| stdout.metadata()) else { return false };
    // A terminal and /dev/null are one thing to all that write into them.
    Id::of(path, found) == Id::of(path, &stdout) && !found.file_type().is_char_device()
}

#[cfg(not(unix))]
fn is_stdout(_path: &Path, _found: &Metadata) -> bool {
    false
}

/// The folder of a path, or of the file that it links to, without links, and the file's name.
fn place(path: &Path) -> Option<PathBuf> {
    if let Ok(whole) = fs::canonicalize(path) {
        return Some(whole);
    }
    let mut path = path.to_owned();
    // A link to a file that does not exist yet. Loops have been refused.
    while let Ok(to) = fs::read_link(&path) {
        path = path.parent().unwrap_or(Path::new("")).join(to);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// Bytes that are free on the file system of a folder, for this user; `None` if that is not known.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // Some file systems report zeros, or more than there can be.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests;
