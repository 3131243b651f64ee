//! The maintenance lane's threads run with ordinary priority, whatever the process was given.
//!
//! Under a real-time policy (`chrt -f`) they would stand beside the shards, and worse: glommio looks for the
//! end of an operation that a kernel worker carries out, opening a file for one, without sleeping; the worker
//! has the policy of the thread that it works for, and where both share a core it never runs. Such a node
//! spun in io_uring_enter before it served anybody.
#![allow(unsafe_code)]

use std::io;

/// Takes the calling thread, and whom it starts from now on, to the ordinary policy. Anybody may step down.
///
/// # Errors
/// The system's own: a sandbox that forbids the call.
pub(super) fn step_down() -> io::Result<()> {
    // SAFETY: plain system calls; the parameter is valid for the time of the call, and 0 is this thread.
    let result = unsafe {
        if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
            return Ok(());
        }
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = 0;
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_inherits_a_real_time_policy_steps_down() {
        // SAFETY: as above.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let thread = std::thread::spawn(move || {
            // SAFETY: as above.
            let raised = unsafe {
                let mut parameter: libc::sched_param = std::mem::zeroed();
                parameter.sched_priority = 1;
                libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter)
            };
            if raised != 0 {
                eprintln!("skipped: this process may not have a real-time policy");
                return;
            }
            let heir = std::thread::spawn(move || {
                assert_eq!(policy(), libc::SCHED_FIFO, "it is inherited");
                step_down().expect("anybody may");
                policy()
            });
            assert_eq!(heir.join().unwrap(), libc::SCHED_OTHER);
        });
        thread.join().unwrap();
    }
}
