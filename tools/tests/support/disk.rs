//! A small file system of one's own on a loop device.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{skip, text};

/// A small ext4, unmounted at the end.
pub struct SmallDisk {
    mount: TempDir,
}

impl SmallDisk {
    /// Makes the image file and mounts it; None with a word about what is missing.
    pub fn new(image: &Path, bytes: u64) -> Option<SmallDisk> {
        File::create(image).unwrap().set_len(bytes).unwrap();
        let mount = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let run = |program: &str, args: &[&str]| match Command::new(program).args(args).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(format!("{program}: {error}")),
        };
        let (image, at) = (text(image), text(mount.path()));
        // No blocks kept for root: a full disk is to be full for everybody.
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        match made.and_then(|()| run("mount", &["-o", "loop", image, at])) {
            Ok(()) => Some(SmallDisk { mount }),
            Err(why) => {
                skip(&format!("this test mounts a small file system: {}", why.trim()));
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Bytes that files can still take.
    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "-c", "%a %S", text(self.path())]).output();
        let words = String::from_utf8(output.unwrap().stdout).unwrap();
        words.split_whitespace().map(|word| word.parse::<u64>().unwrap()).product()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let at = self.mount.path();
        let unmounted = |args: &[&str]| {
            let mut command = Command::new("umount");
            command.args(args).arg(at).output().is_ok_and(|output| output.status.success())
        };
        // The kernel may hold on to a killed process's files for a moment.
        for _ in 0..100 {
            if unmounted(&[]) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        unmounted(&["--lazy"]);
    }
}
