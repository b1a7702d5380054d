//! `headwater replay status`.

use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_replay::status;
use headwater_stream::url::StreamUrl;

use crate::cli::{ReplayStatus, ReportFormat};
use crate::verbs::source;

/// Shows the generations of a table.
pub(crate) async fn run(options: ReplayStatus) -> anyhow::Result<()> {
    let store = LakeStore::existing_on_disk(&options.place.lake)?;
    let live = generation::open_live(&store, &options.place.table).await?;
    let source = match &options.place.from {
        // Without the stream all is shown but how far behind it they are.
        StreamUrl::Log(path) if !path.join("data.mdb").is_file() => None,
        url => Some(source::open(url, options.place.log_map_size).await?),
    };
    let status = status::status(&live, source.as_deref()).await?;
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&status)?),
        ReportFormat::Table => crate::write_out(&status.text()),
    }
}
