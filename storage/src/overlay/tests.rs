//! The overlay against a model.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use forebay_core::ids::Slot;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type Key = (u32, Vec<u8>);
type Value = (Option<Vec<u8>>, Slot);
type Map = BTreeMap<Key, Value>;

const GROUPS: u32 = 3;
const SMALL: OverlayConfig = OverlayConfig { generation_bytes_max: 256 << 10, chunk_bytes: 4096 };

fn key(hash: u64, partition_key: &[u8], sort_key: &[u8]) -> Vec<u8> {
    let mut key = hash.to_be_bytes().to_vec();
    key.extend_from_slice(&(partition_key.len() as u16).to_be_bytes());
    key.extend_from_slice(partition_key);
    key.extend_from_slice(sort_key);
    key
}

fn owned(entry: EntryRef<'_>) -> (Key, Value) {
    ((entry.group, entry.key.to_vec()), (entry.item.map(<[u8]>::to_vec), entry.slot))
}

fn put(overlay: &mut Overlay, group: u32, slot: u64, key: &[u8], item: &[u8]) -> Staged {
    overlay.stage(group, Slot(slot), key, Some(item)).expect("there is room")
}

fn hash(overlay: &Overlay, staged: Staged) -> KeyHash {
    let EntryRef { group, key, .. } = overlay.staged(staged);
    KeyHash::of(group, key)
}

fn apply(overlay: &mut Overlay, staged: Staged) {
    overlay.apply(staged, hash(overlay, staged));
}

fn get<'o>(overlay: &'o Overlay, group: u32, key: &[u8]) -> Option<EntryRef<'o>> {
    let hash = KeyHash::of(group, key);
    overlay.touch(&[hash]);
    overlay.get(group, key, hash)
}

fn begin(in_flight: &mut InFlight, overlay: &Overlay, staged: Staged) {
    in_flight.insert(overlay, staged, hash(overlay, staged));
}

fn end(in_flight: &mut InFlight, overlay: &Overlay, staged: Staged) {
    in_flight.remove(overlay, staged, hash(overlay, staged));
}

fn latest(in_flight: &InFlight, overlay: &Overlay, group: u32, key: &[u8]) -> Option<Staged> {
    in_flight.latest(overlay, group, key, KeyHash::of(group, key))
}

/// Few hashes and many sort keys, so that hints collide; some hashes that differ only below the
/// hint; some keys of the largest size; some too short to be real.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0..4u64, 0..60u8).prop_map(|(hash, sort)| key(hash << 40, b"pk", &[sort])),
        4 => (0..8u64, 0..20u64).prop_map(|(high, low)| key(high << 32 | low, b"partition", b"")),
        1 => (0..6u8).prop_map(|sort| key(7, &[9; 2048], &[sort; 1024])),
        1 => vec(0..3u8, 0..4),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Stage(u32, Vec<u8>, Option<(u8, usize)>),
    ApplyOldest(usize),
    Abandon(usize),
    Freeze,
    MergeSteps(usize),
    DropFrozen,
    DropGroup(u32),
    Range(u32, Bound<Vec<u8>>, Bound<Vec<u8>>),
}

fn bounds() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        keys().prop_map(Bound::Included),
        keys().prop_map(Bound::Excluded)
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let item = prop_oneof![
        3 => Just(None),
        20 => (any::<u8>(), 0..200usize).prop_map(Some),
        1 => (any::<u8>(), 900..9000usize).prop_map(Some),
    ];
    prop_oneof![
        40 => (0..GROUPS, keys(), item).prop_map(|(group, key, item)| Op::Stage(group, key, item)),
        12 => (1..12usize).prop_map(Op::ApplyOldest),
        2 => any::<usize>().prop_map(Op::Abandon),
        1 => Just(Op::Freeze),
        3 => (1..30usize).prop_map(Op::MergeSteps),
        1 => Just(Op::DropFrozen),
        1 => (0..GROUPS).prop_map(Op::DropGroup),
        4 => (0..GROUPS, bounds(), bounds()).prop_map(|(group, from, to)| Op::Range(group, from, to)),
    ]
}

