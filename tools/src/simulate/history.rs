//! What clients asked for and what they were told, key by key.
//!
//! A key is a register: absent, or one value. Values are never used twice, so a value says which
//! write left it. Moments are ticks, a count of everything that clients did, because two things of
//! one nanosecond have an order as well.

/// What a client asks of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// What is there?
    Read,
    /// Leave this value.
    Write(u64),
    /// Leave this value if that one is there (None: if nothing is).
    Swap { from: Option<u64>, to: u64 },
    /// Leave this value and say what was there.
    Exchange(u64),
    /// Leave nothing.
    Delete,
}

impl Call {
    /// What it leaves where it takes effect.
    pub(super) fn leaves(self) -> Option<Option<u64>> {
        match self {
            Call::Read => None,
            Call::Write(to) | Call::Swap { to, .. } | Call::Exchange(to) => Some(Some(to)),
            Call::Delete => Some(None),
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody knows: it may take effect at any later time, or never.
    Unknown,
    /// It certainly had no effect.
    NoEffect,
    /// A read's or an exchange's answer, or a swap's that found another value.
    Found(Option<u64>),
    /// A write, swap or delete took effect.
    Done,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) client: usize,
    pub(super) call: Call,
    pub(super) outcome: Outcome,
    /// The tick before which it had no effect.
    pub(super) begin: u64,
    /// The tick after which it has none any more; `u64::MAX` where the outcome is unknown.
    pub(super) end: u64,
    /// The same in nanoseconds of the run, for people.
    pub(super) began_at: u64,
    pub(super) ended_at: u64,
}

/// Names an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpName {
    pub(super) key: usize,
    index: usize,
}

/// Every operation on every register.
#[derive(Debug)]
pub(super) struct History {
    keys: Vec<Vec<Op>>,
    ticks: u64,
}

impl History {
    pub(super) fn new(keys: usize) -> History {
        History { keys: vec![Vec::new(); keys], ticks: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// A client asks.
    pub(super) fn begin(&mut self, client: usize, key: usize, call: Call, now: u64) -> OpName {
        let begin = self.tick();
        let ops = &mut self.keys[key];
        let (outcome, end, ended_at) = (Outcome::Unknown, u64::MAX, u64::MAX);
        ops.push(Op { client, call, outcome, begin, end, began_at: now, ended_at });
        OpName { key, index: ops.len() - 1 }
    }

    /// It is told.
    pub(super) fn end(&mut self, name: OpName, outcome: Outcome, now: u64) {
        let end = self.tick();
        let op = &mut self.keys[name.key][name.index];
        assert_eq!(op.outcome, Outcome::Unknown, "an operation ends once");
        op.outcome = outcome;
        if outcome != Outcome::Unknown {
            (op.end, op.ended_at) = (end, now);
        }
    }

    pub(super) fn call(&self, name: OpName) -> Call {
        self.keys[name.key][name.index].call
    }

    /// The operations of each key, in the order of their beginnings.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[Op]> {
        self.keys.iter().map(Vec::as_slice)
    }
}
