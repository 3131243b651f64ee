//! What an operator should read at once: one line on standard error.
//!
//! State machines say it here because a simulation runs many of them, and its own output is what
//! matters there: [`overheard`] keeps the lines of its thread away from standard error. In
//! production it is `eprintln!`.

use std::cell::RefCell;
use std::fmt;

thread_local! {
    static KEPT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Says a line, without its program's name.
pub fn say(line: fmt::Arguments<'_>) {
    let printed = KEPT.with_borrow_mut(|kept| match kept {
        Some(lines) => {
            lines.push(line.to_string());
            false
        }
        None => true,
    });
    if printed {
        eprintln!("forebay: {line}");
    }
}

/// From now on this thread's lines are kept, and not printed; returns those kept until now.
pub fn overheard() -> Vec<String> {
    KEPT.with_borrow_mut(|kept| kept.replace(Vec::new()).unwrap_or_default())
}

/// This thread's lines are printed again.
pub fn printed_again() {
    KEPT.with_borrow_mut(Option::take);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_kept_for_whoever_listens() {
        assert!(overheard().is_empty());
        say(format_args!("shard {} is tired", 3));
        assert_eq!(overheard(), ["shard 3 is tired"]);
        assert!(overheard().is_empty());
        printed_again();
    }
}
