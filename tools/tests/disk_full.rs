//! A file system that is really full: what was acknowledged stays, deletes go on, and writes come
//! back when there is room.
//!
//! ```text
//!   ext4 on a loop device, 144 MiB
//!   ┌──────────┬────────────────────────────┬────────────┐
//!   │ log      │ pages: grow until refused  │ filler     │
//!   └──────────┴────────────────────────────┴────────────┘
//! ```

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use forebay_core::item::Item;
use forebay_core::message::ErrorCode;
use support::client::{self, Answer, Client};
use support::disk::SmallDisk;
use support::process::{Node, smallest_config};
use support::scratch;

const DISK_BYTES: u64 = 144 << 20;
const FILLER_BYTES: usize = 24 << 20;
/// Items put at once.
const ROUND: u64 = 64;
/// For a checkpoint or two to give room back.
const PATIENCE: Duration = Duration::from_secs(30);

fn name(number: u64) -> String {
    format!("item-{number}")
}

/// What the items are like.
#[derive(Clone, Copy)]
enum Shape {
    /// In leaves, and in overflow pages of one block.
    OneBlock,
    /// Some in overflow pages of several blocks, which need a free run.
    Runs,
}

fn item(shape: Shape, number: u64) -> Item {
    let bytes = match (shape, number % 8) {
        (Shape::Runs, 0) => 30_000,
        (_, 0..4) => 3_000,
        _ => 300,
    };
    let body: Vec<u8> = (0..bytes).map(|at| (number % 251 * 31 + at * 7) as u8).collect();
    Item::new().with("k", name(number)).with("body", body)
}

/// Puts pipelined items from `first` on; returns what each came to.
fn put_round(shape: Shape, client: &mut Client, table: u64, first: u64) -> BTreeMap<u64, Answer> {
    let mut asked = BTreeMap::new();
    for number in first..first + ROUND {
        let bytes = item(shape, number).to_bytes().unwrap();
        asked.insert(client.queue(&client::put(table, &bytes)), number);
    }
    client.flush().unwrap();
    let answers = (0..ROUND).map(|_| client.receive().unwrap());
    answers.map(|(correlation, answer)| (asked[&correlation], answer)).collect()
}

/// Puts new items until one is refused because the disk is full; returns the acknowledged ones.
fn fill(shape: Shape, client: &mut Client, table: u64, first: u64) -> Vec<u64> {
    let mut stored = Vec::new();
    let begun = Instant::now();
    for round in 0.. {
        let mut full = false;
        assert!(
            begun.elapsed() < PATIENCE,
            "neither full nor taking writes after {} items",
            stored.len()
        );
        for (number, answer) in put_round(shape, client, table, first + round * ROUND) {
            match answer {
                Answer::Written(_) => stored.push(number),
                Answer::Refused { code: ErrorCode::DiskFull, message, .. } => {
                    assert!(message.contains("room") || message.contains("full"), "{message}");
                    full = true;
                }
                Answer::Refused { code: ErrorCode::Overloaded, retry_after, .. } => {
                    std::thread::sleep(retry_after);
                }
                other => panic!("put {number} came to {other:?}"),
            }
        }
        if full {
            break;
        }
    }
    stored
}

/// Asks `count` things, [`ROUND`] at a time; answers come in any order.
fn pipelined(
    client: &mut Client,
    numbers: &[u64],
    mut ask: impl FnMut(&mut Client, u64) -> u64,
    mut take: impl FnMut(u64, Answer),
) {
    for round in numbers.chunks(ROUND as usize) {
        let asked: BTreeMap<u64, u64> =
            round.iter().map(|number| (ask(client, *number), *number)).collect();
        client.flush().unwrap();
        for _ in round {
            let (correlation, answer) = client.receive().unwrap();
            take(asked[&correlation], answer);
        }
    }
}

fn assert_all_there(
    shape: Shape,
    client: &mut Client,
    table: u64,
    stored: &[u64],
    deleted: &[u64],
) {
    let mut ask =
        |client: &mut Client, n| client.queue(&client::get(table, &client::key(&name(n))));
    pipelined(client, stored, &mut ask, |number, answer| {
        assert!(answer.got() == Some(item(shape, number)), "item {number} is not as it was put");
    });
    pipelined(client, deleted, &mut ask, |number, answer| {
        assert_eq!(answer.got(), None, "item {number} was deleted");
    });
}

