//! `--budget auto`: how much memory may be taken on this machine now, control groups included.

use std::fs;
use std::path::{Path, PathBuf};

use vram_types::ByteSize;

use crate::args::Budget;

/// What `auto` leaves to others: an eighth of what is free, but at least this much.
const LEAST_LEFT: ByteSize = ByteSize::mib(256);

/// The budget in bytes; `auto` is most of the host memory that is free now.
///
/// # Errors
/// If the system does not tell what is free.
pub(crate) fn resolve(budget: Budget) -> anyhow::Result<ByteSize> {
    match budget {
        Budget::Bytes(size) => Ok(size),
        Budget::Auto => free(Path::new("/")).map(most_of).ok_or_else(|| {
            anyhow::anyhow!("this system does not tell how much memory is free; give the budget as a size")
        }),
    }
}

fn most_of(free: ByteSize) -> ByteSize {
    let left = (free.bytes() / 8).max(LEAST_LEFT.bytes());
    ByteSize(free.bytes().saturating_sub(left))
}

/// The least of what the machine has available and what each control group above us still allows. `root` is `/`.
fn free(root: &Path) -> Option<ByteSize> {
    let available = available(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let left = groups.lines().filter_map(Group::parse).filter_map(|group| group.left(root)).min();
    Some(ByteSize(left.map_or(available, |left| available.min(left))))
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A control group that limits memory.
struct Group<'a> {
    /// Where its hierarchy is mounted.
    mount: &'static str,
    path: &'a str,
    files: &'static Files,
}

/// What the two versions call the same things.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: pages of files that the kernel gives back before it refuses memory.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };

impl<'a> Group<'a> {
    /// From a line of /proc/self/cgroup, `number:controllers:path`; `None` if it does not limit memory.
    fn parse(line: &'a str) -> Option<Group<'a>> {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return Some(Group { mount: "sys/fs/cgroup", path, files: &V2 });
        }
        let memory = controllers.split(',').any(|c| c == "memory");
        memory.then_some(Group { mount: "sys/fs/cgroup/memory", path, files: &V1 })
    }

    /// The least that any group from this one up to the mount still allows; `None` if none has a limit. Inside a container
    /// the path is often not there, and the container's own group is the mount itself.
    fn left(&self, root: &Path) -> Option<u64> {
        let mount = root.join(self.mount);
        let mut folder: PathBuf = mount.join(self.path.trim_start_matches('/'));
        let mut least: Option<u64> = None;
        loop {
            if let Some(left) = self.left_in(&folder) {
                least = Some(least.map_or(left, |l| l.min(left)));
            }
            if folder == mount || !folder.pop() || !folder.starts_with(&mount) {
                return least;
            }
        }
    }

    fn left_in(&self, folder: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        // "max" is no number: no limit.
        let limit: u64 = read(self.files.limit)?.trim().parse().ok()?;
        let used: u64 = read(self.files.used)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let reclaimable = stat
            .lines()
            .find_map(|l| l.strip_prefix(self.files.reclaimable)?.strip_prefix(' '))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the files and tells what is free, in MiB.
    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(free(dir.path()).map(|s| s.bytes() >> 20), expected, "{files:?}");
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n");

    #[test]
    fn without_groups_it_is_what_is_available() {
        check(&[], None);
        check(&[("proc/meminfo", "MemTotal: 8 kB\n")], None);
        check(&[MEMINFO], Some(4096));
        check(
            &[MEMINFO, ("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")],
            Some(4096),
        );
    }

    #[test]
    fn version_2_counts_every_group_above_and_what_can_be_reclaimed() {
        let own = ("proc/self/cgroup", "0::/a/b\n");
        let inner = [
            ("sys/fs/cgroup/a/b/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1073741824\n"),
        ];
        let outer = [
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a/memory.current", "943718400\n"),
        ];
        let stat = ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 524288000\ninactive_file_x 1\n");
        check(&[MEMINFO, own, inner[0], inner[1]], Some(1024));
        check(&[MEMINFO, own, inner[0], inner[1], outer[0], outer[1]], Some(124));
        check(&[MEMINFO, own, inner[0], inner[1], outer[0], outer[1], stat], Some(624));
    }

    #[test]
    fn version_1_and_a_path_that_is_not_there() {
        let own = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/x\n1:name=systemd:/x\n");
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
        let used = ("sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912\n");
        check(&[MEMINFO, own, limit, used], Some(512));
    }

    #[test]
    fn something_is_left_to_others() {
        let check = |free, expected| assert_eq!(most_of(ByteSize::mib(free)), ByteSize::mib(expected));
        check(100, 0);
        check(1024, 768);
        check(8192, 7168);
        assert_eq!(resolve(Budget::Bytes(ByteSize(5))).unwrap(), ByteSize(5));
    }
}
