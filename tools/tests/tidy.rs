//! Style as a test: what the design forbids, in words that name the file and the line.
//!
//! In the manner of rust-analyzer's and TigerBeetle's tidy tests. It reads the sources as text, so
//! its rules are simple on purpose; an exception is a line in one of the lists below, with its
//! reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that may stand at the top level.
const TOP_LEVEL: [&str; 11] = [
    "core",
    "net",
    "storage",
    "bench",
    "tools",
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "rustfmt.toml",
    "clippy.toml",
];

/// Crates from the lowest to the highest; those of one rank do not know each other.
const RANKS: [(&str, u8); 5] =
    [("core", 0), ("storage", 1), ("net", 2), ("bench", 3), ("tools", 3)];

/// The only files with unsafe code, and what for.
const UNSAFE: [(&str, &str); 18] = [
    ("bench/src/allocations.rs", "counting allocator"),
    ("bench/src/engines/lmdb.rs", "a memory map"),
    ("bench/src/sys.rs", "system calls of the load generator"),
    ("net/src/lane/queue.rs", "single-producer queue"),
    ("net/src/lane/tests.rs", "its tests"),
    ("net/src/lane/wakeup.rs", "eventfd"),
    ("net/src/ring/buffers.rs", "provided buffers that the kernel fills"),
    ("net/src/ring/clock.rs", "CLOCK_BOOTTIME"),
    ("net/src/ring/file.rs", "disk operations in flight"),
    ("net/src/ring/queues.rs", "submission entries"),
    ("net/src/ring/socket.rs", "sockets in flight"),
    ("net/src/ring/system.rs", "limits, eventfd, pinning"),
    ("net/tests/counting/mod.rs", "counting allocator"),
    ("storage/src/block.rs", "aligned buffers"),
    ("storage/src/directory/sys.rs", "fallocate, statfs"),
    ("storage/src/maintenance/ordinary.rs", "scheduling policy"),
    ("storage/src/touch.rs", "prefetch"),
    ("tools/src/probe_disk/ring.rs", "disk operations in flight"),
];

const LINES_MAX: usize = 800;

/// How many lines above an unsafe block its SAFETY comment may begin.
const SAFETY_LINES_ABOVE: usize = 12;

struct Source {
    /// From the repository's root, with slashes.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools has a parent").to_owned()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for (folder, _) in RANKS {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 40, "the sources were not found");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // Build output, and corpora of fuzz targets.
            if !matches!(name.as_str(), "target" | "corpus" | "artifacts") {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

impl Source {
    /// Everything before the unit tests at the end; nothing of a file of tests.
    fn production(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap();
        if name == "tests.rs" || self.path.contains("/tests/") || self.path.contains("/benches/") {
            return "";
        }
        let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\nmod test {"];
        let end = tests.iter().filter_map(|mark| self.text.find(mark)).min();
        &self.text[..end.unwrap_or(self.text.len())]
    }
}

fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `word` stands in `line` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// Fails with all findings at once.
fn assert_none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn find_words(sources: &[&Source], text: fn(&Source) -> &str, words: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in text(source).lines().enumerate() {
            for word in words.iter().filter(|word| has_word(code_of(line), word)) {
                findings.push(format!("{}:{}: {word}", source.path, index + 1));
            }
        }
    }
    findings
}

#[test]
fn every_file_begins_with_its_documentation() {
    let findings = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    assert_none("files that do not begin with //!", findings.map(|source| source.path).collect());
}

#[test]
fn no_file_outgrows_its_idea() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert_none("files of more than 800 lines", findings);
}

#[test]
fn nothing_is_left_unfinished() {
    // In pieces, so that this file passes its own test.
    let leftovers = [
        ["to", "do!"].concat(),
        ["unimple", "mented!"].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["for", " now"].concat(),
        ["simpli", "fied"].concat(),
    ];
    let mut findings = Vec::new();
    for source in sources() {
        for (index, line) in source.text.lines().enumerate() {
            if let Some(found) = leftovers.iter().find(|left| line.contains(left.as_str())) {
                findings.push(format!("{}:{}: {found}", source.path, index + 1));
            }
        }
    }
    assert_none("leftovers", findings);
}

#[test]
fn unsafe_code_stays_in_its_files_and_says_why_it_is_sound() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.text.lines().collect();
        let allowed = UNSAFE.iter().any(|(path, _)| *path == source.path);
        for (index, line) in lines.iter().enumerate() {
            let code = code_of(line);
            let place = format!("{}:{}", source.path, index + 1);
            let opens = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"];
            let opens = opens.iter().filter(|open| code.contains(*open));
            // Not within a word or a string of this very test.
            let opens = opens.filter(|open| !code.contains(&format!("\"{open}")));
            for open in opens {
                if !allowed {
                    findings.push(format!("{place}: unsafe code outside the listed files"));
                }
                // The methods of an unsafe trait are explained at the impl.
                if *open == "unsafe fn" || *open == "unsafe extern" {
                    continue;
                }
                let from = index.saturating_sub(SAFETY_LINES_ABOVE);
                if !lines[from..=index].iter().any(|above| above.contains("SAFETY:")) {
                    findings.push(format!("{place}: no SAFETY comment"));
                }
            }
        }
    }
    assert_none("unsafe code", findings);
}

