//! The workload of redb's published benchmark (`lmdb_benchmark` of its repository): what is done to
//! an engine, in which order, and what is counted.
//!
//! ```text
//!   bulk load ─► settle ─► single writes ─► batches ─► settle, size ─► random reads ─► range reads
//!                                ─► removals ─► settle, size ─► compact, size
//! ```
//!
//! | phase | at 1,000,000 items | as published (5,000,000) |
//! |---|---|---|
//! | bulk load | all items | the same |
//! | single writes | 1000 commits of 1 item | the same |
//! | batches | 100 commits of 1000 items | the same |
//! | random reads | 1,000,000, one thread | the same, twice |
//! | range reads | 500,000 of 10 items, random start | the same, twice |
//! | removals | half of all items | the same |
//!
//! Keys and values are random bytes, made from the seed and the item's number, so that any of them
//! can be made again. Every value that is read is compared with what was written, whole: an engine
//! that is fast and wrong ends the run. Making the key and comparing the value cost all engines the
//! same; [`Workload::own_nanos`] measures how much.
//!
//! Differences from the published benchmark: the engines settle (checkpoint, flush, compact what
//! they compact by themselves) before the phases whose figures that work would blur, and the time it
//! took is shown; reads choose items at random instead of in the order of insertion; `len()`, reads
//! by several threads and retain are left out.
//!
//! A run may have a limit of time: each phase then gets its part of what is left, by [`Phase::weight`],
//! and ends with it; its figure is that of what it did, and says so ([`Cut`]). A bulk load that does
//! not end in its time ends the engine's run, because all that follows would be of fewer items.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use super::engine::{Engine, Fault, Parts};
use crate::sys::thread_cpu_nanos;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 24;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 150;

/// A random key.
pub(crate) type Key = [u8; KEY_BYTES];
/// A key and its value.
pub(crate) type Pair = (Key, [u8; VALUE_BYTES]);

/// What is measured after the bulk load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Phase {
    /// The bulk load itself; it always happens
    Load,
    /// Commits of one item
    Singles,
    /// Commits of many items
    Batches,
    /// Random reads on one thread
    Reads,
    /// Ten items from a random one on
    Ranges,
    /// Half of all items
    Removals,
    /// Bytes on disk before and after removals and compaction
    Size,
}

/// A row of the table. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Row {
    /// Items a second, until the last is durable.
    BulkLoad,
    /// Seconds until the engine had settled.
    LoadSettle,
    /// Commits a second.
    SingleWrites,
    /// Items a second.
    Batches,
    /// Bytes.
    SizeFull,
    /// Bytes of them that hold live data.
    UsedFull,
    /// Bytes of them that are log.
    LogFull,
    /// The rest of them.
    ReserveFull,
    /// Reads a second.
    RandomReads,
    /// Microseconds of the reading thread's CPU for each.
    RandomReadCpu,
    /// Ranges a second.
    RangeReads,
    /// Microseconds of the reading thread's CPU for each.
    RangeReadCpu,
    /// Items a second.
    Removals,
    /// Bytes.
    SizeRemoved,
    /// Bytes of them that hold live data.
    UsedRemoved,
    /// Bytes of them that are log.
    LogRemoved,
    /// The rest of them.
    ReserveRemoved,
    /// Bytes.
    SizeCompacted,
    /// Seconds.
    Compaction,
}

impl Row {
    /// All of them.
    pub(crate) const ALL: [Row; 19] = [
        Row::BulkLoad,
        Row::LoadSettle,
        Row::SingleWrites,
        Row::Batches,
        Row::SizeFull,
        Row::UsedFull,
        Row::LogFull,
        Row::ReserveFull,
        Row::RandomReads,
        Row::RandomReadCpu,
        Row::RangeReads,
        Row::RangeReadCpu,
        Row::Removals,
        Row::SizeRemoved,
        Row::UsedRemoved,
        Row::LogRemoved,
        Row::ReserveRemoved,
        Row::SizeCompacted,
        Row::Compaction,
    ];
}

/// What one engine came to in one round.
pub(crate) type Measured = BTreeMap<Row, f64>;

