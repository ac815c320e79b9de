//! How much memory exists and is available now, including limits of control groups.

use std::fs;
use std::path::Path;

use crate::{DeviceError, MemoryInfo};

/// Total and available memory of the system.
pub(super) fn available() -> Result<MemoryInfo, DeviceError> {
    in_root(Path::new("/"))
        .map_err(|reason| DeviceError::Unavailable { what: "the amount of free memory".into(), reason })
}

/// The minimum of what the machine has and what each control group above this process allows. `root` is `/`.
fn in_root(root: &Path) -> Result<MemoryInfo, String> {
    let text = fs::read_to_string(root.join("proc/meminfo")).map_err(|e| format!("/proc/meminfo: {e}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let bytes =
            line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024));
        bytes.ok_or_else(|| format!("/proc/meminfo has no {name}"))
    };
    let mut memory = MemoryInfo { free: field("MemAvailable")?, total: field("MemTotal")? };
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for limit in groups.lines().filter_map(Group::parse).flat_map(|group| group.limits(root)) {
        memory.free = memory.free.min(limit.free);
        memory.total = memory.total.min(limit.total);
    }
    Ok(memory)
}

/// A control group that limits memory.
struct Group<'a> {
    /// Where its hierarchy is mounted.
    mount: &'static str,
    path: &'a str,
    files: &'static Files,
}

/// The file names, which differ between the two versions.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: file pages that the kernel reclaims before it refuses memory.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };

impl<'a> Group<'a> {
    /// Parses a line of /proc/self/cgroup, `number:controllers:path`; `None` if it does not limit memory.
    fn parse(line: &'a str) -> Option<Group<'a>> {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return Some(Group { mount: "sys/fs/cgroup", path, files: &V2 });
        }
        let memory = controllers.split(',').any(|c| c == "memory");
        memory.then_some(Group { mount: "sys/fs/cgroup/memory", path, files: &V1 })
    }

    /// The limits of every group from this one up to the mount, without groups that have none. Inside a
    /// container the path often does not exist, and the container's own group is the mount itself.
    fn limits(&self, root: &Path) -> Vec<MemoryInfo> {
        let mount = root.join(self.mount);
        let own = mount.join(self.path.trim_start_matches('/'));
        own.ancestors().take_while(|f| f.starts_with(&mount)).filter_map(|f| self.limit(f)).collect()
    }

    fn limit(&self, folder: &Path) -> Option<MemoryInfo> {
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        // "max" does not parse: no limit.
        let limit: u64 = read(self.files.limit)?.trim().parse().ok()?;
        let used: u64 = read(self.files.used)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let reclaimable = stat
            .lines()
            .find_map(|l| l.strip_prefix(self.files.reclaimable)?.strip_prefix(' '))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0);
        Some(MemoryInfo { free: limit.saturating_sub(used.saturating_sub(reclaimable)), total: limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates the files and checks the free memory, in MiB.
    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(in_root(dir.path()).ok().map(|m| m.free >> 20), expected, "{files:?}");
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
}
