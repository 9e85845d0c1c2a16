//! What the system lets this process have: files and memory.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::doctor::report::Check;

/// Below this, queues and buffers that are within their limits may be too much.
const LITTLE_MEMORY: u64 = 128 << 20;

/// Whether the configured connections fit into the limit of open files.
pub(super) fn files(connections: u32) -> Check {
    // `up` raises its soft limit to the hard one.
    judge_files(getrlimit(Resource::Nofile).maximum, connections)
}

fn judge_files(hard: Option<u64>, connections: u32) -> Check {
    let name = "open files";
    let Some(hard) = hard else { return Check::ok(name, "without a limit") };
    let most = crate::up::connections_within(usize::try_from(hard).unwrap_or(usize::MAX));
    let wanted = connections as usize;
    if wanted <= most {
        return Check::ok(name, format!("{hard} at most, enough for {wanted} connections"));
    }
    let needed = wanted + wanted.div_ceil(3);
    Check::warning(
        name,
        format!("{hard} at most: {most} connections fit, and `limits.connections` is {wanted}"),
        format!("raise the hard limit to {needed} (`LimitNOFILE=`, `--ulimit nofile`), or set fewer"),
    )
}

/// How much memory the process may take.
pub(super) fn memory() -> Check {
    let name = "memory";
    let Ok(groups) = std::fs::read_to_string("/proc/self/cgroup") else {
        return Check::unknown(name, "a limit cannot be seen on this system", "");
    };
    judge_memory(limit(&groups, Path::new("/sys/fs/cgroup")))
}

fn judge_memory(limit: Option<u64>) -> Check {
    let name = "memory";
    let Some(limit) = limit else { return Check::ok(name, "without a limit of its control group") };
    let mib = limit >> 20;
    if limit < LITTLE_MEMORY {
        let least = LITTLE_MEMORY >> 20;
        let text = format!("{mib} MiB at most: the system may kill the process under load");
        return Check::warning(name, text, format!("let it have {least} MiB or more"));
    }
    Check::ok(name, format!("{mib} MiB at most"))
}

/// The smallest limit on the way from the process's group to the root, where version 2 of control groups has it, and
/// version 1.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // A container sees its own group as the root, whatever its path says.
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = unified.map(|path| root.join(path));
    let ways = own.iter().flat_map(|own| own.ancestors()).take_while(|way| way.starts_with(root));
    let found = ways.filter_map(|way| read(&way.join("memory.max")));
    let old = read(&root.join("memory/memory.limit_in_bytes"));
    // Version 1 says a number beyond every machine where there is no limit.
    found.chain(old).filter(|&limit| limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn files_that_connections_need_are_counted() {
        assert_eq!(judge_files(None, 1_000_000).status, Status::Ok);
        assert_eq!(judge_files(Some(21_846), 16_384).status, Status::Ok);
        let few = judge_files(Some(4_096), 16_384);
        assert_eq!(few.status, Status::Warning);
        assert!(few.text.contains("3072 connections fit"), "{few:?}");
        assert!(few.mend.unwrap().contains("21846"));
    }

    #[test]
    fn the_smallest_limit_of_memory_on_the_way_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let found = |groups: &str| limit(groups, root.path());
        assert_eq!(found("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        assert_eq!(found("0::/a/b\n"), None);
        write("a/memory.max", "67108864\n");
        assert_eq!(found("1:x:/y\n0::/a/b\n"), Some(64 << 20));
        assert_eq!(found("0::/../..\n"), None, "what is above the root is not ours");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(found(""), None);
        write("memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(found(""), Some(512 << 20));
        assert_eq!(judge_memory(Some(64 << 20)).status, Status::Warning);
        assert_eq!(judge_memory(Some(512 << 20)).status, Status::Ok);
    }
}