/// The overlay beside maps that do the same, and a merge under way.
struct Pair {
    overlay: Overlay,
    in_flight: InFlight,
    staged: VecDeque<(Staged, Key, Value)>,
    active: Map,
    frozen: Option<Map>,
    cursor: Option<(FrozenCursor, Key)>,
    next_slot: u64,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            overlay: Overlay::new(SMALL),
            in_flight: InFlight::with_capacity(16),
            staged: VecDeque::new(),
            active: Map::new(),
            frozen: None,
            cursor: None,
            next_slot: 1,
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Stage(group, key, item) => self.stage(*group, key, *item),
            Op::ApplyOldest(count) => {
                for _ in 0..*count {
                    let Some((staged, key, value)) = self.staged.pop_front() else { break };
                    end(&mut self.in_flight, &self.overlay, staged);
                    apply(&mut self.overlay, staged);
                    assert_eq!(owned(self.overlay.staged(staged)), (key.clone(), value.clone()));
                    self.active.insert(key, value);
                }
            }
            Op::Abandon(which) => {
                if !self.staged.is_empty() {
                    let (staged, ..) = self.staged.remove(which % self.staged.len()).unwrap();
                    end(&mut self.in_flight, &self.overlay, staged);
                    self.overlay.abandon(staged);
                }
            }
            Op::Freeze => {
                let frozen = self.overlay.freeze();
                assert_eq!(frozen.is_some(), self.frozen.is_none());
                if let Some(frozen) = frozen {
                    assert_eq!(frozen.entries, self.active.len());
                    self.frozen = Some(std::mem::take(&mut self.active));
                    let cursor = self.overlay.frozen_cursor(0, Bound::Unbounded);
                    self.cursor = Some((cursor, (0, Vec::new())));
                }
            }
            Op::MergeSteps(steps) => self.merge(*steps),
            Op::DropFrozen => {
                if self.frozen.is_some() {
                    self.merge(usize::MAX);
                    self.overlay.drop_frozen();
                    self.frozen = None;
                    self.cursor = None;
                    assert_eq!(self.overlay.frozen_bytes(), 0);
                }
            }
            Op::DropGroup(group) => {
                self.overlay.drop_group(*group);
                self.active.retain(|(g, _), _| g != group);
                if let Some(frozen) = &mut self.frozen {
                    frozen.retain(|(g, _), _| g != group);
                }
            }
            Op::Range(group, from, to) => self.check_range(*group, from, to),
        }
        self.check_bounds();
    }

    fn stage(&mut self, group: u32, key: &[u8], item: Option<(u8, usize)>) {
        let item = item.map(|(byte, len)| vec![byte; len]);
        let slot = Slot(self.next_slot);
        match self.overlay.stage(group, slot, key, item.as_deref()) {
            Ok(staged) => {
                self.next_slot += 1;
                begin(&mut self.in_flight, &self.overlay, staged);
                self.staged.push_back((staged, (group, key.to_vec()), (item, slot)));
            }
            Err(full) => {
                assert!(full.active_bytes + full.needed_bytes > SMALL.generation_bytes_max);
                assert_eq!(full.active_bytes, self.overlay.active_bytes());
            }
        }
    }

    /// Walks on with the cursor and compares with the model from the last key on.
    fn merge(&mut self, steps: usize) {
        let (Some(frozen), Some((cursor, from))) = (&self.frozen, &mut self.cursor) else { return };
        let mut expected: Vec<_> = frozen.range(from.clone()..).collect();
        expected.truncate(steps);
        let mut expected = expected.into_iter();
        loop {
            if let Some(peeked) = self.overlay.frozen_peek(cursor).map(owned) {
                let Some((key, value)) = expected.next() else { break };
                assert_eq!((key, value), (&peeked.0, &peeked.1));
                self.overlay.frozen_advance(cursor);
                let mut after = peeked.0;
                after.1.push(0);
                *from = after;
                continue;
            }
            let group = from.0 + 1;
            let Some(next) = self.overlay.frozen_group_from(group) else { break };
            *cursor = self.overlay.frozen_cursor(next, Bound::Unbounded);
            *from = (next, Vec::new());
        }
        assert_eq!(expected.next(), None);
    }

    fn merged(&self) -> Map {
        let mut merged = self.frozen.clone().unwrap_or_default();
        merged.extend(self.active.clone());
        merged
    }

    fn check_range(&self, group: u32, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) {
        let inside = |key: &Vec<u8>| {
            (match from {
                Bound::Unbounded => true,
                Bound::Included(from) => key >= from,
                Bound::Excluded(from) => key > from,
            }) && match to {
                Bound::Unbounded => true,
                Bound::Included(to) => key <= to,
                Bound::Excluded(to) => key < to,
            }
        };
        let mut expected: Vec<_> =
            self.merged().into_iter().filter(|((g, key), _)| *g == group && inside(key)).collect();
        let range = |reverse| {
            let as_slice = |bound| Bound::map(bound, Vec::as_slice);
            let range =
                self.overlay.range(group, as_slice(from.as_ref()), as_slice(to.as_ref()), reverse);
            range.map(owned).collect::<Vec<_>>()
        };
        assert_eq!(range(false), expected);
        expected.reverse();
        assert_eq!(range(true), expected);
    }

    fn check_bounds(&self) {
        let overlay = &self.overlay;
        assert!(overlay.active_bytes() <= SMALL.generation_bytes_max);
        assert!(overlay.frozen_bytes() <= SMALL.generation_bytes_max);
        assert!(overlay.arena.bytes_allocated() <= 2 * SMALL.generation_bytes_max);
        for generation in [&overlay.active, &overlay.frozen] {
            let nodes = generation.index.bytes();
            // The root leaf is there from the start, and the root may be nearly empty.
            let constant = index::LEAF_BYTES + 2 * index::INNER_BYTES;
            assert!(nodes <= generation.entries_charged * ORDER_BYTES_PER_ENTRY + constant);
            assert_eq!(generation.points.len(), generation.index.len());
        }
    }

    fn check_all(&self) {
        self.overlay.active.index.check(&self.overlay.arena);
        self.overlay.frozen.index.check(&self.overlay.arena);
        assert_eq!(self.overlay.active_entries(), self.active.len());
        for (key, value) in self.merged() {
            let found = get(&self.overlay, key.0, &key.1).map(owned);
            assert_eq!(found, Some((key, value)));
        }
        for group in 0..GROUPS {
            self.check_range(group, &Bound::Unbounded, &Bound::Unbounded);
        }
        let mut groups: Vec<u32> =
            self.frozen.iter().flatten().map(|((group, _), _)| *group).collect();
        groups.dedup();
        assert_eq!(self.overlay.frozen_groups().collect::<Vec<_>>(), groups);
        let mut newest = BTreeMap::new();
        for (staged, key, value) in &self.staged {
            assert_eq!(owned(self.overlay.staged(*staged)), (key.clone(), value.clone()));
            newest.insert(key.clone(), *staged);
        }
        assert_eq!(self.in_flight.len(), self.staged.len());
        for (key, staged) in newest {
            assert_eq!(latest(&self.in_flight, &self.overlay, key.0, &key.1), Some(staged));
        }
        for key in self.active.keys() {
            if !self.staged.iter().any(|(_, staged, _)| staged == key) {
                assert_eq!(latest(&self.in_flight, &self.overlay, key.0, &key.1), None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_does_what_two_maps_do(ops in vec(ops(), 1..4000)) {
        let mut pair = Pair::new();
        for (i, op) in ops.iter().enumerate() {
            pair.run(op);
            if i % 250 == 249 {
                pair.check_all();
            }
        }
        pair.check_all();
    }
}

#[test]
fn thousands_of_sort_keys_under_one_hash_stay_ordered() {
    let mut overlay = Overlay::new(OverlayConfig::new(8 << 20));
    let count = 20_000u64;
    for i in 0..count {
        let sort = (i * 7919 % count) as u32;
        let staged =
            put(&mut overlay, 1, i + 1, &key(99, b"one", &sort.to_be_bytes()), &sort.to_le_bytes());
        apply(&mut overlay, staged);
    }
    overlay.active.index.check(&overlay.arena);
    let sorts: Vec<u32> = overlay
        .range(1, Bound::Unbounded, Bound::Unbounded, false)
        .map(|entry| u32::from_le_bytes(entry.item.unwrap().try_into().unwrap()))
        .collect();
    assert_eq!(sorts, (0..count as u32).collect::<Vec<_>>());
    assert!(get(&overlay, 1, &key(99, b"one", &(count as u32).to_be_bytes())).is_none());
    assert!(get(&overlay, 2, &key(99, b"one", &[0; 4])).is_none());
}

#[test]
fn the_first_and_the_last_group_are_groups_like_others() {
    let mut overlay = Overlay::new(SMALL);
    for (slot, group) in [0, u32::MAX].into_iter().enumerate() {
        let staged = put(&mut overlay, group, slot as u64 + 1, &key(u64::MAX, b"k", b""), b"v");
        apply(&mut overlay, staged);
    }
    overlay.freeze().unwrap();
    assert_eq!(overlay.frozen_groups().collect::<Vec<_>>(), [0, u32::MAX]);
    for group in [0, u32::MAX] {
        for reverse in [false, true] {
            let range = overlay.range(group, Bound::Unbounded, Bound::Unbounded, reverse);
            assert_eq!(range.map(|entry| entry.group).collect::<Vec<_>>(), [group]);
        }
    }
}

#[test]
fn an_entry_in_flight_across_two_merges_keeps_its_bytes() {
    let mut overlay = Overlay::new(SMALL);
    let k = key(5, b"late", b"");
    let late = put(&mut overlay, 1, 2, &k, b"late value");
    for round in 0..3u64 {
        for i in 0..300 {
            let staged =
                put(&mut overlay, 2, round * 300 + i + 1, &key(i, b"other", b""), &[3; 200]);
            apply(&mut overlay, staged);
        }
        overlay.freeze().unwrap();
        assert_eq!(overlay.staged(late).item, Some(&b"late value"[..]));
        assert!(get(&overlay, 1, &k).is_none());
        overlay.drop_frozen();
    }
    apply(&mut overlay, late);
    assert_eq!(get(&overlay, 1, &k).unwrap().item, Some(&b"late value"[..]));
}

#[test]
fn overwrites_of_one_key_fill_a_generation_and_a_merge_empties_it() {
    let mut overlay = Overlay::new(SMALL);
    let k = key(5, b"hot", b"");
    let mut slot = 0;
    for _ in 0..4 {
        loop {
            slot += 1;
            match overlay.stage(1, Slot(slot), &k, Some(&[1; 300])) {
                Ok(staged) => apply(&mut overlay, staged),
                Err(full) => {
                    assert!(full.active_bytes <= SMALL.generation_bytes_max);
                    break;
                }
            }
        }
        assert!(overlay.fill().active > 0.95);
        assert_eq!(overlay.active_entries(), 1);
        overlay.freeze().unwrap();
        assert_eq!(overlay.freeze(), None);
        overlay.drop_frozen();
        assert_eq!(overlay.bytes(), 0);
    }
    assert!(overlay.arena.bytes_allocated() <= SMALL.generation_bytes_max);
}

#[test]
fn chunks_of_one_size_make_room_for_another() {
    let mut overlay = Overlay::new(SMALL);
    let mut slot = 0;
    for item_bytes in [100, 60_000, 3000, 2000, 120_000, 10] {
        for _ in 0..2 {
            for i in 0.. {
                slot += 1;
                let item = vec![7; item_bytes];
                let Ok(staged) = overlay.stage(1, Slot(slot), &key(i, b"k", b""), Some(&item))
                else {
                    break;
                };
                apply(&mut overlay, staged);
            }
            if overlay.is_frozen() {
                overlay.drop_frozen();
            }
            overlay.freeze().unwrap();
            assert!(overlay.arena.bytes_allocated() <= 2 * SMALL.generation_bytes_max);
        }
    }
}

#[test]
#[should_panic(expected = "slot order")]
fn applying_an_older_entry_over_a_newer_one_is_a_bug() {
    let mut overlay = Overlay::new(SMALL);
    let k = key(5, b"k", b"");
    let first = put(&mut overlay, 1, 1, &k, b"1");
    let second = put(&mut overlay, 1, 2, &k, b"2");
    apply(&mut overlay, second);
    apply(&mut overlay, first);
}

#[test]
#[should_panic(expected = "ends with its generation")]
fn a_cursor_of_a_dropped_generation_is_refused() {
    let mut overlay = Overlay::new(SMALL);
    let staged = put(&mut overlay, 1, 1, &key(5, b"k", b""), b"1");
    apply(&mut overlay, staged);
    overlay.freeze().unwrap();
    let mut cursor = overlay.frozen_cursor(1, Bound::Unbounded);
    overlay.drop_frozen();
    overlay.freeze().unwrap();
    overlay.frozen_advance(&mut cursor);
}

#[test]
fn a_thousand_writes_in_flight_on_one_key_leave_in_any_order() {
    let mut overlay = Overlay::new(SMALL);
    let mut in_flight = InFlight::with_capacity(1000);
    let k = key(5, b"hot", b"");
    let mut writes: Vec<Staged> =
        (1..=1000).map(|slot| put(&mut overlay, 1, slot, &k, b"v")).collect();
    for &staged in &writes {
        begin(&mut in_flight, &overlay, staged);
        assert_eq!(latest(&in_flight, &overlay, 1, &k), Some(staged));
    }
    let newest = writes[999];
    for staged in writes.drain(..500) {
        end(&mut in_flight, &overlay, staged);
        assert_eq!(latest(&in_flight, &overlay, 1, &k), Some(newest));
    }
    while let Some(staged) = writes.pop() {
        end(&mut in_flight, &overlay, staged);
        assert_eq!(latest(&in_flight, &overlay, 1, &k), writes.last().copied());
        if writes.len() > 2 {
            end(&mut in_flight, &overlay, writes.remove(writes.len() / 2));
        }
    }
    assert!(in_flight.is_empty());
}

#[test]
fn abandoned_entries_alone_never_keep_a_generation_full() {
    let mut overlay = Overlay::new(SMALL);
    let kept = put(&mut overlay, 1, 1, &key(1, b"kept", b""), b"in flight");
    let (other, item) = (key(2, b"again", b""), [7; 500]);
    let mut reclaimed = 0;
    for slot in 2..3_000 {
        let mut staged = overlay.stage(1, Slot(slot), &other, Some(&item));
        if staged.is_err() {
            assert!(overlay.reclaim());
            reclaimed += 1;
            staged = overlay.stage(1, Slot(slot), &other, Some(&item));
        }
        overlay.abandon(staged.expect("what was abandoned makes room"));
        assert!(overlay.active_bytes() <= SMALL.generation_bytes_max);
    }
    assert!(reclaimed > 1);
    assert_eq!(overlay.staged(kept).item, Some(&b"in flight"[..]));
    // Where something is applied, its merge gives all of it back.
    apply(&mut overlay, kept);
    assert!(!overlay.reclaim());
}
