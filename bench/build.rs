//! Tells the tool which revision it is made of, for its reports.
//!
//! Release builds alone: reports that are published come from them, and others are not to be built
//! anew for each commit.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    // Whatever changes the answer: a commit, and the sources that this program is made of.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    for sources in ["src", "../net/src", "../storage/src", "../core/src"] {
        println!("cargo::rerun-if-changed={sources}");
    }
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let changed = if changed.is_some_and(|files| !files.is_empty()) { ", changed" } else { "" };
    println!("cargo::rustc-env=FOREBAY_REVISION={revision}{changed}");
}

/// What git says; None where there is no git, or no repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}
