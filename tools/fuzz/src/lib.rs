//! The fuzz targets as a library; `fuzz_targets/` has one small binary for each.

#![deny(unsafe_code)]

pub mod targets;

// What the macro below needs from the binaries' point of view.
pub use libfuzzer_sys;

/// Writes the seeds of `target` into the directory that `FOREBAY_FUZZ_SEEDS` names, if it is set.
/// The fuzzer calls this before it reads its corpus, so the corpus is never older than the code.
pub fn write_seeds(target: &str) {
    let Some(directory) = std::env::var_os("FOREBAY_FUZZ_SEEDS") else { return };
    let target = targets::find(target);
    for (index, seed) in (target.seeds)().iter().enumerate() {
        let path = std::path::Path::new(&directory).join(format!("seed-{index:02}"));
        std::fs::write(&path, seed).expect("the seed directory takes files");
    }
}

/// The whole of a fuzz binary: `fuzz!(frame);`
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: { $crate::write_seeds(stringify!($target)) },
            |data: &[u8]| $crate::targets::$target::run(data)
        );
    };
}
