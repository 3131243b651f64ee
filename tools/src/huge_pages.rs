//! Has glibc back this process's heap with huge pages.
//!
//! A shard's tables lie all over its heap, and translating their addresses by 4 KiB pages cost 4 %
//! of a Put and 5 % of a Get (100 B items, depth 16, alternated runs of one binary, Xeon virtual
//! machine). glibc asks the kernel for huge pages only if its environment says so before the
//! program starts, so the program starts itself once more with that said. The block arena and the
//! overlay's chunks ask for theirs directly and need none of this.
//!
//! Nothing is lost where it does not work: with another C library, with huge pages forbidden, or
//! when the operator has set these tunables, which then stand.

/// What glibc reads as it starts.
const VARIABLE: &str = "GLIBC_TUNABLES";
/// Huge pages; big tables from the heap, too, and not in 4 KiB pages of their own; and a heap that
/// grows by steps of whole huge pages, as address space that costs nothing until it is touched.
const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:\
                        glibc.malloc.top_pad=67108864";

/// The tunables to start again with; None if there is nothing to add.
fn wanted(present: Option<&str>) -> Option<String> {
    match present {
        None | Some("") => Some(TUNABLES.to_owned()),
        Some(set) if set.contains("glibc.malloc.") => None,
        Some(set) => Some(format!("{set}:{TUNABLES}")),
    }
}

/// Starts the program again, in the same process, unless it already has its tunables. To be called
/// before there are threads or open files.
#[cfg(target_env = "gnu")]
pub(crate) fn prefer() {
    use std::os::unix::process::CommandExt;

    let present = std::env::var_os(VARIABLE);
    let Some(tunables) =
        wanted(present.as_ref().map(|set| set.to_str().unwrap_or("glibc.malloc.")))
    else {
        return;
    };
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Returns only if it failed: then this process serves as it is.
    let _ = again.args(arguments).env(VARIABLE, tunables).exec();
}

/// Other C libraries have no such setting.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn prefer() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_set_stands() {
        assert_eq!(wanted(None).as_deref(), Some(TUNABLES));
        assert_eq!(wanted(Some("")).as_deref(), Some(TUNABLES));
        assert_eq!(wanted(Some("glibc.malloc.hugetlb=0")), None);
        assert_eq!(wanted(Some(TUNABLES)), None, "so that it starts again once");
        let both = wanted(Some("glibc.cpu.x86_shstk=off")).unwrap();
        assert_eq!(both, format!("glibc.cpu.x86_shstk=off:{TUNABLES}"));
    }
}
