//! Records over a wire that tears them anywhere.

use std::sync::Arc;

use proptest::prelude::*;

use super::authority::Authority;
use crate::machine::SendBuf;
use crate::tls::records::{RecordError, Records};
use crate::tls::{Refusal, Role};

/// Both ends of a connection, and what each has been delivered.
struct Pair {
    ends: [Records; 2],
    delivered: [Vec<u8>; 2],
    /// On its way to each.
    wire: [SendBuf; 2],
    scratch: Vec<u8>,
}

impl Pair {
    fn new(authority: &Authority) -> Pair {
        let node = authority.node("a");
        let config = Arc::clone(&node.loaded().clients);
        let ends = [authority.client().records(), Records::serving(config)];
        let mut pair = Pair {
            ends,
            delivered: Default::default(),
            wire: Default::default(),
            scratch: Vec::new(),
        };
        // It speaks first.
        pair.receive(0, &[]).unwrap();
        pair
    }

    fn receive(&mut self, to: usize, bytes: &[u8]) -> Result<(), RecordError> {
        let Pair { ends, delivered, wire, scratch } = self;
        let deliver = |plain: &[u8]| delivered[to].extend_from_slice(plain);
        let received = ends[to].receive(bytes, scratch, deliver);
        ends[to].take_control(&mut wire[1 - to]);
        received
    }

    /// Carries what is under way, in pieces of these sizes over and over, until nothing is.
    fn carry(&mut self, pieces: &[usize]) -> Result<(), RecordError> {
        let mut sizes = pieces.iter().cycle();
        while let Some(to) = (0..2).find(|to| !self.wire[*to].is_empty()) {
            let bytes = std::mem::take(&mut self.wire[to]);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                self.receive(to, piece)?;
                rest = after;
            }
        }
        Ok(())
    }

    fn shaken(authority: &Authority) -> Pair {
        let mut pair = Pair::new(authority);
        pair.carry(&[100_000]).unwrap();
        assert!(pair.ends.iter().all(Records::is_ready));
        pair
    }

    fn send(&mut self, from: usize, plain: &[u8]) {
        self.ends[from].seal(plain, &mut self.wire[1 - from]).unwrap();
    }
}

fn message(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_tears_the_records_both_sides_are_delivered_what_was_sent(
        pieces in prop::collection::vec(1..4000usize, 1..8),
        lengths in prop::collection::vec((0..2usize, 0..40_000usize, any::<bool>()), 1..8),
    ) {
        let authority = Authority::new();
        let mut pair = Pair::new(&authority);
        pair.carry(&pieces).unwrap();
        prop_assert!(pair.ends.iter().all(Records::is_ready));
        let mut sent: [Vec<u8>; 2] = Default::default();
        for (index, (from, bytes, new_keys)) in lengths.into_iter().enumerate() {
            if new_keys {
                pair.ends[from].change_keys();
            }
            let plain = message(bytes, index as u8);
            pair.send(from, &plain);
            sent[1 - from].extend_from_slice(&plain);
            // Sometimes several are under way at once.
            if index % 2 == 0 {
                pair.carry(&pieces).unwrap();
            }
        }
        pair.carry(&pieces).unwrap();
        prop_assert!(pair.delivered == sent);
    }

    #[test]
    fn changed_bytes_end_the_connection_and_deliver_nothing_false(
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
        piece in 1..2000usize,
    ) {
        let authority = Authority::new();
        let mut pair = Pair::shaken(&authority);
        let plain = message(3000, 1);
        pair.send(0, &plain);
        let mut sealed = std::mem::take(&mut pair.wire[1]);
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        pair.wire[1] = sealed;
        match pair.carry(&[piece]) {
            Err(error) => prop_assert_eq!(error.refusal(), Refusal::BadRecord),
            // A length that grew: the rest of the record never comes.
            Ok(()) => prop_assert!((3..5).contains(&at)),
        }
        prop_assert!(pair.delivered[1].is_empty());
        if pair.ends[1].is_over() {
            // Nothing that follows is heard, and the other side is told.
            let told = std::mem::take(&mut pair.wire[0]);
            prop_assert!(!told.is_empty());
            let error = pair.receive(0, &told).unwrap_err();
            prop_assert_eq!(error.refusal(), Refusal::RefusedByPeer);
        }
    }
}

#[test]
fn both_sides_know_each_other_by_name() {
    let pair = Pair::shaken(&Authority::new());
    assert_eq!(pair.ends[0].peer_name(&[Role::Node]), Some((Role::Node, "a".to_owned())));
    assert_eq!(pair.ends[1].peer_name(Role::DIALERS), Some((Role::Client, "test".to_owned())));
    assert_eq!(pair.ends[1].peer_name(&[Role::Node]), None);
}

#[test]
fn a_close_is_heard_and_what_went_before_it_is_delivered() {
    let mut pair = Pair::shaken(&Authority::new());
    pair.send(0, b"last words");
    pair.ends[0].close(&mut pair.wire[1]);
    pair.carry(&[7]).unwrap();
    assert_eq!(pair.delivered[1], b"last words");
    assert!(pair.ends[1].is_over());
    assert!(pair.ends[1].receive(b"after the end", &mut Vec::new(), |_| panic!()).is_ok());
}

#[test]
fn plain_text_is_told_from_tls_by_its_first_byte() {
    let authority = Authority::new();
    let node = authority.node("a");
    let mut serving = Records::serving(Arc::clone(&node.loaded().clients));
    let mut frame = SendBuf::new();
    let request = forebay_core::message::DescribeNodeRequest { protocol_version: 1 };
    crate::frame::append(&mut frame, 1, &request);
    let error = serving.receive(&frame, &mut Vec::new(), |_| panic!()).unwrap_err();
    assert_eq!(error.refusal(), Refusal::NotTls);
    let mut dialing = authority.client().records();
    dialing.receive(&[], &mut Vec::new(), |_| panic!()).unwrap();
    let error = dialing.receive(&frame, &mut Vec::new(), |_| panic!()).unwrap_err();
    assert_eq!(error.refusal(), Refusal::NotTls);
}

#[test]
fn garbage_that_looks_like_records_is_refused_and_never_kept_without_end() {
    let authority = Authority::new();
    let node = authority.node("a");
    for length in [0u16, 1, 1000, 16_384, 20_000, 65_535] {
        let mut serving = Records::serving(Arc::clone(&node.loaded().clients));
        let mut bytes = vec![22, 3, 1];
        bytes.extend_from_slice(&length.to_be_bytes());
        // A handshake message of 16 MiB begins, and never ends.
        bytes.extend_from_slice(&[1, 255, 255, 255]);
        bytes.resize(5 + usize::from(length), 7);
        let ended =
            (0..100).any(|_| serving.receive(&bytes, &mut Vec::new(), |_| panic!()).is_err());
        assert!(ended, "records of {length}");
    }
}