/// A figure of less than was planned, because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Cut {
    pub(crate) row: Row,
    pub(crate) done: u64,
    pub(crate) planned: u64,
}

/// How much was done, and how long it took.
#[derive(Clone, Copy, Debug)]
struct Done {
    count: u64,
    time: Duration,
}

impl Done {
    fn rate(self) -> f64 {
        self.count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl Phase {
    /// Its part of a limited time, among those of the phases that are still to come.
    fn weight(self) -> u32 {
        match self {
            // What a bulk load does not use is for the others, and one cut short is worth nothing.
            Phase::Load => 20,
            Phase::Singles | Phase::Batches | Phase::Size => 1,
            Phase::Reads | Phase::Ranges => 2,
            Phase::Removals => 3,
        }
    }
}

/// The time of one engine's run.
#[derive(Clone, Copy, Debug)]
struct Budget {
    until: Option<Instant>,
    /// Of this phase and those after it.
    weights: u32,
}

impl Budget {
    /// When `phase`, the next one, must end.
    fn next(&mut self, phase: Phase) -> Deadline {
        let weights = self.weights.max(phase.weight());
        self.weights = weights - phase.weight();
        Deadline(self.until.map(|until| {
            let now = Instant::now();
            now + until.saturating_duration_since(now) * phase.weight() / weights
        }))
    }
}

/// When a phase must end; none for whenever it has done everything.
#[derive(Clone, Copy, Debug)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn has_passed(self) -> bool {
        self.0.is_some_and(|until| Instant::now() >= until)
    }
}

/// Hears how far a phase is.
pub(crate) trait Watch {
    /// `steps` steps will follow.
    fn begin(&mut self, what: &'static str, steps: u64);
    /// So many more are done.
    fn step(&mut self, steps: u64);
    /// The phase came to this.
    fn end(&mut self, row: Row, value: f64);
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) items: u64,
    pub(crate) singles: u64,
    pub(crate) batches: u64,
    pub(crate) batch_items: u64,
    pub(crate) reads: u64,
    pub(crate) ranges: u64,
    pub(crate) range_items: u64,
}

impl Counts {
    /// As published, but smaller where there are fewer than a million items.
    pub(crate) fn of(items: u64) -> Counts {
        Counts {
            items,
            singles: (items / 1000).clamp(10, 1000),
            batches: 100.min(items / 20).max(1),
            batch_items: (items / 1000).clamp(10, 1000),
            reads: items.min(1_000_000),
            ranges: items.min(1_000_000).div_ceil(2),
            range_items: 10,
        }
    }

    /// Items after singles and batches.
    pub(crate) fn written(&self) -> u64 {
        self.items + self.singles + self.batches * self.batch_items
    }

    /// Of the items written, the first half.
    pub(crate) fn removals(&self) -> u64 {
        self.written() / 2
    }
}

/// Steps between two looks at the clock.
const STRIDE: u64 = 4096;
/// Items looked at after removals, gone ones and others each.
const CHECKS: u64 = 1000;

/// The same for every engine of a round.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) counts: Counts,
    pub(crate) seed: u64,
    /// Empty: all.
    pub(crate) only: Vec<Phase>,
}

impl Workload {
    /// The key and the value of item number `index`.
    pub(crate) fn pair(&self, index: u64) -> Pair {
        let mut words = Words::new(self.seed, index);
        let mut pair = ([0; KEY_BYTES], [0; VALUE_BYTES]);
        words.fill(&mut pair.0);
        words.fill(&mut pair.1);
        pair
    }

    /// The key of item number `index`.
    pub(crate) fn key(&self, index: u64) -> Key {
        let mut key = [0; KEY_BYTES];
        Words::new(self.seed, index).fill(&mut key);
        key
    }

    fn wants(&self, phase: Phase) -> bool {
        phase == Phase::Load || self.only.is_empty() || self.only.contains(&phase)
    }

    /// Items that are there when [`Row::SizeFull`] is measured.
    pub(crate) fn items_when_full(&self) -> u64 {
        let Counts { items, singles, batches, batch_items, .. } = self.counts;
        let of = |phase, count| if self.wants(phase) { count } else { 0 };
        items + of(Phase::Singles, singles) + of(Phase::Batches, batches * batch_items)
    }

