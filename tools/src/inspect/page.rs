//! `inspect page`: one page, whoever refers to it.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use forebay_storage::block::BLOCK_BYTES;
use forebay_storage::tree::page::{self, OVERFLOW_BLOCKS_MAX, PageView};
use forebay_storage::tree::{LEVEL_OVERFLOW, Value};

use super::Verdict;
use super::files::ShardDir;
use super::show::{escape, key};

/// Shows the page that begins at block `id`.
pub(super) fn show(shard: &ShardDir, id: u64, out: &mut dyn Write) -> io::Result<Verdict> {
    if id < 2 {
        writeln!(out, "block {id} is a superblock: see `inspect superblock`")?;
        return Ok(Verdict::Sound);
    }
    let mut first = vec![0; BLOCK_BYTES];
    let offset_bytes = id.saturating_mul(BLOCK_BYTES as u64);
    if let Err(error) = shard.pages()?.read_exact_at(&mut first, offset_bytes) {
        writeln!(out, "block {id} cannot be read: {error}")?;
        return Ok(Verdict::Sound);
    }
    let Some(reference) = page::self_reference(&first) else {
        let used = if first.iter().all(|&byte| byte == 0) { "zeros" } else { "other bytes" };
        writeln!(out, "block {id} does not begin a page: {used}, beginning with")?;
        writeln!(out, "  \"{}\"", escape(&first[..64]))?;
        return Ok(Verdict::Sound);
    };
    let blocks = usize::from(reference.blocks);
    writeln!(
        out,
        "page {}, {blocks} block(s), level {}, crc {:08x}",
        reference.id, reference.level, reference.crc
    )?;
    if !(1..=OVERFLOW_BLOCKS_MAX).contains(&blocks) {
        writeln!(out, "  DAMAGE: no page has {blocks} blocks")?;
        return Ok(Verdict::Damaged);
    }
    // Its own reference, but for the place: a misdirected write shows here.
    let expected = forebay_storage::tree::PageRef { id, ..reference };
    let buf = match shard.read_page(&expected) {
        Ok(buf) => buf,
        Err(error) => {
            writeln!(out, "  DAMAGE: {error}")?;
            return Ok(Verdict::Damaged);
        }
    };
    if let Err(error) = page::validate(&buf, &expected, shard.shard) {
        writeln!(out, "  DAMAGE: {error}")?;
        return Ok(Verdict::Damaged);
    }
    if reference.level == LEVEL_OVERFLOW {
        let item = page::overflow_item(&buf);
        writeln!(out, "  an item of {} bytes: \"{}\"", item.len(), escape(item))?;
        return Ok(Verdict::Sound);
    }
    entries(&PageView::new(&buf), out)?;
    Ok(Verdict::Sound)
}

fn entries(view: &PageView<'_>, out: &mut dyn Write) -> io::Result<()> {
    let totals = view.totals();
    writeln!(
        out,
        "  written by checkpoint {}, {} bytes used, {} entries, common prefix of {} bytes",
        view.birth(),
        view.used_bytes(),
        view.count(),
        view.prefix().len()
    )?;
    writeln!(out, "  below it: {} items, {} bytes", totals.items, totals.bytes)?;
    let mut bytes = Vec::new();
    for index in 0..view.count() {
        bytes.clear();
        view.key_into(index, &mut bytes);
        let what = if view.level() > 0 {
            let child = view.child(index);
            format!("page {}, {} items", child.page.id, child.totals.items)
        } else {
            match view.value(index) {
                Value::Inline(item) => format!("{} bytes", item.len()),
                Value::Overflow(extent) => {
                    format!("{} bytes in extent {}", extent.item_bytes, extent.page.id)
                }
            }
        };
        writeln!(out, "  {index:>4}  {}  {what}", key(&bytes))?;
    }
    Ok(())
}
