//! The maintenance lane: bulk work on extents that do not change, on glommio executors, away from
//! the shard cores.
//!
//! ```text
//!   shard lane                                       maintenance lane
//!   Verifier::submit ──bounded queue──> thread with a LocalExecutor ── O_DIRECT reads ──> file
//!   Verifier::poll   <──bounded queue── reports, and wake() rings the shard's eventfd
//! ```
//!
//! Each kind of work has a thread and an executor of its own, so a lane that waits for jobs may
//! block: nothing else runs there. Queues are std's bounded channels, not glommio's, whose ends are
//! unsound when cloned. The lane never writes to a shard's files, and what it reports is a
//! suspicion until the shard confirms that the bytes were still pinned.
//!
//! Here so far: [`verify`], which reads sealed log segments again.

mod ordinary;
pub mod verify;

pub use verify::{Verifier, VerifierConfig, VerifierError, VerifyJob, VerifyOutcome, VerifyReport};
