//! A real cluster with a page that a follower's disk has changed, and that nobody reads: the scrub finds it,
//! and the follower becomes whole again from the others.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use forebay_core::item::Item;
use forebay_storage::block::BLOCK_BYTES;
use support::nodes::{Layout, leads, metric, wait_for};
use support::process::{code, forebay, stdout};
use support::writers::create;
use support::{scratch, text};

const ITEMS: u64 = 400;

/// The first block of a leaf of the table's, on a node that does not run: one that the tree's root has.
fn a_leaf(data: &std::path::Path) -> u64 {
    let file = File::open(data.join("shard-0/pages")).unwrap();
    let blocks = file.metadata().unwrap().len() / BLOCK_BYTES as u64;
    let mut page = vec![0; BLOCK_BYTES];
    // Whatever leaf holds the filler: the newest of them, because trees are copied on write.
    let births = (2..blocks).filter_map(|block| {
        file.read_exact_at(&mut page, block * BLOCK_BYTES as u64).unwrap();
        let leaf = &page[4..8] == b"FBpg" && page[9] == 1;
        let holds = page.windows(6).any(|bytes| bytes == b"xxxxxx");
        let birth = u64::from_le_bytes(page[24..32].try_into().unwrap());
        (leaf && holds).then_some((birth, block))
    });
    births.max().expect("a checkpoint has it").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_that_nobody_reads_is_found_and_made_good() {
    let Some(dir) = scratch() else { return };
    let lines = "checkpoint_seconds = 1\nscrub_seconds = 2\n";
    let mut nodes = Layout::of(3).lines(lines).start(dir.path());
    nodes.init(3);
    let client = nodes.connect().await;
    let table = create(&client, "ledger", 1).await;
    let filler = "x".repeat(900);
    for number in 0..ITEMS {
        let item = Item::new().with("id", format!("{number}")).with("text", filler.as_str());
        table.put(&item).send().await.expect("it is written");
    }
    // Without reads and writes from here on, a page is looked at by the scrub only.
    for place in 0..3 {
        wait_for("scrubbed", || metric(&nodes, place, "scrub_passes_total") >= 2);
        assert_eq!(metric(&nodes, place, "scrub_damaged_pages_total"), 0);
    }
    let victim = (nodes.leader("ledger") + 1) % 3;
    // What the nodes do not write any more is whole on the disk when they are stopped in order.
    let data = nodes.data_dir(victim);
    nodes.kill(victim);
    let leaf = a_leaf(&data);
    let file = File::options().read(true).write(true).open(data.join("shard-0/pages")).unwrap();
    let (at, mut byte) = (leaf * BLOCK_BYTES as u64 + 1900, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_all().unwrap();
    let inspected = forebay(&["inspect", "tree", text(&data)]);
    assert_eq!((code(&inspected), stdout(&inspected).contains("DAMAGE")), (17, true));
    nodes.restart(victim);
    let begun = Instant::now();
    wait_for("found", || metric(&nodes, victim, "scrub_damaged_pages_total") == 1);
    wait_for("repaired", || {
        metric(&nodes, victim, "damage_pages_repaired_total") == 1
            && metric(&nodes, victim, "damage_members") == 0
    });
    eprintln!("found and made good after {} ms", begun.elapsed().as_millis());
    let groups = nodes.members();
    let led = groups
        .values()
        .flatten()
        .any(|(place, member)| *place == victim && member["table"] == "ledger" && leads(member));
    assert!(!led, "it follows, and nobody has asked it for anything");
    let passes = metric(&nodes, victim, "scrub_passes_total");
    wait_for("whole", || metric(&nodes, victim, "scrub_passes_total") >= passes + 2);
    assert_eq!(metric(&nodes, victim, "scrub_damaged_pages_total"), 1);
    nodes.wait_until_equal();
    for number in 0..ITEMS {
        let key = Item::new().with("id", format!("{number}"));
        let found = table.get(&key).consistent(true).send().await.expect("a leader answers");
        assert!(found.is_some(), "{number} was acknowledged");
    }
    nodes.stop();
    let inspected = forebay(&["inspect", "tree", text(&data)]);
    assert_eq!(code(&inspected), 0, "{}", stdout(&inspected));
}
