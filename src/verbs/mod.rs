//! The verbs, one file each.

mod archive;
pub(crate) mod completions;
mod consume;
mod demo;
mod gc;
mod leases;
mod produce;
#[cfg(feature = "sql")]
mod query;
mod replay;
mod source;
mod status;
mod verify;

use crate::cli::{Command, Global};

/// Runs a verb.
pub(crate) async fn run(command: Command, _global: Global) -> anyhow::Result<()> {
    match command {
        Command::Produce(options) => produce::run(options).await,
        Command::Consume(options) => consume::run(options).await,
        Command::Replay(options) => replay::run(options).await,
        #[cfg(feature = "sql")]
        Command::Query(options) => query::run(options).await,
        #[cfg(not(feature = "sql"))]
        Command::Query(_) => {
            anyhow::bail!("this build has no SQL engine; build headwater with its feature `sql`")
        }
        Command::Status(options) => status::run(options).await,
        Command::Verify(options) => verify::run(options).await,
        Command::Gc(options) => gc::run(options).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Completions(options) => completions::run(&options),
    }
}
