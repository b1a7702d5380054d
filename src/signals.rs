//! The first Ctrl-C or SIGTERM ends the work in order, the second ends the process at once.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Returns a value that turns true with the first signal.
pub(crate) fn shutdown() -> anyhow::Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let (tell, told) = watch::channel(false);
    // Lives as long as the process: there is nothing to wait for.
    tokio::spawn(async move {
        let code = |interrupted: bool| if interrupted { 130 } else { 143 };
        let wait = async |interrupt: &mut tokio::signal::unix::Signal, terminate: &mut tokio::signal::unix::Signal| {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
            }
        };
        wait(&mut interrupt, &mut terminate).await;
        tracing::info!("stopping: committing what is buffered; a second signal ends at once");
        let _ = tell.send(true);
        let interrupted = wait(&mut interrupt, &mut terminate).await;
        std::process::exit(code(interrupted));
    });
    Ok(told)
}
