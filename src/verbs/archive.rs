//! `headwater consume --archive`: the archive's part of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use headwater_common::clock::SystemClock;
use headwater_common::quantity::Bytes;
use headwater_common::retry::Policy;
use headwater_consumer::archive::{Archiver, writer};
use headwater_consumer::driver::{Consumer, Error, Progress};
use headwater_consumer::policy::Limits;
use headwater_lake::store::LakeStore;
use headwater_stream::Source;
use headwater_stream::url::StreamUrl;
use tokio::sync::watch;

use crate::cli::Consume;
use crate::config::BadSetting;

/// Returns whether the records are to be kept, and whether the table is to be written.
pub(crate) fn wanted(options: &Consume) -> Result<(bool, bool), BadSetting> {
    let archive = options.archive || options.archive_only;
    if archive && matches!(options.from, StreamUrl::Archive { .. }) {
        return Err(BadSetting::Other("an archive is not archived once more; leave --archive out".into()));
    }
    Ok((archive, !options.archive_only))
}

/// Opens the archive of a stream.
pub(crate) async fn open(
    options: &Consume,
    source: Arc<dyn Source>,
    limits: Limits,
    progress: Arc<Progress>,
) -> anyhow::Result<Archiver> {
    let store = LakeStore::on_disk(&options.lake)?;
    let archive = writer::open(&store, source.as_ref(), options.lanes).await?;
    Ok(Archiver {
        source,
        archive: Arc::new(archive),
        limits,
        until_caught_up: options.until_caught_up,
        clock: Arc::new(SystemClock),
        retry: Policy::STORE,
        seed: RandomState::new().build_hasher().finish(),
        progress,
    })
}

/// Runs both. When one of them fails the other is shut down in order, and the failure is told.
pub(crate) async fn run_both(
    consumer: Consumer,
    archiver: Archiver,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let (tell, told) = watch::channel(false);
    let tell = Arc::new(tell);
    let teller = Arc::clone(&tell);
    let passing_on = tokio::spawn(async move {
        if shutdown.wait_for(|told| *told).await.is_ok() {
            let _ = teller.send(true);
        }
    });
    let consume = async {
        let result = consumer.run(told.clone()).await;
        if result.is_err() {
            let _ = tell.send(true);
        }
        result
    };
    let archive = async {
        let result = archiver.run(told.clone()).await;
        if result.is_err() {
            let _ = tell.send(true);
        }
        result
    };
    let (consumed, archived) = tokio::join!(consume, archive);
    passing_on.abort();
    match (consumed, archived) {
        (Err(error), Err(other)) => {
            tracing::error!(error = ?other, "the archive failed as well");
            Err(error)
        }
        (consumed, archived) => consumed.and(archived),
    }
}

/// Says what was archived.
pub(crate) fn report(archiver_url: &str, progress: &Progress) {
    let records = progress.events_committed.load(Ordering::Relaxed);
    let epochs = progress.epochs.load(Ordering::Relaxed);
    let bytes = Bytes(progress.bytes_committed.load(Ordering::Relaxed));
    crate::say(&format!("archived {records} records ({bytes}) in {epochs} epochs; read them as {archiver_url}"));
}

/// Returns the URL under which an archive is read.
pub(crate) fn url(options: &Consume, archiver: &Archiver) -> String {
    let table = archiver.archive.table.as_str();
    let stream = table.rsplit('/').next().unwrap_or(table).to_owned();
    StreamUrl::Archive { lake: options.lake.clone(), stream }.to_string()
}
