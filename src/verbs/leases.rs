//! `--lease-table`: the leases by which many workers share a table's lanes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use headwater_consumer::lease::{DURATION_DEFAULT, DURATION_MIN, LeaseStore, Leases, Timing, WorkerId};

use crate::cli::{Consume, Sharing};
use crate::config::BadSetting;

/// Refuses what does not belong together.
pub(crate) fn check(options: &Consume) -> Result<(), BadSetting> {
    let refuse = |reason: String| Err(BadSetting::Other(reason));
    let sharing = &options.sharing;
    let is_shared = sharing.lease_table.is_some();
    if is_shared && (options.archive || options.archive_only) {
        return refuse(
            "an archive has one writer: run `headwater consume --archive-only` as a process of its own, without \
             --lease-table"
                .into(),
        );
    }
    if sharing.create_lease_table && !is_shared {
        return refuse("--create-lease-table needs --lease-table NAME".into());
    }
    let durations = [Some(sharing.lease_duration), sharing.hand_over_deadline];
    if durations.into_iter().flatten().any(|duration| duration < DURATION_MIN) {
        let least = humantime::format_duration(DURATION_MIN);
        return refuse(format!("--lease-duration and --hand-over-deadline are {least} at least"));
    }
    Ok(())
}

/// Returns what the lanes are shared with; `None` when this process reads all of them.
pub(crate) async fn open(sharing: &Sharing) -> anyhow::Result<Option<Leases>> {
    let Some(table) = &sharing.lease_table else {
        return Ok(None);
    };
    let duration = sharing.lease_duration;
    let store = open_table(table, sharing.create_lease_table, duration).await?;
    let worker = sharing.worker_id.clone().unwrap_or_else(own_name);
    tracing::info!(%worker, leases = store.place(), "sharing the lanes with other workers");
    Ok(Some(Leases {
        store,
        worker,
        max_leases: sharing.max_leases.map_or(usize::MAX, |most| most as usize),
        timing: Timing { duration, hand_over: sharing.hand_over_deadline.unwrap_or(duration) },
    }))
}

/// Opens the leases to look at them.
pub(crate) async fn look_at(table: &str) -> anyhow::Result<Arc<dyn LeaseStore>> {
    open_table(table, false, DURATION_DEFAULT).await
}

#[cfg(feature = "aws")]
async fn open_table(table: &str, create: bool, duration: Duration) -> anyhow::Result<Arc<dyn LeaseStore>> {
    use headwater_consumer::lease::dynamo::{DynamoLeases, Opening};
    let opening = Opening { table: table.to_owned(), create, duration, seed: random() };
    Ok(Arc::new(DynamoLeases::open(opening).await?))
}

#[cfg(not(feature = "aws"))]
async fn open_table(_table: &str, _create: bool, _duration: Duration) -> anyhow::Result<Arc<dyn LeaseStore>> {
    anyhow::bail!("this build has no DynamoDB; build headwater with its feature `aws`")
}

/// Returns a name that no other worker has: the host's, the process's number, and a random one, because containers have
/// all the same number.
fn own_name() -> WorkerId {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    named(&host, std::process::id(), random())
}

fn named(host: &str, process: u32, random: u64) -> WorkerId {
    const HOST_MAX: usize = 128;
    let host: String = host.chars().filter(char::is_ascii_graphic).take(HOST_MAX).collect();
    let name = format!("{host}:{process}:{:08x}", random >> 32);
    name.parse().expect("it is short, and printable")
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_a_name_of_its_own() {
        assert_ne!(own_name(), own_name());
        let check = |host: &str, expected: &str| assert_eq!(named(host, 1, 0x9f << 32).as_str(), expected);
        check("host-1.example", "host-1.example:1:0000009f");
        check("my host\u{e9}", "myhost:1:0000009f");
        check(&"x".repeat(500), &format!("{}:1:0000009f", "x".repeat(128)));
    }
}
