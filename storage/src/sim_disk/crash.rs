//! What a power cut leaves: the open sectors, and the ways to fill them.

use std::sync::Arc;

use super::{SimDisk, SimRandom};
use crate::block::{BLOCK_BYTES, ShardFile};

/// How [`SimDisk::crash_images`] explores the legal states.
#[derive(Clone, Copy, Debug)]
pub struct CrashOptions {
    /// All states are visited if there are at most this many, else this many are sampled.
    pub images_max: usize,
    /// What the device writes as a unit: 512 or 4096.
    pub sector_bytes: usize,
    /// For sampling.
    pub seed: u64,
}

const FILES: [ShardFile; 2] = [ShardFile::Log, ShardFile::Pages];

impl SimDisk {
    /// One random legal state after a power cut, torn at 512 bytes.
    #[must_use]
    pub fn after_power_cut(&self, random: &mut SimRandom) -> SimDisk {
        let sites = Sites::of(self, 512);
        sites.build(self, Draw::Random(random))
    }

    /// The legal states after a power cut at this moment: all of them if they are few, else a
    /// seeded sample that always holds "everything lost" and "everything kept".
    #[must_use]
    pub fn crash_images(&self, options: CrashOptions) -> CrashImages<'_> {
        let sites = Sites::of(self, options.sector_bytes);
        let states = sites.states(options.images_max);
        CrashImages {
            disk: self,
            sites,
            states,
            images: states.unwrap_or(options.images_max),
            next: 0,
            random: SimRandom::new(options.seed),
        }
    }
}

/// All bytes of a block.
type Full = Arc<[u8; BLOCK_BYTES]>;

/// A sector whose bytes after a crash are open.
#[derive(Debug)]
struct Site {
    file: ShardFile,
    block: u64,
    /// Within the block.
    start: usize,
    /// What may be found there besides the medium's bytes: (index of the write, sector within the
    /// write, bytes), in submission order, each different from the medium's.
    found: Vec<(usize, usize, Full)>,
}

#[derive(Debug)]
struct Sites {
    sites: Vec<Site>,
    sector_bytes: usize,
    /// Sectors of each unflushed write.
    write_sectors: Vec<usize>,
    /// Files whose growth may be lost.
    grown: Vec<ShardFile>,
}

enum Draw<'a> {
    State(usize),
    Lost,
    Kept,
    Random(&'a mut SimRandom),
}

/// What a crash did to one write, in a sampled state.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Before(usize),
    From(usize),
    Scattered,
}

impl Sites {
    fn of(disk: &SimDisk, sector_bytes: usize) -> Sites {
        assert!(sector_bytes == 512 || sector_bytes == BLOCK_BYTES);
        let per_block = BLOCK_BYTES / sector_bytes;
        let mut sites: Vec<Site> = Vec::new();
        let mut writes: Vec<(ShardFile, u64)> = Vec::new();
        let mut write_sectors: Vec<usize> = Vec::new();
        let mut grown = Vec::new();
        for name in FILES {
            let file = disk.file(name);
            if file.bytes_on_medium < file.bytes {
                grown.push(name);
            }
            for pending in &file.unflushed {
                let id = (name, pending.write);
                let write = writes.iter().position(|w| *w == id).unwrap_or_else(|| {
                    writes.push(id);
                    write_sectors.push(0);
                    writes.len() - 1
                });
                let sectors = (pending.index + 1) * per_block;
                write_sectors[write] = write_sectors[write].max(sectors);
                let medium = file.medium.bytes(pending.block);
                let data: Full = Arc::new(pending.data.bytes());
                for sector in 0..per_block {
                    let start = sector * sector_bytes;
                    let range = start..start + sector_bytes;
                    if medium[range.clone()] == data[range.clone()] {
                        continue;
                    }
                    let found = (write, pending.index * per_block + sector, Arc::clone(&data));
                    let same = |s: &&mut Site| {
                        s.file == name && s.block == pending.block && s.start == start
                    };
                    match sites.iter_mut().find(same) {
                        Some(site) => {
                            let known = |f: &(usize, usize, Full)| {
                                f.2[range.clone()] == data[range.clone()]
                            };
                            if !site.found.iter().any(known) {
                                site.found.push(found);
                            }
                        }
                        None => sites.push(Site {
                            file: name,
                            block: pending.block,
                            start,
                            found: vec![found],
                        }),
                    }
                }
            }
        }
        Sites { sites, sector_bytes, write_sectors, grown }
    }

