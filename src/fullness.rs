//! How full the log's map and the disks are, and from when on that is worth a warning.

use std::path::Path;

use anyhow::Context;

/// The percentage from which something is said to fill up.
const WARNED_FROM_PERCENT: u128 = 80;

/// Warns of what fills up: its name, how much of it is used out of how much there is, and what helps.
pub(crate) fn warning(name: &str, (used, total): (u64, u64), remedy: &str) -> Option<String> {
    // Some file systems, such as /proc, say that they have no room at all: nothing fills up there.
    let percent = (u128::from(used) * 100).checked_div(u128::from(total))?;
    (percent >= WARNED_FROM_PERCENT).then(|| format!("{name} is {percent} % full; {remedy}"))
}

/// Returns how full the disk under a folder is: bytes used, and bytes there may be. What only the superuser may still
/// use is in neither, as in `df`.
pub(crate) fn of_disk(folder: &Path) -> anyhow::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("look at the disk of {}", folder.display()))?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let total = used.saturating_add(disk.f_bavail);
    Ok((used.saturating_mul(disk.f_frsize), total.saturating_mul(disk.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn a_warning_comes_from_four_fifths_on() {
        let check = |used: u64, total: u64, expected: Option<&str>| {
            let said = warning("the disk", (used, total), "make room");
            assert_eq!(said.as_deref(), expected, "{used} of {total}");
        };
        check(0, 1000, None);
        check(799, 1000, None);
        check(800, 1000, Some("the disk is 80 % full; make room"));
        check(999, 1000, Some("the disk is 99 % full; make room"));
        check(u64::MAX, u64::MAX, Some("the disk is 100 % full; make room"));
        check(0, 0, None);
    }
}
