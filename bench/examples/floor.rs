//! The floor servers by themselves: `cargo run --release -p forebay-bench --example floor -- --mode echo`.

#[path = "../src/floor/mod.rs"]
#[expect(unreachable_pub, reason = "the module is a part of the forebay-bench binary")]
mod floor;

use clap::Parser as _;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    floor: floor::FloorArgs,
}

fn main() -> Result<(), floor::FloorError> {
    floor::run_floor(&Command::parse().floor)
}
