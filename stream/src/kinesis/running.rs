//! A piece of work under way that nobody waits for long: a task that ends when its owner forgets it.

use std::sync::Arc;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// The task ended without a result: it panicked, or the runtime is shutting down.
#[derive(Debug)]
pub(super) struct Died;

/// Work under way.
#[derive(Debug)]
pub(super) struct Running<T> {
    task: JoinHandle<()>,
    result: oneshot::Receiver<T>,
    ready: Arc<Notify>,
}

impl<T: Send + 'static> Running<T> {
    /// Starts the work.
    pub(super) fn start(work: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, result) = oneshot::channel();
        let ready = Arc::new(Notify::new());
        let told = Arc::clone(&ready);
        let task = tokio::spawn(async move {
            let done = work.await;
            // The owner may have forgotten it meanwhile.
            if sender.send(done).is_ok() {
                told.notify_one();
            }
        });
        Self { task, result, ready }
    }

    /// Returns what tells that the work is done.
    pub(super) fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }

    /// Returns the result when it is there; once.
    pub(super) fn result(&mut self) -> Option<Result<T, Died>> {
        match self.result.try_recv() {
            Ok(result) => Some(Ok(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(Died)),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_tells_when_it_is_done_and_ends_when_it_is_forgotten() {
        let mut done = Running::start(async { 7 });
        done.ready().notified().await;
        assert!(matches!(done.result(), Some(Ok(7))));

        let (held, alive) = oneshot::channel::<()>();
        let mut forgotten = Running::start(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        assert!(forgotten.result().is_none());
        drop(forgotten);
        assert!(alive.await.is_err(), "its task is gone");
    }
}
