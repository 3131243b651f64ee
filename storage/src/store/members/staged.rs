//! Names for the staged bytes of entries: what [`Handle`]s stand for.
//!
//! A handle is a place in a table and the place's generation, so that one that was given back is
//! never taken for its successor. The table grows to the window of the flow control and then never
//! allocates again.

use forebay_core::paxos::Handle;

use super::super::GroupOrdinal;
use crate::overlay::{KeyHash, Staged};
use crate::space::Runs;

/// An entry's bytes in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedEntry {
    pub(super) group: GroupOrdinal,
    pub(super) staged: Staged,
    pub(super) hash: KeyHash,
    /// Set aside for its merge.
    pub(super) runs: Runs,
    /// Key and item.
    pub(super) bytes: u32,
    /// Of its record, while it is not in the log; then 0.
    pub(super) unlogged_bytes: u32,
    /// Records of it that wait for room in the log.
    pub(super) queued: u32,
    /// Proposed here: conditions see it.
    pub(super) in_flight: bool,
    /// Let go of, and kept only because it is queued.
    pub(super) discarded: bool,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    entry: Option<StagedEntry>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(crate) struct StagedEntries {
    places: Vec<Place>,
    free: Vec<u32>,
    unlogged_bytes: u64,
}

const GONE: &str = "a handle is used while its entry is held";

impl StagedEntries {
    pub(super) fn insert(&mut self, entry: StagedEntry) -> Handle {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        self.unlogged_bytes += u64::from(entry.unlogged_bytes);
        place.entry = Some(entry);
        // Never `Handle::NONE`.
        Handle(u64::from(place.generation) << 32 | u64::from(index + 1))
    }

    fn place(&self, handle: Handle) -> Option<usize> {
        let index = (handle.0 as u32).checked_sub(1)? as usize;
        let place = self.places.get(index)?;
        (u64::from(place.generation) == handle.0 >> 32 && place.entry.is_some()).then_some(index)
    }

    /// The entry, if it is still held.
    pub(super) fn find(&self, handle: Handle) -> Option<&StagedEntry> {
        let index = self.place(handle)?;
        self.places[index].entry.as_ref()
    }

    pub(super) fn get(&self, handle: Handle) -> &StagedEntry {
        self.find(handle).expect(GONE)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> &mut StagedEntry {
        let index = self.place(handle).expect(GONE);
        self.places[index].entry.as_mut().expect(GONE)
    }

    /// A record of it is in the log.
    pub(super) fn logged(&mut self, handle: Handle) {
        let bytes = std::mem::take(&mut self.get_mut(handle).unlogged_bytes);
        self.unlogged_bytes -= u64::from(bytes);
    }

    pub(super) fn remove(&mut self, handle: Handle) -> StagedEntry {
        let index = self.place(handle).expect(GONE);
        let entry = self.places[index].entry.take().expect(GONE);
        self.free.push(index as u32);
        self.unlogged_bytes -= u64::from(entry.unlogged_bytes);
        entry
    }

    /// Handles of a group's entries.
    pub(super) fn of_group(&self, group: GroupOrdinal) -> Vec<Handle> {
        let places = self.places.iter().enumerate();
        let handles = places.filter(|(_, place)| place.entry.is_some_and(|e| e.group == group));
        let name = |(index, place): (usize, &Place)| {
            Handle(u64::from(place.generation) << 32 | (index as u64 + 1))
        };
        handles.map(name).collect()
    }

    /// What is set aside for all of them.
    pub(in crate::store) fn runs(&self) -> impl Iterator<Item = Runs> + '_ {
        let entries = self.places.iter().filter_map(|place| place.entry.as_ref());
        entries.map(|entry| entry.runs).filter(|runs| !runs.is_none())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut StagedEntry> {
        self.places.iter_mut().filter_map(|place| place.entry.as_mut())
    }

    /// Entries in memory.
    pub(in crate::store) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Bytes of records still to come.
    pub(super) fn unlogged_bytes(&self) -> u64 {
        self.unlogged_bytes
    }
}
