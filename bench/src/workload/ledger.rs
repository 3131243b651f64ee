//! The keys of a crash test: each connection's own, each with a growing sequence number.
//!
//! A key has at most one put in flight, so whatever order a target executes in, a stored sequence
//! number below the acknowledged one is a lost write. Sequence numbers start above every number of
//! an earlier run on the same data (the caller passes a first number that grows with time), so an
//! old stored value can never stand in for a lost new one. A put that got no answer leaves its key
//! unused for the rest of the run: it may still take effect. A refused one does not: the store is
//! done with it, and a later put has a higher number.

use super::{End, Next, OpKind, Planned, value};

/// An acknowledged put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerPut {
    /// The record.
    pub(crate) record: u64,
    /// Its sequence number.
    pub(crate) seq: u64,
}

/// One key of one lane.
#[derive(Clone, Debug)]
struct LedgerKey {
    record: u64,
    busy: bool,
}

/// One thread's keys, by lane.
#[derive(Debug)]
pub(crate) struct LedgerKeys {
    lanes: Vec<(Vec<LedgerKey>, usize)>,
    next_seq: u64,
    value: Vec<u8>,
    /// Acknowledged since the last [`LedgerKeys::take_acknowledged`].
    acknowledged: Vec<LedgerPut>,
}

impl LedgerKeys {
    /// `records` keys over `lanes_all` lanes, of which this thread has `lanes` from `first_lane` on.
    /// Each lane gets at least twice its depth, so that it never waits for a key.
    pub(crate) fn new(
        records: u64,
        lanes_all: u32,
        first_lane: u32,
        lanes: u32,
        depth: u32,
        value_bytes: usize,
        first_seq: u64,
    ) -> LedgerKeys {
        let keys = (records / u64::from(lanes_all)).max(2 * u64::from(depth));
        let lanes = (first_lane..first_lane + lanes)
            .map(|lane| {
                let first = u64::from(lane) * keys;
                let keys =
                    (first..first + keys).map(|record| LedgerKey { record, busy: false }).collect();
                (keys, 0)
            })
            .collect();
        LedgerKeys {
            lanes,
            next_seq: first_seq,
            value: vec![0; value_bytes],
            acknowledged: Vec::new(),
        }
    }

    pub(super) fn next(&mut self, lane: u32) -> Next {
        let (keys, cursor) = &mut self.lanes[lane as usize];
        for _ in 0..keys.len() {
            let at = *cursor;
            *cursor = (at + 1) % keys.len();
            let key = &mut keys[at];
            if !key.busy {
                key.busy = true;
                let seq = self.next_seq;
                self.next_seq += 1;
                return Next::Op(Planned { kind: OpKind::Put, record: key.record, argument: seq });
            }
        }
        Next::LaneIdle
    }

    pub(super) fn finished(&mut self, lane: u32, planned: Planned, end: End) {
        if end != End::Unanswered {
            let (keys, _) = &mut self.lanes[lane as usize];
            let at = (planned.record - keys[0].record) as usize;
            keys[at].busy = false;
        }
        if end == End::Done {
            self.acknowledged.push(LedgerPut { record: planned.record, seq: planned.argument });
        }
    }

    pub(super) fn value(&mut self, planned: Planned) -> &[u8] {
        value::write_ledger_value(planned.record, planned.argument, &mut self.value);
        &self.value
    }

    /// What was acknowledged since the last call.
    pub(crate) fn take_acknowledged(&mut self) -> std::vec::Drain<'_, LedgerPut> {
        self.acknowledged.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_has_two_puts_in_flight_and_numbers_only_grow() {
        let mut keys = LedgerKeys::new(8, 2, 1, 1, 3, 32, 1000);
        let mut flying = Vec::new();
        let mut last = 999;
        for round in 0..100 {
            while let Next::Op(planned) = keys.next(0) {
                assert!(planned.argument > last, "numbers grow");
                last = planned.argument;
                assert!(flying.iter().all(|p: &Planned| p.record != planned.record));
                assert!((6..12).contains(&planned.record), "lane 1 has its own keys");
                flying.push(planned);
            }
            let done = flying.remove(round % flying.len());
            keys.finished(0, done, End::Done);
            assert_eq!(
                keys.take_acknowledged().collect::<Vec<_>>(),
                [LedgerPut { record: done.record, seq: done.argument }]
            );
        }
    }

    #[test]
    fn a_put_without_an_answer_retires_its_key() {
        let mut keys = LedgerKeys::new(2, 1, 0, 1, 1, 32, 1);
        let Next::Op(lost) = keys.next(0) else { panic!("two keys are free") };
        keys.finished(0, lost, End::Unanswered);
        for round in 0..10 {
            let Next::Op(other) = keys.next(0) else { panic!("one key is free") };
            assert_ne!(other.record, lost.record);
            keys.finished(0, other, [End::Done, End::Refused][round % 2]);
        }
        assert_eq!(keys.take_acknowledged().count(), 5, "refused puts are not acknowledged");
    }
}
