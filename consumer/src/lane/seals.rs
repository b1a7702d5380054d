//! What stops a lane of a table: a seal, and another generation that is live.

use std::time::Duration;

use headwater_lake::commit::{self, Reached, Unblock};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::PointerNumber;
use headwater_lake::pointer;

use super::LaneRunner;
use crate::driver::{Ended, Error};
use crate::follow::Signals;

/// How long apart a blocked lane looks whether its seal is decided.
const BLOCKED_POLL: Duration = Duration::from_millis(500);

impl LaneRunner {
    /// Looks for the next pointer, now or when it is time again; true when another generation is live.
    pub(super) async fn looks_moved(&self, now: bool) -> Result<bool, Error> {
        let Some(follower) = &self.follower else {
            return Ok(false);
        };
        let time = self.consumer.clock.now();
        let moved = if now { follower.has_moved(time).await } else { follower.has_moved_at_times(time).await };
        moved.map_err(|error| self.consumer.lake_error(error))
    }

    /// Waits in front of a seal until its pointer is decided, and decides it when the seal is overdue. `None` when the
    /// lane goes on in this generation.
    pub(super) async fn unblock(&mut self, seal: PointerNumber, signals: &mut Signals) -> Result<Option<Ended>, Error> {
        if self.follower.is_none() {
            return Ok(Some(Ended::Overtaken));
        }
        let own = self.consumer.generation.description.number;
        let (mut seal, mut since) = (seal, self.consumer.clock.now());
        tracing::info!(lane = %self.lane, pointer = %seal, "the lane is sealed; waiting for the pointer");
        loop {
            let highest = self.consumer.highest_pointer().await?;
            let waited = self.consumer.clock.now().since(since);
            match commit::unblock(seal, own, &highest, waited, self.consumer.seal_wait) {
                Unblock::MoveTo(_) => return Ok(Some(Ended::Moved)),
                Unblock::Pass => match self.recover_writer().await? {
                    Reached::Ready(_) => return Ok(None),
                    Reached::Closed(next) => return Ok(Some(self.closed_for(next))),
                    Reached::Blocked(next) if next != seal => (seal, since) = (next, self.consumer.clock.now()),
                    // The pointer has moved between the two looks.
                    Reached::Blocked(_) => {}
                },
                Unblock::Break(pointer) => {
                    tracing::warn!(lane = %self.lane, pointer = %seal, "the seal is overdue; its tool counts as dead");
                    let OpenGeneration { store, table, .. } = self.consumer.generation.as_ref();
                    // Whoever wins: the next look tells.
                    let created = pointer::create(store, table, &pointer).await;
                    created.map_err(|error| self.consumer.lake_error(error))?;
                }
                Unblock::Wait => {
                    if signals.unless_stopped(tokio::time::sleep(BLOCKED_POLL)).await.is_err() {
                        return Ok(Some(Ended::Done));
                    }
                }
            }
        }
    }
}
