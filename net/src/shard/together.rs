//! Gets that arrive together are read together.
//!
//! ```text
//!   frame ─► key ─► queue ──16, or end of the events──► store.get_together ─► replies
//!                                                           │ page absent
//!                                                           └─► parked, one by one
//! ```
//!
//! A read of an item that is in no processor cache waits for a handful of memory lines, each longer
//! than all the rest of the request takes. Side by side those waits cost little more than one. So
//! a Get is only located when its frame is handled, and read with the next few, before the turn's
//! other work. Its answer is the state of that moment, which lies between request and reply; gets and
//! writes of one connection were never ordered among each other.

use forebay_core::message::{ArchivedGetRequest, GetReply};
use forebay_storage::store::{GroupOrdinal, Read, TOGETHER_MAX};
use forebay_storage::tree::PageRef;

use super::read::{Consistency, damaged};
use super::refusal::Refusal;
use super::request::{Outcome, Payload, message};
use super::{Asker, Shard};
use crate::machine::SendBuf;

/// A Get whose item is to be read.
#[derive(Debug)]
struct Located {
    asker: Asker,
    group: GroupOrdinal,
    /// End of its key in [`Together::keys`]; it begins where the one before ends.
    key_end: usize,
    /// In case it has to be parked.
    payload: SendBuf,
}

/// The queue; see the module's docs.
#[derive(Debug, Default)]
pub(super) struct Together {
    gets: Vec<Located>,
    keys: Vec<u8>,
}

/// What became of a Get.
#[derive(Clone, Copy)]
enum End {
    Answered,
    Wait(PageRef),
    Damaged,
    /// Earlier replies, large ones, have filled the connection's outbox.
    Deferred,
}

impl Shard {
    /// Queues a Get that has just arrived.
    pub(super) fn get_soon(&mut self, asker: Asker, payload: &[u8]) -> Result<Outcome, Refusal> {
        let request = message::<ArchivedGetRequest<'_>>(payload)?;
        // On a shard that stands alone every read is answered in the same way.
        let consistent = request.consistent || !self.is_clustered();
        if request.projection.is_some() || !consistent {
            return self.get(asker, request, Consistency::asked(consistent));
        }
        let group =
            self.locate_key(request.table.to_native(), request.epoch.to_native(), &request.key)?;
        self.readable(group)?;
        self.together.keys.extend_from_slice(self.key.as_bytes());
        let key_end = self.together.keys.len();
        let payload = self.parking.copy(payload);
        self.together.gets.push(Located { asker, group, key_end, payload });
        if self.together.gets.len() == TOGETHER_MAX {
            self.read_together();
        }
        Ok(Outcome::Done)
    }

    /// Answers, or parks, the Gets in the queue.
    pub(super) fn read_together(&mut self) {
        if self.together.gets.is_empty() {
            return;
        }
        let mut together = std::mem::take(&mut self.together);
        let mut wanted = [(GroupOrdinal::default(), &[][..]); TOGETHER_MAX];
        let mut reads = [Read::Absent; TOGETHER_MAX];
        let mut key_start = 0;
        for (wanted, get) in wanted.iter_mut().zip(&together.gets) {
            *wanted = (get.group, &together.keys[key_start..get.key_end]);
            key_start = get.key_end;
        }
        let reads = &mut reads[..together.gets.len()];
        self.store.get_together(&wanted[..reads.len()], reads);
        let mut ends = [End::Answered; TOGETHER_MAX];
        for ((get, read), end) in together.gets.iter().zip(reads).zip(&mut ends) {
            let Asker { conn, correlation, .. } = get.asker;
            let item = match *read {
                _ if !self.connections.wants_requests(conn) => {
                    *end = End::Deferred;
                    continue;
                }
                Read::Item(item) => Some(item),
                Read::Absent => None,
                Read::Wait(page) => {
                    *end = End::Wait(page);
                    continue;
                }
                Read::Damaged => {
                    *end = End::Damaged;
                    continue;
                }
            };
            self.connections.reply(conn, correlation, &GetReply { item });
            self.answered(get.asker);
        }
        for (Located { asker, payload, .. }, end) in together.gets.drain(..).zip(ends) {
            match end {
                End::Answered => self.parking.reuse(payload),
                End::Wait(page) => self.park(asker, Payload::Copied(payload), page, None),
                End::Deferred => self.connections.defer(asker, payload),
                End::Damaged => {
                    self.refuse(asker, &damaged());
                    self.parking.reuse(payload);
                }
            }
        }
        together.keys.clear();
        self.together = together;
    }
}
