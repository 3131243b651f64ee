//! On which cores a disk's interrupts arrive, from `/proc/interrupts`.
//!
//! A durable write that was started on one core may be completed on another: the interrupt, the
//! softirq and the kernel's work queue run where the device's queue is bound. A reader of a figure
//! that keeps cores apart must know.

use std::path::Path;

use crate::sys;

/// Interrupts of one disk by core since the machine started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskInterrupts {
    /// As the kernel names its driver: `virtio1`, `nvme0`.
    driver: String,
    by_core: Vec<u64>,
}

impl DiskInterrupts {
    /// Of the disk below `path`; None where it has no interrupts of its own to be seen.
    pub(super) fn read(path: &Path) -> Option<DiskInterrupts> {
        let driver = driver_of(&sys::disk_of(path)?)?;
        let text = std::fs::read_to_string("/proc/interrupts").ok()?;
        let by_core = count(&text, &driver)?;
        Some(DiskInterrupts { driver, by_core })
    }

    /// What came since `before`, as a sentence.
    pub(super) fn since(&self, before: &DiskInterrupts) -> String {
        let parts: Vec<String> = self
            .by_core
            .iter()
            .zip(&before.by_core)
            .enumerate()
            .map(|(core, (now, then))| format!("core {core}: {}", now.saturating_sub(*then)))
            .collect();
        format!("Interrupts of the disk ({}) meanwhile: {}.", self.driver, parts.join(", "))
    }
}

/// The device that the disk's interrupts are named after.
fn driver_of(disk: &str) -> Option<String> {
    let device = std::fs::canonicalize(format!("/sys/block/{disk}/device")).ok()?;
    Some(device.file_name()?.to_str()?.to_owned())
}

/// Sums the lines of `driver`'s queues. Columns: number, one count for each core, words.
fn count(text: &str, driver: &str) -> Option<Vec<u64>> {
    let cores = text.lines().next()?.split_whitespace().count();
    let mut sums = vec![0; cores];
    let mut found = false;
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().copied().unwrap_or_default();
        // `virtio1-req.0`, `nvme0q3`; not `virtio10-…`.
        let Some(rest) = name.strip_prefix(driver) else { continue };
        if rest.starts_with(|next: char| next.is_ascii_digit()) {
            continue;
        }
        found = true;
        for (sum, word) in sums.iter_mut().zip(&words[1..]) {
            *sum += word.parse::<u64>().unwrap_or(0);
        }
    }
    found.then_some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1
 35:          0          1  PCI-MSIX  0-edge      virtio1-config
 36:         10   11721004  PCI-MSIX  1-edge      virtio1-req.0
 37:          7          7  PCI-MSIX  1-edge      virtio10-req.0
 40:          3          0  PCI-MSIX  1-edge      nvme0q0
 41:          0          5  PCI-MSIX  2-edge      nvme0q1
NMI:          0          0   Non-maskable interrupts
";

    #[test]
    fn a_disks_queues_are_summed_by_core() {
        assert_eq!(count(TEXT, "virtio1"), Some(vec![10, 11_721_005]));
        assert_eq!(count(TEXT, "nvme0"), Some(vec![3, 5]));
        assert_eq!(count(TEXT, "sda"), None);
        let at = |by_core| DiskInterrupts { driver: "virtio1".to_owned(), by_core };
        let said = at(vec![10, 30]).since(&at(vec![10, 10]));
        assert!(said.contains("core 0: 0, core 1: 20"), "{said}");
    }
}
