//! How the process talks: log lines to standard error, metrics over HTTP when asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, LogFormat};

/// Sends log lines to standard error.
pub(crate) fn start_logging(global: &Global) {
    let filter = EnvFilter::new(directives(&global.log));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    #[expect(
        clippy::disallowed_methods,
        reason = "a convention of terminals, no setting of ours: https://no-color.org"
    )]
    let colour = std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    match global.log_format {
        LogFormat::Text => lines.with_ansi(colour).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// A bare level is that of this project's crates. The libraries below speak up when something needs a look; the Delta
/// kernel calls a table that does not exist yet an error, and what matters of it comes back as an error anyway.
fn directives(filter: &str) -> String {
    const CRATES: [&str; 8] = ["", "_common", "_stream", "_lake", "_producer", "_consumer", "_replay", "_query"];
    if filter.contains(['=', ',']) {
        return filter.to_owned();
    }
    let ours = CRATES.map(|name| format!("headwater{name}={filter}"));
    format!("warn,buoyant_kernel=off,delta_kernel=off,{}", ours.join(","))
}

/// Whether the process does its work in time.
pub(crate) type Readiness = Arc<dyn Fn() -> bool + Send + Sync>;

/// A running metrics server.
pub(crate) struct MetricsServer {
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

/// Serves `/metrics`, `/healthz` and `/readyz`; does nothing without an address.
pub(crate) async fn serve_metrics(
    address: Option<SocketAddr>,
    ready: Readiness,
) -> anyhow::Result<Option<MetricsServer>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("start the metrics recorder")?;
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics");
    let (stop, stopped) = watch::channel(false);
    let server = axum::serve(listener, routes(handle, ready)).with_graceful_shutdown(until(stopped));
    let task = tokio::spawn(async move { server.await });
    Ok(Some(MetricsServer { stop, task }))
}

impl MetricsServer {
    /// Ends the server and waits for it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        self.task.await.context("end the metrics server")?.context("serve metrics")
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // Also ends when the sender is gone.
    let _ = stopped.wait_for(|told| *told).await;
}

fn routes(handle: PrometheusHandle, ready: Readiness) -> Router {
    let readyz = move || {
        let status = if ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready(status)
    };
    Router::new()
        .route("/metrics", get(move || std::future::ready(handle.render())))
        .route("/healthz", get(|| std::future::ready(StatusCode::OK)))
        .route("/readyz", get(readyz))
}