#[test]
fn core_reads_no_clock_and_touches_nothing_outside() {
    let sources = sources();
    let core: Vec<_> =
        sources.iter().filter(|source| source.path.starts_with("core/src/")).collect();
    let words = [
        "std::time",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::thread",
        "std::io",
        "std::env",
        "std::process",
        "rand",
        "libc",
    ];
    let findings = find_words(&core, Source::production, &words);
    assert_none("core does no I/O, reads no clock, draws no randomness", findings);
}

#[test]
fn the_shard_knows_no_ring_and_no_runtime() {
    let sources = sources();
    let machines = ["net/src/shard/", "net/src/link/"];
    let is_machine = |path: &str| machines.iter().any(|folder| path.starts_with(folder));
    let shard: Vec<_> = sources.iter().filter(|source| is_machine(&source.path)).collect();
    let words =
        ["ring", "tokio", "glommio", "io_uring", "std::fs", "std::net", "std::thread", "libc"];
    let findings = find_words(&shard, Source::production, &words);
    assert_none("net/src/shard and net/src/link work without a system call", findings);
}

#[test]
fn storage_enters_no_ring() {
    let sources = sources();
    let storage: Vec<_> =
        sources.iter().filter(|source| source.path.starts_with("storage/src/")).collect();
    let findings = find_words(&storage, Source::production, &["io_uring", "tokio"]);
    assert_none("the storage crate asks for block operations and leaves them to net", findings);
    let outside: Vec<_> = storage
        .into_iter()
        .filter(|source| !source.path.starts_with("storage/src/maintenance"))
        .collect();
    let findings = find_words(&outside, Source::production, &["glommio"]);
    assert_none("glommio belongs to the maintenance lane", findings);
}

#[test]
fn arrows_between_crates_point_down() {
    let mut findings = Vec::new();
    for (folder, rank) in RANKS {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(|s| s.as_table()) else {
                continue;
            };
            // A package may ask for features of its own in its tests.
            for (other, other_rank) in RANKS.into_iter().filter(|(other, _)| *other != folder) {
                if dependencies.contains_key(&format!("forebay-{other}")) && other_rank >= rank {
                    findings.push(format!("{folder} {section}: forebay-{other}"));
                }
            }
        }
    }
    assert_none("tools, bench → net → storage → core", findings);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut explained = false;
    let mut findings = Vec::new();
    for line in section.lines() {
        match line.trim() {
            "" => explained = false,
            comment if comment.starts_with('#') => explained = true,
            own if own.starts_with("forebay-") => {}
            dependency => {
                if !explained {
                    findings.push(dependency.to_owned());
                }
                explained = false;
            }
        }
    }
    assert_none("workspace dependencies without a comment above them", findings);
}

#[test]
fn only_known_entries_stand_at_the_top_level() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        eprintln!("skipped: not a git checkout");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut findings: Vec<_> = listed
        .split('\0')
        .filter_map(|path| path.split('/').next())
        .filter(|entry| !entry.is_empty() && !entry.starts_with('.') && !TOP_LEVEL.contains(entry))
        .map(str::to_owned)
        .collect();
    findings.dedup();
    assert_none("unexpected entries at the top level", findings);
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert!(has_word("use crate::ring::Ring;", "ring"));
    assert!(!has_word("let string = during(ring_count);", "ring"));
    assert!(has_word("std::time::Duration", "std::time"));
    let source = Source {
        path: "core/src/x.rs".into(),
        text:
            "//! x\nlet now = Instant::now(); // Instant\n#[cfg(test)]\nmod tests {\nInstant\n}\n"
                .into(),
    };
    let findings = find_words(&[&source], Source::production, &["Instant"]);
    assert_eq!(findings, ["core/src/x.rs:2: Instant"]);
}
