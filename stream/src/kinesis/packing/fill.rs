//! Fills a call: from every shard's bay as much as its pace lets through, up to what a call may hold.

use std::time::Duration;

use super::unit::{Item, Line, Range, Unit, bytes_of, bytes_with, push};
use super::{IN_FLIGHT_BYTES_MAX, Packer};
use crate::kinesis::kpl::Aggregate;
use crate::kinesis::limits::PUT_RECORDS_MAX;
use crate::kinesis::pacing::Tokens;

/// Bytes that a call is filled with, but for one record that is larger alone. The service has taken twice as much since
/// records may have 10 MiB; what speaks its language elsewhere has not.
const CALL_BYTES: usize = 5 * 1024 * 1024;

/// A call that is being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    pub(super) units: Vec<Unit>,
    pub(super) bytes: usize,
    /// Whether what stands first must wait until less is on its way.
    is_blocked: bool,
}

impl Packer {
    /// Takes what may be sent now, units of one call.
    pub(super) fn fill(&mut self, now: Duration) -> Filling {
        let mut call = Filling::default();
        let bays = self.bays.len();
        for step in 0..bays {
            let bay = (self.turn + step) % bays;
            if self.opens_at(bay, now).is_some_and(|at| at <= now) {
                while call.units.len() < PUT_RECORDS_MAX
                    && let Some(unit) = self.take(bay, &mut call, now)
                {
                    self.pacing.take(bay, now, Tokens { bytes: unit.bytes, records: 1 });
                    call.bytes += unit.bytes;
                    call.units.push(unit);
                }
            }
            if call.is_blocked {
                // Its turn stays: what is on its way becomes less, and it is not overtaken for ever.
                self.turn = bay;
                return call;
            }
        }
        self.turn = (self.turn + 1) % bays;
        call
    }

    /// Returns when a bay may send; `None` when nothing waits there.
    pub(super) fn opens_at(&mut self, bay: usize, now: Duration) -> Option<Duration> {
        let least = self.least(bay)?;
        let place = &self.bays[bay];
        let units = place.again.len() + place.ready.len();
        // How many aggregates that will be does not matter: their bytes do.
        let records = if self.options.aggregate_bytes.is_some() { 1 } else { units };
        let waiting = Tokens { bytes: place.ready_bytes + place.again_bytes, records };
        Some(self.pacing.ready_at(bay, now, Tokens { bytes: least, records: 1 }, waiting))
    }

    /// Returns the bytes that the next record of a bay needs: a small aggregate is not made where a whole one could be.
    fn least(&self, bay: usize) -> Option<usize> {
        let place = &self.bays[bay];
        if let Some(unit) = place.again.front() {
            return Some(unit.bytes);
        }
        let first = self.front(bay)?.bytes();
        let aggregate = self.options.aggregate_bytes.map_or(0, |bytes| bytes.min(place.ready_bytes));
        Some(aggregate.max(first))
    }

    fn front(&self, bay: usize) -> Option<&Item> {
        self.lines.get(self.bays[bay].ready.front()?)?.front()
    }

    /// Takes the next unit of a bay; `None` when there is none that may go with this call.
    fn take(&mut self, bay: usize, call: &mut Filling, now: Duration) -> Option<Unit> {
        let least = self.least(bay)?;
        if !self.fits(call, least) {
            call.is_blocked = call.units.is_empty();
            return None;
        }
        if !self.pacing.has(bay, now, Tokens { bytes: least, records: 1 }) {
            return None;
        }
        let place = &mut self.bays[bay];
        if let Some(unit) = place.again.pop_front() {
            place.again_bytes -= unit.bytes;
            return Some(unit);
        }
        match self.options.aggregate_bytes {
            None => {
                let id = self.bays[bay].ready.pop_front()?;
                let item = self.pop(bay, id)?;
                self.hold(bay, id);
                Some(Unit::plain(item))
            }
            Some(bytes_max) => {
                let bytes_max = bytes_max.min(self.room(call)).min(self.pacing.left(bay, now).bytes);
                self.aggregate(bay, bytes_max)
            }
        }
    }

    /// Returns whether a record fits beside those of a call, and beside those on their way.
    fn fits(&self, call: &Filling, bytes: usize) -> bool {
        if call.units.is_empty() {
            return self.flights.is_empty() || self.in_flight_bytes + bytes <= IN_FLIGHT_BYTES_MAX;
        }
        bytes <= self.room(call)
    }

    /// Returns how many bytes may still be added to a call.
    fn room(&self, call: &Filling) -> usize {
        let on_their_way = self.in_flight_bytes + call.bytes;
        CALL_BYTES.saturating_sub(call.bytes).min(IN_FLIGHT_BYTES_MAX.saturating_sub(on_their_way))
    }

    /// Makes an aggregate of the events that stand first in a bay, those of a key together; of one event a record as it
    /// is.
    fn aggregate(&mut self, bay: usize, bytes_max: usize) -> Option<Unit> {
        let shard = &self.map.shards()[bay];
        let range = Range { first: shard.first, last: shard.last };
        let mut aggregate = Aggregate::new();
        let mut items = Vec::new();
        while let Some(&id) = self.bays[bay].ready.front() {
            let fitting = |item: &Item| items.is_empty() || bytes_with(&aggregate, range, item) <= bytes_max;
            if !self.lines.get(&id).and_then(Line::front).is_some_and(fitting) {
                break;
            }
            self.bays[bay].ready.pop_front();
            while let Some(item) = self.lines.get(&id).and_then(Line::front) {
                if !items.is_empty() && bytes_with(&aggregate, range, item) > bytes_max {
                    break;
                }
                push(&mut aggregate, range, item);
                items.extend(self.pop(bay, id));
            }
            self.hold(bay, id);
        }
        let bytes = bytes_of(&aggregate);
        let mut items = items.into_iter();
        let first = items.next()?;
        let rest: Vec<Item> = items.collect();
        if rest.is_empty() {
            return Some(Unit::plain(first));
        }
        Some(Unit { first, rest, bytes, range: Some(range), made: Some(Box::new(aggregate)) })
    }

    /// Takes the next event of a line that is ready.
    fn pop(&mut self, bay: usize, id: u128) -> Option<Item> {
        let item = self.lines.get_mut(&id)?.pop_front()?;
        self.bays[bay].ready_bytes -= item.bytes();
        Some(item)
    }

    /// Lets the rest of a line wait until its events that were taken are settled. Without order nothing waits.
    fn hold(&mut self, bay: usize, id: u128) {
        if !self.options.is_ordered {
            self.lines.remove(&id);
        } else if let Some(line) = self.lines.get_mut(&id) {
            line.is_held = true;
            self.bays[bay].ready_bytes -= line.bytes();
        }
    }
}
