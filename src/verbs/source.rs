//! Opens the streams that verbs read.

use std::sync::Arc;

use headwater_common::quantity::Bytes;
use headwater_consumer::archive::ArchiveSource;
use headwater_lake::archive::{self, ArchiveName};
use headwater_lake::store::LakeStore;
use headwater_replay::coverage::Coverage;
use headwater_stream::embedded::{Log, Options as LogOptions};
use headwater_stream::joined::Joined;
use headwater_stream::url::StreamUrl;
use headwater_stream::{Source, StartAt};

use crate::config::BadSetting;

/// A stream as a rebuild reads it.
pub(crate) struct WithArchive {
    /// The stream alone.
    pub(crate) stream: Arc<dyn Source>,
    /// The stream and its archive as one log, where the lake has one.
    pub(crate) joined: Arc<dyn Source>,
    /// What the archive holds.
    pub(crate) archived: Vec<Coverage>,
}

/// Opens a stream, and the archive of it that the lake has.
pub(crate) async fn open_with_archive(
    url: &StreamUrl,
    log_map_size: Bytes,
    lake: &LakeStore,
) -> anyhow::Result<WithArchive> {
    let stream = open(url, log_map_size).await?;
    let name = ArchiveName::of_stream(&stream.identity().0);
    let is_archive = matches!(url, StreamUrl::Archive { .. });
    if is_archive || !archive::names(lake).await?.contains(&name) {
        return Ok(WithArchive { joined: Arc::clone(&stream), stream, archived: Vec::new() });
    }
    let archive: Arc<dyn Source> = Arc::new(ArchiveSource::new(archive::open(lake, &name).await?)?);
    let mut archived = Vec::new();
    for shard in archive.shards().await? {
        let from = archive.resolve(&shard.id, StartAt::TrimHorizon).await?;
        let to = archive.resolve(&shard.id, StartAt::Latest).await?.unmarked();
        archived.push(Coverage { name: archive.url(), shard: shard.id, from, to });
    }
    let joined = Arc::new(Joined::new(archive, Arc::clone(&stream)).await?);
    Ok(WithArchive { stream, joined, archived })
}

/// Opens a stream to read from: a log, a Kinesis stream by polling, or an archive.
pub(crate) async fn open(url: &StreamUrl, log_map_size: Bytes) -> anyhow::Result<Arc<dyn Source>> {
    open_as(url, log_map_size, None).await
}

/// Opens a stream to read from; a Kinesis stream as a registered consumer of that name, if there is one.
pub(crate) async fn open_as(
    url: &StreamUrl,
    log_map_size: Bytes,
    fan_out: Option<&str>,
) -> anyhow::Result<Arc<dyn Source>> {
    if fan_out.is_some() && !matches!(url, StreamUrl::Kinesis(_)) {
        return Err(BadSetting::Other("--fan-out is for Kinesis streams; write --from kinesis://NAME".into()).into());
    }
    match url {
        StreamUrl::Log(path) => Ok(Arc::new(Log::open(path, LogOptions { map_bytes: log_map_size.as_usize() })?)),
        StreamUrl::Kinesis(name) => kinesis(name, fan_out).await,
        StreamUrl::Archive { lake, stream } => {
            let name = stream.parse::<ArchiveName>().map_err(|error| BadSetting::Other(error.to_string()))?;
            let store = LakeStore::existing_on_disk(lake)?;
            Ok(Arc::new(ArchiveSource::new(archive::open(&store, &name).await?)?))
        }
    }
}

#[cfg(feature = "aws")]
async fn kinesis(name: &str, fan_out: Option<&str>) -> anyhow::Result<Arc<dyn Source>> {
    use headwater_common::clock::SystemClock;
    use headwater_stream::kinesis::{self, KinesisSource, SourceOptions};

    let client = kinesis::client(&headwater_stream::aws::load().await);
    let options = SourceOptions { fan_out: fan_out.map(ToOwned::to_owned) };
    Ok(Arc::new(KinesisSource::open(client, name, Arc::new(SystemClock), options).await?))
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "with AWS it asks the service")]
async fn kinesis(_name: &str, _fan_out: Option<&str>) -> anyhow::Result<Arc<dyn Source>> {
    Err(BadSetting::Other("this build is without AWS: build it with the feature `aws` to read Kinesis".into()).into())
}
