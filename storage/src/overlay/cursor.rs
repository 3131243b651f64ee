//! Walks over the overlay: a merged one for reads, and a resumable one for the merge.

use super::index::{Position, Span, group_of};
use super::{EntryRef, Overlay, Staged};

/// The entries of [`Overlay::range`]: two ordered spans walked side by side. Where both generations
/// have a key, the active one's entry is the later and wins.
pub struct Range<'a> {
    overlay: &'a Overlay,
    active: Span,
    frozen: Span,
    reverse: bool,
    active_head: Option<(u64, Staged)>,
    frozen_head: Option<(u64, Staged)>,
}

impl<'a> Range<'a> {
    pub(super) fn new(
        overlay: &'a Overlay,
        active: Span,
        frozen: Span,
        reverse: bool,
    ) -> Range<'a> {
        let mut range =
            Range { overlay, active, frozen, reverse, active_head: None, frozen_head: None };
        range.step_active();
        range.step_frozen();
        range
    }

    fn step_active(&mut self) -> Option<(u64, Staged)> {
        let next = self.overlay.active.index.take(&mut self.active, self.reverse);
        std::mem::replace(&mut self.active_head, next)
    }

    fn step_frozen(&mut self) -> Option<(u64, Staged)> {
        let next = self.overlay.frozen.index.take(&mut self.frozen, self.reverse);
        std::mem::replace(&mut self.frozen_head, next)
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = EntryRef<'a>;

    fn next(&mut self) -> Option<EntryRef<'a>> {
        let arena = &self.overlay.arena;
        let taken = match (self.active_head, self.frozen_head) {
            (Some((active_hint, active)), Some((frozen_hint, frozen))) => {
                let order = active_hint
                    .cmp(&frozen_hint)
                    .then_with(|| arena.compare(active, &arena.probe(frozen)));
                let order = if self.reverse { order.reverse() } else { order };
                if order.is_eq() {
                    self.step_frozen();
                }
                if order.is_gt() { self.step_frozen() } else { self.step_active() }
            }
            (Some(_), None) => self.step_active(),
            (None, _) => self.step_frozen(),
        };
        taken.map(|(_, first)| arena.entry(arena.link(first)))
    }
}

/// Entries that a merge brings near at a time: in key order they lie scattered in the arena.
const AHEAD: usize = 8;

/// A place among one group's frozen entries that outlives borrows of the overlay, for a merge that
/// runs in slices. It holds from its making until [`Overlay::drop_frozen`]; a group dropped
/// meanwhile only makes it look up its place again.
#[derive(Clone, Debug)]
pub struct FrozenCursor {
    group: u32,
    /// The generation it walks, and the state of the index for which `position` holds.
    freezes: u64,
    removals: u64,
    position: Position,
    /// The first entry of the key at `position`: its bytes stay in the arena even if it leaves the index.
    next: Option<Staged>,
}

impl FrozenCursor {
    pub(super) fn new(overlay: &Overlay, group: u32, position: Position) -> FrozenCursor {
        let mut cursor = FrozenCursor {
            group,
            freezes: overlay.freezes,
            removals: overlay.frozen.index.removals(),
            position,
            next: None,
        };
        cursor.settle(overlay, position);
        cursor
    }

    fn settle(&mut self, overlay: &Overlay, position: Position) {
        self.position = position;
        if let Some(ahead) = overlay.frozen.index.every(AHEAD, position) {
            overlay.arena.touch_latest(ahead);
        }
        let here = overlay.frozen.index.entry(position);
        self.next = here.filter(|(hint, _)| group_of(*hint) == self.group).map(|(_, first)| first);
    }

    pub(super) fn peek<'a>(&mut self, overlay: &'a Overlay) -> Option<EntryRef<'a>> {
        self.refresh(overlay);
        self.next.map(|first| overlay.arena.entry(overlay.arena.link(first)))
    }

    /// Finds its place again if entries have left the index.
    fn refresh(&mut self, overlay: &Overlay) {
        assert!(
            overlay.frozen_present && self.freezes == overlay.freezes,
            "a cursor ends with its generation"
        );
        let removals = overlay.frozen.index.removals();
        if self.removals != removals
            && let Some(next) = self.next
        {
            self.removals = removals;
            let probe = overlay.arena.probe(next);
            self.settle(overlay, overlay.frozen.index.seek(&overlay.arena, &probe, false));
        }
    }

    pub(super) fn advance(&mut self, overlay: &Overlay) {
        self.refresh(overlay);
        if self.next.is_some() {
            self.settle(overlay, overlay.frozen.index.after(self.position));
        }
    }
}
