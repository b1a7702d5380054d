//! Shows how far work is: a bar on a terminal, a log line every ten seconds elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

const REDRAW: Duration = Duration::from_millis(200);
const LOG: Duration = Duration::from_secs(10);

/// How far the work is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Things done.
    pub(crate) done: u64,
    /// Things there are, when that is known.
    pub(crate) total: Option<u64>,
}

/// Shows the work until it is dropped.
pub(crate) struct Shown {
    task: JoinHandle<()>,
    bar: ProgressBar,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Begins to show work on `what`, as `read` tells it.
pub(crate) fn show(what: &'static str, read: impl Fn() -> Reading + Send + 'static) -> Shown {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let shown = bar.clone();
    let task = tokio::spawn(async move {
        let mut last = 0;
        let mut every = tokio::time::interval(if terminal { REDRAW } else { LOG });
        every.tick().await;
        loop {
            every.tick().await;
            let Reading { done, total } = read();
            if terminal {
                shown.set_style(style(total.is_some()));
                shown.set_message(what);
                if let Some(total) = total {
                    shown.set_length(total);
                }
                shown.set_position(done);
            } else {
                let per_second = (done - last) / LOG.as_secs();
                let seconds_left = total.and_then(|total| total.saturating_sub(done).checked_div(per_second));
                tracing::info!(done, total, per_second, seconds_left, "{what}");
                last = done;
            }
        }
    });
    Shown { task, bar }
}

fn style(bounded: bool) -> ProgressStyle {
    let template = if bounded {
        "{msg} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta} left"
    } else {
        "{spinner} {msg} {human_pos}  {per_sec}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