    /// How many states there are, if at most `max`.
    fn states(&self, max: usize) -> Option<usize> {
        let mut states = 1usize;
        let ways = self.sites.iter().map(|s| s.found.len() + 1);
        for ways in ways.chain(self.grown.iter().map(|_| 2)) {
            states = states.checked_mul(ways).filter(|states| *states <= max)?;
        }
        Some(states)
    }

    fn build(&self, disk: &SimDisk, mut draw: Draw<'_>) -> SimDisk {
        let mut image = disk.idle_copy();
        let fates: Vec<Fate> = match &mut draw {
            Draw::Random(random) => self.write_sectors.iter().map(|n| fate(random, *n)).collect(),
            _ => Vec::new(),
        };
        for site in &self.sites {
            let chosen = match &mut draw {
                Draw::State(state) => {
                    let ways = site.found.len() + 1;
                    let way = *state % ways;
                    *state /= ways;
                    way.checked_sub(1)
                }
                Draw::Lost => None,
                Draw::Kept => site.found.len().checked_sub(1),
                Draw::Random(random) => {
                    let kept = |(write, sector, _): &(usize, usize, Full)| match fates[*write] {
                        Fate::Lost => false,
                        Fate::Kept => true,
                        Fate::Before(end) => *sector < end,
                        Fate::From(start) => *sector >= start,
                        Fate::Scattered => random.chance(1, 2),
                    };
                    site.found.iter().map(kept).collect::<Vec<_>>().iter().rposition(|kept| *kept)
                }
            };
            if let Some(chosen) = chosen {
                let range = site.start..site.start + self.sector_bytes;
                let found = &site.found[chosen].2[range.clone()];
                let medium = &mut image.file_mut(site.file).medium;
                medium.edit(site.block, |bytes| bytes[range].copy_from_slice(found));
            }
        }
        for name in FILES {
            let keep_growth = match &mut draw {
                _ if !self.grown.contains(&name) => true,
                Draw::State(state) => {
                    let kept = *state % 2 == 1;
                    *state /= 2;
                    kept
                }
                Draw::Lost => false,
                Draw::Kept => true,
                Draw::Random(random) => random.chance(1, 2),
            };
            let file = image.file_mut(name);
            if !keep_growth {
                file.bytes = file.bytes_on_medium;
                file.medium.0.truncate((file.bytes / BLOCK_BYTES as u64) as usize);
            }
            file.bytes_on_medium = file.bytes;
            file.unflushed.clear();
            file.visible = file.medium.clone();
        }
        image
    }
}

fn fate(random: &mut SimRandom, sectors: usize) -> Fate {
    match random.below(8) {
        0..2 => Fate::Lost,
        2..4 => Fate::Kept,
        4 => Fate::Before(random.below(sectors + 1)),
        5 => Fate::From(random.below(sectors + 1)),
        _ => Fate::Scattered,
    }
}

/// The legal states after a crash; see [`SimDisk::crash_images`].
#[derive(Debug)]
pub struct CrashImages<'a> {
    disk: &'a SimDisk,
    sites: Sites,
    states: Option<usize>,
    images: usize,
    next: usize,
    random: SimRandom,
}

impl CrashImages<'_> {
    /// Whether every legal state is visited.
    #[must_use]
    pub fn is_exhaustive(&self) -> bool {
        self.states.is_some()
    }
}

impl Iterator for CrashImages<'_> {
    type Item = SimDisk;

    fn next(&mut self) -> Option<SimDisk> {
        if self.next == self.images {
            return None;
        }
        let draw = match (self.states, self.next) {
            (Some(_), state) => Draw::State(state),
            (None, 0) => Draw::Lost,
            (None, 1) => Draw::Kept,
            (None, _) => Draw::Random(&mut self.random),
        };
        self.next += 1;
        Some(self.sites.build(self.disk, draw))
    }
}