    fn budget(&self, until: Option<Instant>) -> Budget {
        let wanted = Phase::value_variants().iter().filter(|phase| self.wants(**phase));
        Budget { until, weights: wanted.map(|phase| phase.weight()).sum() }
    }

    /// Does everything to `engine`, whose files are in `dir`, until `until` at the latest; what it came
    /// to, and what was cut short.
    pub(crate) fn run(
        &self,
        engine: &mut dyn Engine,
        dir: &Path,
        until: Option<Instant>,
        watch: &mut dyn Watch,
    ) -> Result<(Measured, Vec<Cut>), Fault> {
        let mut measured = Measured::new();
        let mut cuts = Vec::new();
        let mut budget = self.budget(until);
        let mut cut = |row: Row, done: Done, planned: u64| {
            if done.count < planned {
                cuts.push(Cut { row, done: done.count, planned });
            }
            done.count < planned
        };
        let mut note = |watch: &mut dyn Watch, row: Row, value: f64| {
            measured.insert(row, value);
            watch.end(row, value);
        };
        let counts = self.counts;
        let load = self.load(engine, budget.next(Phase::Load), watch)?;
        note(watch, Row::BulkLoad, load.rate());
        if cut(Row::BulkLoad, load, counts.items) {
            return Ok((measured, cuts));
        }
        let settled = settle(engine, watch)?;
        note(watch, Row::LoadSettle, settled.as_secs_f64());
        let mut written = counts.items;
        for (phase, row, what, commits, items) in [
            (Phase::Singles, Row::SingleWrites, "single writes", counts.singles, 1),
            (Phase::Batches, Row::Batches, "batches", counts.batches, counts.batch_items),
        ] {
            if self.wants(phase) {
                let first = written;
                let done =
                    self.batches(engine, budget.next(phase), watch, what, first, commits, items)?;
                note(watch, row, done.rate());
                cut(row, done, commits * items);
                written += done.count;
            }
        }
        settle(engine, watch)?;
        if self.wants(Phase::Size) {
            for (row, bytes) in sizes(engine, dir, &FULL)? {
                note(watch, row, bytes);
            }
        }
        if self.wants(Phase::Reads) {
            let cpu = thread_cpu_nanos();
            let done = self.reads(engine, budget.next(Phase::Reads), watch, written)?;
            note(watch, Row::RandomReads, done.rate());
            note(watch, Row::RandomReadCpu, micros_each(cpu, done.count));
            cut(Row::RandomReads, done, counts.reads);
        }
        if self.wants(Phase::Ranges) {
            let cpu = thread_cpu_nanos();
            let done = self.ranges(engine, budget.next(Phase::Ranges), watch, written)?;
            note(watch, Row::RangeReads, done.rate());
            note(watch, Row::RangeReadCpu, micros_each(cpu, done.count));
            cut(Row::RangeReads, done, counts.ranges);
        }
        let mut is_half_removed = false;
        if self.wants(Phase::Removals) {
            let deadline = budget.next(Phase::Removals);
            let done = self.removals(engine, deadline, watch, written / 2)?;
            note(watch, Row::Removals, done.rate());
            is_half_removed = !cut(Row::Removals, done, written / 2);
            settle(engine, watch)?;
            self.check_removals(engine, done.count, written)?;
        }
        if is_half_removed && self.wants(Phase::Size) {
            for (row, bytes) in sizes(engine, dir, &REMOVED)? {
                note(watch, row, bytes);
            }
        }
        // Nothing can end a compaction that has begun.
        if self.wants(Phase::Size) && !Deadline(until).has_passed() {
            watch.begin("compaction", 1);
            let began = Instant::now();
            if engine.compact()? {
                engine.settle()?;
                note(watch, Row::SizeCompacted, disk_bytes(dir)? as f64);
                note(watch, Row::Compaction, began.elapsed().as_secs_f64());
            }
        }
        Ok((measured, cuts))
    }

