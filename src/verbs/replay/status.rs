//! `headwater replay status`.

use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_replay::status;
use headwater_stream::Source;
use headwater_stream::url::StreamUrl;

use crate::cli::{ReplayStatus, ReportFormat};

/// Shows the generations of a table.
pub(crate) async fn run(options: ReplayStatus) -> anyhow::Result<()> {
    let store = LakeStore::existing_on_disk(&options.place.lake)?;
    let live = generation::open_live(&store, &options.place.table).await?;
    let StreamUrl::Log(path) = &options.place.from;
    // Without the stream all is shown but how far behind it they are.
    let log = if path.join("data.mdb").is_file() { Some(super::open_log(&options.place)?) } else { None };
    let source = log.as_ref().map(|log| log as &dyn Source);
    let status = status::status(&live, source).await?;
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&status)?),
        ReportFormat::Table => crate::write_out(&status.text()),
    }
}
