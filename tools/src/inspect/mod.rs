//! `inspect`: what is in a data directory, read-only and tolerant.
//!
//! Principles: never write, never lock, decode as much as possible, use the server's own decoders,
//! say what is wrong where it is and go on. A directory in use can be looked at; what is read may
//! then be in motion, and the output says so. Damage found ends in exit code 17, so that a script
//! can tell.

mod files;
mod log;
mod page;
mod show;
mod superblock;
mod tree;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::exit::{Exit, Failure};
use files::ShardDir;

const EXAMPLES: &str = "Examples:
  forebay inspect superblock ./forebay-data
  forebay inspect log ./forebay-data --last 20 --records
  forebay inspect tree ./forebay-data                 every group's tree, each page verified
  forebay inspect tree ./forebay-data --group 3 --items
  forebay inspect page ./forebay-data 5

Nothing is written, and the directory may be in use. Exit code 17 says that damage was found.";

/// Look into a data directory without changing anything
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Both superblocks of a shard, and which one recovery would choose
    Superblock(Place),
    /// The batches in a shard's log, by position, and whether they follow each other
    Log {
        #[command(flatten)]
        place: Place,
        /// Show this many of the last batches; 0 shows all
        #[arg(long, value_name = "N", default_value_t = 40)]
        last: usize,
        /// Show the records of each batch
        #[arg(long)]
        records: bool,
    },
    /// The trees of a shard: every page read and verified
    Tree {
        #[command(flatten)]
        place: Place,
        /// Only this group
        #[arg(long, value_name = "ID")]
        group: Option<u64>,
        /// List the items' keys and sizes
        #[arg(long)]
        items: bool,
    },
    /// One page, by its number
    Page {
        #[command(flatten)]
        place: Place,
        /// The page's first block
        id: u64,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The data directory
    dir: PathBuf,
    /// Which shard
    #[arg(long, value_name = "N", default_value_t = 0)]
    shard: u16,
}

/// Whether everything that was looked at is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
}

impl Verdict {
    fn and(self, other: Verdict) -> Verdict {
        if self == Verdict::Sound { other } else { self }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let place = match &args.what {
        What::Superblock(place)
        | What::Log { place, .. }
        | What::Tree { place, .. }
        | What::Page { place, .. } => place,
    };
    let shard = ShardDir::open(&place.dir, place.shard)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let shown = show(&args.what, &shard, &mut out).and_then(|verdict| {
        out.flush()?;
        Ok(verdict)
    });
    match shown {
        Ok(Verdict::Sound) => Ok(()),
        Ok(Verdict::Damaged) => {
            let dir = place.dir.display();
            Err(Failure::new(Exit::Damage, format!("damage in {dir}, shard {}", place.shard)))
        }
        // A reader that went away (`| head`) has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Other, error.to_string())),
    }
}

fn show(what: &What, shard: &ShardDir, out: &mut dyn Write) -> io::Result<Verdict> {
    if let Some(pid) = shard.user {
        writeln!(
            out,
            "process {pid} may be using the directory; what is shown may be in motion\n"
        )?;
    }
    match what {
        What::Superblock(_) => superblock::show(shard, out),
        What::Log { last, records, .. } => log::show(shard, *last, *records, out),
        What::Tree { group, items, .. } => tree::show(shard, *group, *items, out),
        What::Page { id, .. } => page::show(shard, *id, out),
    }
}