    fn load(
        &self,
        engine: &mut dyn Engine,
        deadline: Deadline,
        watch: &mut dyn Watch,
    ) -> Result<Done, Fault> {
        watch.begin("bulk load", self.counts.items);
        let began = Instant::now();
        let mut count = 0;
        let mut pairs = strides(self.counts.items, deadline, watch).map(|index| {
            count = index + 1;
            self.pair(index)
        });
        engine.load(&mut pairs)?;
        Ok(Done { count, time: began.elapsed() })
    }

    /// `commits` commits of `items` new items each; what makes them is not timed. Counts items.
    #[expect(clippy::too_many_arguments, reason = "two phases that differ in three numbers")]
    fn batches(
        &self,
        engine: &mut dyn Engine,
        deadline: Deadline,
        watch: &mut dyn Watch,
        what: &'static str,
        written: u64,
        commits: u64,
        items: u64,
    ) -> Result<Done, Fault> {
        watch.begin(what, commits);
        let mut done = Done { count: 0, time: Duration::ZERO };
        let mut pairs = Vec::with_capacity(items as usize);
        for commit in 0..commits {
            if commit > 0 && deadline.has_passed() {
                break;
            }
            let first = written + commit * items;
            pairs.clear();
            pairs.extend((first..first + items).map(|index| self.pair(index)));
            let began = Instant::now();
            engine.put_batch(&pairs)?;
            done.time += began.elapsed();
            done.count += items;
            watch.step(1);
        }
        Ok(done)
    }

    fn reads(
        &self,
        engine: &mut dyn Engine,
        deadline: Deadline,
        watch: &mut dyn Watch,
        written: u64,
    ) -> Result<Done, Fault> {
        watch.begin("random reads", self.counts.reads);
        let mut chosen = Words::new(self.seed ^ READS, 0);
        let mut reader = engine.reader()?;
        let mut count = 0;
        let began = Instant::now();
        for read in strides(self.counts.reads, deadline, watch) {
            let (key, value) = self.pair(chosen.below(written));
            let mut is_right = false;
            reader.get(&key, &mut |found| is_right = found == value)?;
            if !is_right {
                return Err("a read did not find what was written".into());
            }
            count = read + 1;
        }
        Ok(Done { count, time: began.elapsed() })
    }

    fn ranges(
        &self,
        engine: &mut dyn Engine,
        deadline: Deadline,
        watch: &mut dyn Watch,
        written: u64,
    ) -> Result<Done, Fault> {
        watch.begin("range reads", self.counts.ranges);
        let mut chosen = Words::new(self.seed ^ RANGES, 0);
        let mut reader = engine.reader()?;
        let (mut seen, mut short, mut count) = (0u64, 0u64, 0);
        let began = Instant::now();
        for range in strides(self.counts.ranges, deadline, watch) {
            let (key, value) = self.pair(chosen.below(written));
            let (mut items, mut is_right) = (0, true);
            reader.range(&key, self.counts.range_items as usize, &mut |found| {
                // The first is known; the others have the length, and are touched.
                is_right &= match items {
                    0 => found == value,
                    _ => found.len() == VALUE_BYTES,
                };
                seen = seen.wrapping_add(u64::from(found.first().copied().unwrap_or(0)));
                items += 1;
            })?;
            if !is_right || items == 0 || items > self.counts.range_items {
                return Err("a range read did not begin with what was written".into());
            }
            short += u64::from(items < self.counts.range_items);
            count = range + 1;
        }
        std::hint::black_box(seen);
        let time = began.elapsed();
        // Only those that begin among the last keys end early.
        if short > self.counts.ranges / 10 {
            return Err("most range reads ended before their last item".into());
        }
        Ok(Done { count, time })
    }

    /// Removes the first items.
    fn removals(
        &self,
        engine: &mut dyn Engine,
        deadline: Deadline,
        watch: &mut dyn Watch,
        removals: u64,
    ) -> Result<Done, Fault> {
        watch.begin("removals", removals);
        let began = Instant::now();
        let mut count = 0;
        let mut keys = strides(removals, deadline, watch).map(|index| {
            count = index + 1;
            self.key(index)
        });
        engine.remove(&mut keys)?;
        Ok(Done { count, time: began.elapsed() })
    }

