//! Opens the streams that verbs read.

use std::sync::Arc;

use headwater_common::quantity::Bytes;
use headwater_consumer::archive::ArchiveSource;
use headwater_lake::archive::{self, ArchiveName};
use headwater_lake::store::LakeStore;
use headwater_stream::Source;
use headwater_stream::embedded::{Log, Options as LogOptions};
use headwater_stream::url::StreamUrl;

use crate::config::BadSetting;

/// Opens a stream to read from: a log, or an archive.
pub(crate) async fn open(url: &StreamUrl, log_map_size: Bytes) -> anyhow::Result<Arc<dyn Source>> {
    match url {
        StreamUrl::Log(path) => Ok(Arc::new(Log::open(path, LogOptions { map_bytes: log_map_size.as_usize() })?)),
        StreamUrl::Archive { lake, stream } => {
            let name = stream.parse::<ArchiveName>().map_err(|error| BadSetting::Other(error.to_string()))?;
            let store = LakeStore::existing_on_disk(lake)?;
            Ok(Arc::new(ArchiveSource::new(archive::open(&store, &name).await?)?))
        }
    }
}
