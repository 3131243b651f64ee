//! The configurations that a member knows: the one in force, and what its log says may follow.
//!
//! ```text
//!     slot 0        slot 40         slot 97
//!     {A B C} ────► {A B} ────────► {A B D}        slots 41..=97 are chosen by majorities of {A B};
//!                   newest chosen   accepted       slot 97 by majorities of {A B} and of {A B D}
//! ```
//!
//! A change entry is chosen by majorities of the configurations before and after it, and nothing is
//! proposed behind it until then.

use super::membership::Configuration;
use super::message::ConfigurationAt;
use crate::ids::Slot;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Configurations {
    /// In order of slots. Empty for a member that joins and has not heard from the leader yet.
    known: Vec<ConfigurationAt>,
    /// How many of them are known to be chosen.
    chosen: usize,
}

impl Configurations {
    pub(crate) fn recovered(known: Vec<ConfigurationAt>, chosen: Slot) -> Configurations {
        assert!(known.is_sorted_by(|a, b| a.slot < b.slot));
        let mut configurations = Configurations { known, chosen: 0 };
        configurations.choose(chosen);
        assert!(configurations.known.is_empty() || configurations.chosen > 0);
        configurations
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The newest that is known to be chosen.
    pub(crate) fn in_force(&self) -> Option<&ConfigurationAt> {
        self.known.get(self.chosen.checked_sub(1)?)
    }

    /// The newest accepted.
    pub(crate) fn newest(&self) -> Option<&ConfigurationAt> {
        self.known.last()
    }

    /// Accepted, but not known to be chosen.
    pub(crate) fn pending(&self) -> &[ConfigurationAt] {
        &self.known[self.chosen..]
    }

    /// The one in force, and those that may follow it.
    pub(crate) fn relevant(&self) -> &[ConfigurationAt] {
        &self.known[self.chosen.saturating_sub(1)..]
    }

    /// The one that governs the slots after `slot`.
    pub(crate) fn after(&self, slot: Slot) -> Option<&ConfigurationAt> {
        self.known.iter().rev().find(|at| at.slot <= slot)
    }

    /// `slot` holds this configuration now, or none.
    pub(crate) fn accept(&mut self, slot: Slot, configuration: Option<&Configuration>) {
        if configuration.is_none() && self.pending().is_empty() {
            return;
        }
        assert!(self.in_force().is_none_or(|at| at.slot < slot), "a chosen slot never changes");
        self.known.retain(|at| at.slot != slot);
        if let Some(&configuration) = configuration {
            let place = self.known.partition_point(|at| at.slot < slot);
            self.known.insert(place, ConfigurationAt { slot, configuration });
        }
    }

    /// Nothing after `slot` will ever be chosen as it was accepted.
    pub(crate) fn truncate(&mut self, slot: Slot) {
        assert!(self.in_force().is_none_or(|at| at.slot <= slot), "a chosen slot never changes");
        self.known.retain(|at| at.slot <= slot);
    }

    /// Everything up to `slot` is chosen.
    pub(crate) fn choose(&mut self, slot: Slot) {
        while self.known.get(self.chosen).is_some_and(|at| at.slot <= slot) {
            self.chosen += 1;
        }
    }

    /// The log begins after `slot`, where `at` is in force.
    pub(crate) fn begin_after(&mut self, slot: Slot, at: ConfigurationAt) {
        assert!(at.slot <= slot);
        self.known.retain(|known| known.slot > at.slot);
        self.known.insert(0, at);
        self.chosen = 0;
        self.choose(slot);
    }

    /// The log begins after `slot`: configurations that ended before are of no use.
    pub(crate) fn forget_before(&mut self, slot: Slot) {
        while self.chosen > 1 && self.known[1].slot <= slot {
            self.known.remove(0);
            self.chosen -= 1;
        }
    }
}
