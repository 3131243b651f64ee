//! The file system and the disk below a path.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a reader must know of the disk. What the kernel does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) filesystem: String,
    pub(crate) mount_options: String,
    /// The kernel's name of the disk.
    pub(crate) name: Option<String>,
    pub(crate) model: Option<String>,
    /// As the kernel believes; virtual disks are often called rotational and are not.
    pub(crate) is_rotational: Option<bool>,
    pub(crate) scheduler: Option<String>,
    /// `write back`: the disk has a volatile cache, which durable writes must flush.
    pub(crate) write_cache: Option<String>,
    pub(crate) size_bytes: Option<u64>,
}

impl Device {
    /// Below `path`.
    pub(crate) fn below(path: &Path) -> Device {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let Some(mount) = Mount::of(&path, &mounts) else { return Device::default() };
        let block = Path::new("/sys/dev/block").join(&mount.numbers);
        let mut device = Device {
            filesystem: mount.kind.clone(),
            mount_options: mount.options.clone(),
            ..Device::default()
        };
        let Ok(mut block) = fs::canonicalize(block) else { return device };
        // A partition's queue is its disk's.
        if block.join("partition").exists() {
            block.pop();
        }
        let ask = |file: &str| {
            let text = fs::read_to_string(block.join(file)).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        device.name = block.file_name().map(|name| name.to_string_lossy().into_owned());
        device.model = ask("device/model");
        device.is_rotational = ask("queue/rotational").map(|text| text == "1");
        device.scheduler = ask("queue/scheduler").map(|text| chosen(&text));
        device.write_cache = ask("queue/write_cache");
        // In units of 512 bytes, whatever the disk's own blocks are.
        device.size_bytes = ask("size").and_then(|text| Some(text.parse::<u64>().ok()? * 512));
        device
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let rotational = self.is_rotational.map(|is| match is {
            true => "rotational (the kernel says)",
            false => "not rotational",
        });
        let parts = [
            Some(format!("{} ({})", self.filesystem, self.mount_options)),
            self.name.as_ref().map(|name| format!("on {name}")),
            self.model.clone(),
            self.size_bytes.map(|bytes| format!("{:.0} GiB", bytes as f64 / f64::from(1 << 30))),
            rotational.map(str::to_owned),
            self.scheduler.as_ref().map(|name| format!("scheduler {name}")),
            self.write_cache.as_ref().map(|kind| format!("{kind} cache")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// `none [mq-deadline]` says that it is mq-deadline.
fn chosen(text: &str) -> String {
    let within = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    within.map_or(text, |(name, _)| name).to_owned()
}

struct Mount {
    /// MAJOR:MINOR of the disk.
    numbers: String,
    options: String,
    kind: String,
}

impl Mount {
    /// The mount in `mounts` (see proc_pid_mountinfo(5)) that `path` lies in.
    fn of(path: &Path, mounts: &str) -> Option<Mount> {
        let found = mounts.lines().filter_map(|line| {
            // id parent major:minor root mount-point options … - type source super-options
            let (mount, system) = line.split_once(" - ")?;
            let words: Vec<_> = mount.split(' ').collect();
            let kind = system.split(' ').next()?;
            let at = words.get(4)?;
            path.starts_with(at).then(|| {
                let mount = Mount {
                    numbers: words[2].to_owned(),
                    options: words.get(5).copied().unwrap_or_default().to_owned(),
                    kind: kind.to_owned(),
                };
                (at.len(), mount)
            })
        });
        // Of several at one place the last one covers the others.
        found.max_by_key(|(length, _)| *length).map(|(_, mount)| mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 254:1 / / rw,noatime shared:1 - ext4 /dev/vda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 259:0 / /data rw,relatime shared:2 - xfs /dev/nvme0n1 rw
";

    #[test]
    fn the_longest_mount_point_wins() {
        let mount = Mount::of(Path::new("/data/a/b"), MOUNTS).unwrap();
        assert_eq!((mount.numbers.as_str(), mount.kind.as_str()), ("259:0", "xfs"));
        let mount = Mount::of(Path::new("/database"), MOUNTS).unwrap();
        assert_eq!((mount.options.as_str(), mount.kind.as_str()), ("rw,noatime", "ext4"));
    }

    #[test]
    fn this_directory_has_a_file_system() {
        let device = Device::below(Path::new("."));
        assert!(!device.filesystem.is_empty(), "{device:?}");
        assert!(device.line().contains(&device.filesystem));
        assert_eq!(chosen("none [mq-deadline]"), "mq-deadline");
    }
}
