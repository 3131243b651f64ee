//! Ctrl-C during a run: the first ends it early, with its report; the second ends at once.
//!
//! ```text
//!   signal ─► [`run_ends_early`] ─ a run is under way ─► its `end`: this interval is the last
//!                    └── none, or told already ─► false: the process ends (fleet::process)
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ends a run early.
type End = Box<dyn Fn() + Send>;

static UNDER_WAY: Mutex<Option<End>> = Mutex::new(None);

fn under_way() -> MutexGuard<'static, Option<End>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, the next signal ends a run early.
#[derive(Debug)]
pub(crate) struct EndsEarly(());

/// The next signal calls `end`; the one after it ends the process.
pub(crate) fn ends_early(end: impl Fn() + Send + 'static) -> EndsEarly {
    *under_way() = Some(Box::new(end));
    EndsEarly(())
}

impl Drop for EndsEarly {
    fn drop(&mut self) {
        *under_way() = None;
    }
}

/// Tells the run that is under way to end, unless it was told before.
pub(crate) fn run_ends_early() -> bool {
    let Some(end) = under_way().take() else { return false };
    eprintln!(
        "forebay-bench: interrupted; the run ends with this second, then comes its report (once \
         more to end at once)"
    );
    end();
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_run_is_told_once_and_only_while_it_lasts() {
        let told = Arc::new(AtomicU32::new(0));
        let run = {
            let told = Arc::clone(&told);
            ends_early(move || {
                told.fetch_add(1, Ordering::Relaxed);
            })
        };
        assert!(run_ends_early());
        assert!(!run_ends_early(), "the second signal ends the process");
        drop(run);
        let run = ends_early(|| panic!("this run is over"));
        drop(run);
        assert!(!run_ends_early());
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
