//! `inspect superblock`.

use std::io::{self, Write};

use forebay_storage::superblock::{Superblock, SuperblockError};

use super::Verdict;
use super::files::ShardDir;
use crate::size::ByteSize;

/// Shows both blocks and what recovery would do with them.
pub(super) fn show(shard: &ShardDir, out: &mut dyn Write) -> io::Result<Verdict> {
    let blocks = shard.superblocks()?;
    for (number, block) in (0..).zip(&blocks) {
        match Superblock::decode(block, number, shard.shard) {
            Ok(superblock) => one(&superblock, out)?,
            Err(error) => writeln!(out, "superblock {number}\n  {error}")?,
        }
    }
    match shard.chosen()? {
        Ok(chosen) => {
            writeln!(out, "chosen: checkpoint {}", chosen.superblock.checkpoint)?;
            match chosen.damage {
                None => Ok(Verdict::Sound),
                Some(damage) => {
                    writeln!(out, "fallen back to it, because of {damage}")?;
                    Ok(Verdict::Damaged)
                }
            }
        }
        Err(SuperblockError::Blank { .. }) => {
            writeln!(out, "chosen: none; the shard has not been formatted")?;
            Ok(Verdict::Sound)
        }
        Err(error) => {
            writeln!(out, "chosen: none: {error}")?;
            Ok(Verdict::Damaged)
        }
    }
}

fn one(s: &Superblock, out: &mut dyn Write) -> io::Result<()> {
    let (totals, segment) = (s.catalog.totals(), ByteSize(s.log.segment_bytes));
    writeln!(out, "superblock {}", s.block())?;
    writeln!(out, "  checkpoint            {}", s.checkpoint)?;
    writeln!(out, "  node                  {:032x}", s.node)?;
    writeln!(out, "  shard                 {}", s.shard)?;
    writeln!(out, "  log_start lsn         {}", s.log_start.lsn)?;
    writeln!(out, "  log_start incarnation {}", s.log_start.incarnation)?;
    writeln!(out, "  previous_checksum     {:08x}", s.log_start.previous_checksum)?;
    writeln!(out, "  history_bytes         {}", s.history_bytes)?;
    writeln!(out, "  durable_lsn           {}", s.durable_lsn)?;
    if s.logs_lost > 0 {
        writeln!(out, "  logs_lost             {}", s.logs_lost)?;
    }
    writeln!(out, "  log                   {} segments of {segment}", s.log.segments)?;
    match s.catalog.root {
        Some(root) => {
            let (id, level, items) = (root.page.id, root.page.level, totals.items);
            writeln!(out, "  catalog               page {id}, level {level}, {items} groups")?;
        }
        None => writeln!(out, "  catalog               empty")?,
    }
    writeln!(out, "  file_blocks           {}", s.file_blocks)?;
    writeln!(out, "  space_digest          {:032x}\n", s.space_digest)
}