fn delete_all(client: &mut Client, table: u64, numbers: &[u64]) {
    let ask = |client: &mut Client, n| client.queue(&client::delete(table, &client::key(&name(n))));
    pipelined(client, numbers, ask, |number, answer| {
        assert_eq!(answer, Answer::Written(None), "the delete of {number}");
    });
}

/// Tries to put `number` until it is taken.
#[track_caller]
fn put_when_there_is_room(shape: Shape, client: &mut Client, table: u64, number: u64) -> Duration {
    let begun = Instant::now();
    loop {
        match client.put(table, &item(shape, number)) {
            Answer::Written(_) => return begun.elapsed(),
            Answer::Refused { code: ErrorCode::DiskFull | ErrorCode::Overloaded, .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < PATIENCE, "still refused");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_refuses_puts_by_name_and_keeps_everything() {
    fill_and_free(Shape::OneBlock);
}

#[test]
fn a_full_disk_in_pieces_refuses_puts_by_name_and_keeps_everything() {
    fill_and_free(Shape::Runs);
}

fn fill_and_free(shape: Shape) {
    let Some(dir) = scratch() else { return };
    let Some(disk) = SmallDisk::new(&dir.path().join("image"), DISK_BYTES) else { return };
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    for _ in 0..FILLER_BYTES >> 20 {
        file.write_all(&[7; 1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let (data, config) = (disk.path().join("data"), dir.path().join("forebay.toml"));
    smallest_config(&config, &data, 1);

    let node = Node::configured(&config);
    let mut client = Client::connect(node.native()).unwrap();
    let table = client.create_table("full").id.0;
    let mut stored = fill(shape, &mut client, table, 0);
    assert!(stored.len() > 1000, "{} items fill the disk", stored.len());
    // The pages file grows in steps; what a step could not take is left to other files.
    fill_the_rest(disk.path());
    stored.extend(fill(shape, &mut client, table, 1 << 20));
    assert_all_there(shape, &mut client, table, &stored, &[]);
    let filled = stored.len();

    // Deletes are taken, and reads see them.
    let mut deleted: Vec<u64> = stored.split_off(filled - filled / 16);
    delete_all(&mut client, table, &deleted);
    assert_all_there(shape, &mut client, table, &stored[..100], &deleted);

    // A killed and a stopped node both come back on the full disk.
    let mut node = node;
    node.kill();
    assert_eq!(node.end().0.code(), None);
    let node = Node::configured(&config);
    let mut client = Client::connect(node.native()).unwrap();
    assert_all_there(shape, &mut client, table, &stored, &deleted);
    node.stop();
    let node = Node::configured(&config);
    let mut client = Client::connect(node.native()).unwrap();
    assert_all_there(shape, &mut client, table, &stored, &deleted);
    let again_full = fill(shape, &mut client, table, 1 << 32);
    stored.extend(&again_full);

    // What deletes free is used again, without any help from the file system.
    let more = stored.split_off(stored.len() / 2);
    delete_all(&mut client, table, &more);
    deleted.extend(more);
    let after_deletes = put_when_there_is_room(shape, &mut client, table, 1 << 40);
    stored.push(1 << 40);
    stored.extend(fill(shape, &mut client, table, 1 << 41));
    assert_eq!(disk.free_bytes(), 0, "all of it without another byte of the disk");

    // And so is what other files give back.
    fs::remove_file(&filler).unwrap();
    let after_freeing = put_when_there_is_room(shape, &mut client, table, 1 << 50);
    stored.push(1 << 50);
    // The node asks the file system about once a second, and refuses by name until then.
    let (begun, before) = (Instant::now(), stored.len());
    for again in 0.. {
        stored.extend(fill(shape, &mut client, table, (1 << 51) + (again << 32)));
        let taken = stored.len() - before;
        if taken > 1_000 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{taken} items more in {FILLER_BYTES} bytes freed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_all_there(shape, &mut client, table, &stored, &deleted);
    node.stop();
    let node = Node::configured(&config);
    let mut client = Client::connect(node.native()).unwrap();
    assert_all_there(shape, &mut client, table, &stored, &deleted);
    node.stop();
    println!(
        "full after {filled} items; {} items in the end; a put was taken {} ms after deletes and \
         {} ms after other files were removed",
        stored.len(),
        after_deletes.as_millis(),
        after_freeing.as_millis()
    );
}

/// Writes another file until the file system takes nothing more.
fn fill_the_rest(at: &std::path::Path) {
    let mut file = File::create(at.join("rest")).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        while file.write_all(&vec![9; bytes]).is_ok() {}
    }
    let _ = file.sync_all();
}
