//! A closed loop of disk operations on one ring.
//!
//! user_data is the slot number times two, plus one for the fdatasync of a linked pair. *Invariant*:
//! a slot's buffer belongs to the kernel from submission to completion, and [`measure`] returns
//! only when nothing is in flight, also after an error.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use forebay_storage::block::{BLOCK_BYTES, BlockBuf};
use hdrhistogram::Histogram;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use super::point::{Kind, Measured, Spec};

struct Slot {
    buf: BlockBuf,
    started: Instant,
}

struct Loop {
    ring: IoUring,
    spec: Spec,
    slots: Vec<Slot>,
    blocks: u64,
    next_block: u64,
    random: u64,
}

/// Runs `spec` for `duration` on the first `file_bytes` of `file`, which is open with O_DIRECT.
pub(super) fn measure(
    file: &File,
    file_bytes: u64,
    spec: &Spec,
    duration: Duration,
) -> io::Result<Measured> {
    assert!(spec.block_bytes.is_multiple_of(BLOCK_BYTES) && spec.depth > 0);
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build((2 * spec.depth).next_power_of_two())?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let slot = |index: u32| {
        let mut buf = BlockBuf::zeroed(spec.block_bytes / BLOCK_BYTES);
        // Not zeros: some devices and hypervisors treat those as holes.
        for (place, byte) in buf.iter_mut().enumerate() {
            *byte = (place as u32).wrapping_mul(2_654_435_761).wrapping_add(index) as u8;
        }
        Slot { buf, started: Instant::now() }
    };
    let mut state = Loop {
        ring,
        spec: *spec,
        slots: (0..spec.depth).map(slot).collect(),
        blocks: file_bytes / spec.block_bytes as u64,
        next_block: 0,
        random: 0x9e37_79b9_7f4a_7c15,
    };
    state.run(duration)
}

impl Loop {
    fn run(&mut self, duration: Duration) -> io::Result<Measured> {
        let mut nanos =
            Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("constant bounds");
        let began = Instant::now();
        let mut in_flight = 0;
        let mut failure = None;
        for slot in 0..self.slots.len() {
            self.push(slot);
            in_flight += 1;
        }
        while in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                // Buffers are with the kernel and nothing can be waited for: not survivable.
                Err(error) => panic!("io_uring_enter failed with operations in flight: {error}"),
            }
            loop {
                // Its own statement: the queue's borrow must end before the next push.
                let next = self.ring.completion().next();
                let Some(done) = next else { break };
                let (slot, is_sync) = ((done.user_data() / 2) as usize, done.user_data() % 2 == 1);
                let expected = if is_sync { 0 } else { self.spec.block_bytes as i32 };
                if done.result() != expected && failure.is_none() {
                    failure = Some(match done.result() {
                        errno if errno < 0 => io::Error::from_raw_os_error(-errno),
                        bytes => io::Error::other(format!("{bytes} of {expected} bytes moved")),
                    });
                }
                if self.spec.kind == Kind::LinkedFdatasync && !is_sync {
                    continue;
                }
                let now = Instant::now();
                let took = now - self.slots[slot].started;
                nanos.saturating_record(took.as_nanos() as u64);
                if failure.is_none() && now - began < duration {
                    self.push(slot);
                } else {
                    in_flight -= 1;
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Measured { nanos, elapsed: began.elapsed() }),
        }
    }

    /// Hands the slot's operation to the submission queue.
    fn push(&mut self, index: usize) {
        let block = match self.spec.kind {
            Kind::Read => self.next_random() % self.blocks,
            Kind::Dsync | Kind::LinkedFdatasync => {
                self.next_block += 1;
                self.next_block % self.blocks
            }
        };
        let offset_bytes = block * self.spec.block_bytes as u64;
        let slot = &mut self.slots[index];
        slot.started = Instant::now();
        let (pointer, bytes) = (slot.buf.as_mut_ptr(), self.spec.block_bytes as u32);
        let user_data = 2 * index as u64;
        let write = opcode::Write::new(Fixed(0), pointer, bytes).offset(offset_bytes);
        let first = match self.spec.kind {
            Kind::Read => opcode::Read::new(Fixed(0), pointer, bytes).offset(offset_bytes).build(),
            Kind::Dsync => write.rw_flags(libc::RWF_DSYNC).build(),
            Kind::LinkedFdatasync => write.build().flags(squeue::Flags::IO_LINK),
        };
        let sync = opcode::Fsync::new(Fixed(0)).flags(FsyncFlags::DATASYNC).build();
        let entries = [first.user_data(user_data), sync.user_data(user_data + 1)];
        let used = if self.spec.kind == Kind::LinkedFdatasync { 2 } else { 1 };
        // SAFETY: the buffer lives in self.slots, which is not touched or dropped while operations
        // are in flight (see the module's invariant), and `bytes` is its length.
        let pushed = unsafe { self.ring.submission().push_multiple(&entries[..used]) };
        pushed.expect("the queue has two entries for each slot");
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): enough to spread reads.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe_disk::point::Plan;

    #[test]
    fn every_pattern_runs_on_a_real_file() {
        let dir = tempfile::tempdir().unwrap();
        let possible = crate::preflight::check_ring()
            .and_then(|()| Ok(forebay_storage::directory::check_direct_io(dir.path())?));
        if let Err(failure) = possible {
            eprintln!("skipped: {}", failure.message);
            return;
        }
        let path = dir.path().join("file");
        let bytes = 4 << 20;
        let file =
            forebay_storage::directory::create_prewritten(&path, bytes, &mut |_| {}).unwrap();
        for spec in Plan::full().0.iter().filter(|spec| [1, 16].contains(&spec.depth)) {
            let measured = measure(&file, bytes, spec, Duration::from_millis(5)).unwrap();
            assert!(measured.nanos.len() >= u64::from(spec.depth), "{spec}");
        }
    }

    #[test]
    fn a_failing_file_is_an_error_with_nothing_left_in_flight() {
        let dir = tempfile::tempdir().unwrap();
        if crate::preflight::check_ring().is_err() {
            eprintln!("skipped: no io_uring");
            return;
        }
        let path = dir.path().join("file");
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        let read_only = File::open(&path).unwrap();
        for kind in [Kind::Dsync, Kind::LinkedFdatasync] {
            let spec = Spec { kind, block_bytes: 4096, depth: 4 };
            let result = measure(&read_only, 1 << 16, &spec, Duration::from_millis(5));
            assert_eq!(result.err().and_then(|e| e.raw_os_error()), Some(libc::EBADF));
        }
    }
}
