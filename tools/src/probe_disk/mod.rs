//! `probe-disk`: what a device can do, in the two patterns of a shard: durable log writes and
//! random page reads.
//!
//! The file is preallocated, prewritten, and has lost its name before the first measurement, so
//! that nothing is left behind however the program ends. Every point is a closed loop of `depth`
//! operations on one ring. A durable write counts from its submission to the completion that makes
//! it durable: of the write itself with RWF_DSYNC, of the fdatasync linked behind it otherwise.
//!
//! What it cannot see: a device that lies about flushes, and a cache below the device (a
//! hypervisor's) that answers reads from memory.

mod point;
mod ring;
mod table;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use forebay_storage::directory;
use indicatif::{ProgressBar, ProgressStyle};

use crate::disk_profile::{DiskProfile, FILE_NAME};
use crate::exit::{Exit, Failure};
use crate::preflight;
use crate::run::bytes_bar;
use crate::size::ByteSize;
use point::{Kind, Plan};

const EXAMPLES: &str = "Examples:
  forebay probe-disk /var/lib/forebay                    about a minute; a node there reads the result
  forebay probe-disk /mnt/nvme --seconds-per-point 5     steadier figures
  forebay probe-disk . --out /tmp/disk.toml              keep the result elsewhere";

/// Measure what a disk can do, and write disk.toml for the node
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory on the device: a data directory, or where one will be
    dir: PathBuf,
    /// How long to measure each of the 37 points
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds_per_point: f64,
    /// Size of the temporary file
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    file: ByteSize,
    /// Where to write the result [default: DIR/disk.toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Smallest file: 16 operations of 64 KiB, sixteen times over.
const FILE_BYTES_MIN: u64 = 16 << 20;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let usage = |message: &str| Err(Failure::new(Exit::Usage, message));
    if !(0.01..=3600.0).contains(&args.seconds_per_point) {
        return usage("--seconds-per-point: give 0.01 to 3600");
    }
    let ByteSize(file_bytes) = args.file;
    if !(FILE_BYTES_MIN..=1 << 40).contains(&file_bytes) || !file_bytes.is_multiple_of(1 << 20) {
        return usage("--file: give a multiple of 1MiB from 16MiB to 1TiB");
    }
    preflight::check_ring()?;
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| Failure::new(Exit::Other, format!("{}: {error}", args.dir.display())))?;
    directory::check_direct_io(&args.dir)?;
    let points = measure(args, file_bytes)?;
    let profile = DiskProfile {
        durable_mode: point::better_mode(&points).name().to_owned(),
        batches_in_flight: point::batches_in_flight(&points),
        measured_unix_seconds: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        seconds_per_point: args.seconds_per_point,
        file_bytes,
        points,
    };
    let out = args.out.clone().unwrap_or_else(|| args.dir.join(FILE_NAME));
    profile.write(&out)?;
    crate::say(&table::render(&profile));
    crate::say(&format!("written to {}\n", out.display()));
    Ok(())
}

fn measure(args: &Args, file_bytes: u64) -> Result<Vec<crate::disk_profile::Point>, Failure> {
    let path = args.dir.join(format!(".forebay-probe-{}", std::process::id()));
    let bar = bytes_bar("prewriting");
    bar.set_length(file_bytes);
    let created = directory::create_prewritten(&path, file_bytes, &mut |done_bytes| {
        bar.set_position(done_bytes);
        // The name goes as soon as there is a file, so that no way of ending leaves it behind.
        let _ = std::fs::remove_file(&path);
    });
    let _ = std::fs::remove_file(&path);
    let file = created?;
    bar.finish_and_clear();

    let plan = Plan::full();
    let style = ProgressStyle::with_template("{msg:32} [{bar:40}] {pos}/{len} {eta}")
        .expect("a constant template")
        .progress_chars("=> ");
    let bar = ProgressBar::new(plan.0.len() as u64).with_style(style);
    let duration = Duration::from_secs_f64(args.seconds_per_point);
    let mut points = Vec::with_capacity(plan.0.len());
    for spec in &plan.0 {
        bar.set_message(spec.to_string());
        let measured = ring::measure(&file, file_bytes, spec, duration).map_err(|error| {
            let exit = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Exit::DiskFull,
                Some(libc::EOPNOTSUPP) if spec.kind == Kind::Dsync => Exit::NoDirectIo,
                _ => Exit::Other,
            };
            Failure::new(exit, format!("measuring {spec} in {}: {error}", args.dir.display()))
        })?;
        points.push(measured.into_point(spec));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(points)
}