    /// What was removed is gone, what was not is there.
    fn check_removals(
        &self,
        engine: &mut dyn Engine,
        removals: u64,
        written: u64,
    ) -> Result<(), Fault> {
        let mut chosen = Words::new(self.seed ^ CHECKING, 0);
        let mut reader = engine.reader()?;
        for _ in 0..CHECKS {
            let gone = self.key(chosen.below(removals));
            if reader.get(&gone, &mut |_| {})? {
                return Err("a removed item is still there".into());
            }
            let (key, value) = self.pair(removals + chosen.below(written - removals));
            let mut is_right = false;
            reader.get(&key, &mut |found| is_right = found == value)?;
            if !is_right {
                return Err("an item that was not removed is lost or damaged".into());
            }
        }
        Ok(())
    }

    /// What choosing an item, making it again and comparing a value costs, for each read.
    pub(crate) fn own_nanos(&self) -> f64 {
        const READS_MADE: u64 = 200_000;
        let mut chosen = Words::new(self.seed ^ READS, 0);
        let (mut before, mut equal) = (self.pair(0).1, 0u64);
        let began = Instant::now();
        for _ in 0..READS_MADE {
            let (key, value) = self.pair(chosen.below(self.counts.items));
            // What differs at the last byte only is compared whole.
            before[..VALUE_BYTES - 1].copy_from_slice(&value[..VALUE_BYTES - 1]);
            equal += u64::from(std::hint::black_box(&before) == &value) + u64::from(key[0]);
        }
        std::hint::black_box(equal);
        began.elapsed().as_nanos() as f64 / READS_MADE as f64
    }
}

/// Salts, so that no phase repeats another's choices.
const READS: u64 = 0x5EAD;
const RANGES: u64 = 0x5CA7;
const CHECKING: u64 = 0xC4EC;

/// 0 up to `count`, with a look at the clock now and then; ends early when the time is over, but never
/// before something was done.
fn strides<'w>(
    count: u64,
    deadline: Deadline,
    watch: &'w mut dyn Watch,
) -> impl Iterator<Item = u64> + use<'w> {
    (0..count).take_while(move |index| {
        if *index == 0 || index % STRIDE != 0 {
            return true;
        }
        watch.step(STRIDE);
        !deadline.has_passed()
    })
}

/// The rows of an engine's size at one moment: all of it, and its parts.
type SizeRows = [Row; 4];
const FULL: SizeRows = [Row::SizeFull, Row::UsedFull, Row::LogFull, Row::ReserveFull];
const REMOVED: SizeRows =
    [Row::SizeRemoved, Row::UsedRemoved, Row::LogRemoved, Row::ReserveRemoved];

fn sizes(engine: &dyn Engine, dir: &Path, rows: &SizeRows) -> Result<Vec<(Row, f64)>, Fault> {
    let all = disk_bytes(dir)?;
    let mut bytes = vec![all];
    if let Some(Parts { live_bytes, log_bytes }) = engine.parts() {
        bytes.extend([live_bytes, log_bytes, all.saturating_sub(live_bytes + log_bytes)]);
    }
    Ok(rows.iter().copied().zip(bytes.into_iter().map(|bytes| bytes as f64)).collect())
}

fn settle(engine: &mut dyn Engine, watch: &mut dyn Watch) -> Result<Duration, Fault> {
    watch.begin("settling", 1);
    let began = Instant::now();
    engine.settle()?;
    Ok(began.elapsed())
}

/// Of this thread's CPU since it was `before`.
fn micros_each(before: u64, count: u64) -> f64 {
    (thread_cpu_nanos() - before) as f64 / 1e3 / count.max(1) as f64
}

/// Bytes that the files below `dir` take on the disk: sparse files count by their blocks.
pub(crate) fn disk_bytes(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => entry.metadata()?.blocks() * BLOCK,
        };
    }
    Ok(bytes)
}

/// SplitMix64: a stream of words for every (seed, stream).
#[derive(Clone, Debug)]
struct Words {
    state: u64,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Words {
    fn new(seed: u64, stream: u64) -> Words {
        // Streams begin at unrelated places of the one cycle.
        let mut words = Words { state: seed };
        let start = words.next() ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03);
        words.state = start;
        words.state = words.next();
        words
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// Uniform below `end`, as nearly as 64 bits allow.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
