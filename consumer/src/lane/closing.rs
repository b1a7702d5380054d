//! The end of a lane: when other lanes are asked for, what is buffered is cut and the lane is closed by a last cut.

use headwater_lake::commit::Reached;
use headwater_lake::layout::LaneSetNumber;

use super::LaneRunner;
use crate::driver::{Ended, Error};
use crate::follow::{Signals, Told};
use crate::policy::Reason;

impl LaneRunner {
    /// Returns the runner that has nothing to do but to close the lane, or this one.
    pub(crate) fn closing(self, is_closing: bool) -> Self {
        Self { is_closing, ..self }
    }

    /// Returns true when there is a next set of lanes, as far as the consumer knows.
    pub(super) fn is_asked_to_close(&self) -> bool {
        self.is_closing || self.follower.as_ref().is_some_and(|follower| follower.knows_next_lanes())
    }

    /// Cuts what is buffered and closes the lane, however often another writer is faster.
    pub(super) async fn close_for_others(&mut self, signals: &mut Signals) -> Result<Ended, Error> {
        while !signals.is_stopped() {
            if let Some(ended) = self.cut_and_wait(Reason::LaneClosed, signals).await? {
                return Ok(ended);
            }
            let closed = self.writer.close(&mut self.buffer).await;
            let reached = closed.map_err(|error| self.consumer.lake_error(error))?;
            if let Some(ended) = self.unless_ready(reached, signals).await? {
                return Ok(ended);
            }
        }
        let leaves = *signals.told.borrow() == Told::Leave;
        if !leaves {
            self.write(Reason::Shutdown).await?;
        }
        Ok(Ended::Done)
    }

    /// Cuts what is buffered. Returns how the lane ends when it does not go on.
    pub(super) async fn cut_and_wait(&mut self, reason: Reason, signals: &mut Signals) -> Result<Option<Ended>, Error> {
        match self.write(reason).await? {
            Some(stopped) => self.unless_ready(stopped, signals).await,
            None => Ok(None),
        }
    }

    /// Takes up the positions where the lane goes on; waits in front of a seal; says that the lane has ended.
    pub(super) async fn unless_ready(
        &mut self,
        reached: Reached,
        signals: &mut Signals,
    ) -> Result<Option<Ended>, Error> {
        match reached {
            Reached::Ready(ready) => {
                self.resume(ready);
                Ok(None)
            }
            Reached::Blocked(seal) => self.unblock(seal, signals).await,
            Reached::Closed(next) => Ok(Some(self.closed_for(next))),
        }
    }

    /// The lane is over. The consumer's other lanes need not look for the reason.
    pub(super) fn closed_for(&self, next: LaneSetNumber) -> Ended {
        tracing::info!(lane = %self.lane, set = %next, "the lane is closed; those of the next set go on");
        if let Some(follower) = &self.follower {
            follower.learn_next_lanes();
        }
        Ended::Closed
    }
}
