//! `inspect tree`: the catalog and every group's tree, each page read and verified.

use std::io::{self, Write};

use forebay_storage::store::catalog::{CatalogEntry, catalog_group};
use forebay_storage::tree::page::{self, PageView};
use forebay_storage::tree::verify::{Report, verify};
use forebay_storage::tree::{PageRef, TreeRef, Value};

use super::Verdict;
use super::files::ShardDir;
use super::show::{escape, key};
use crate::size::ByteSize;

/// Is given each item's key and bytes.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

/// Shows the shard's trees, or one group's.
pub(super) fn show(
    shard: &ShardDir,
    group: Option<u64>,
    items: bool,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let superblock = match shard.chosen()? {
        Ok(chosen) => chosen.superblock,
        Err(error) => {
            writeln!(out, "no superblock: {error}")?;
            return Ok(Verdict::Damaged);
        }
    };
    writeln!(out, "checkpoint {}, lsn {}", superblock.checkpoint, superblock.log_start.lsn)?;
    let mut verdict = report("catalog", shard, &superblock.catalog, out)?;
    let mut entries = Vec::new();
    for_each_item(shard, &superblock.catalog, &mut |key, item| {
        entries.push((key.to_vec(), item.to_vec()));
        Ok(())
    })?;
    let mut shown = false;
    for (key_bytes, value) in &entries {
        let decoded = catalog_group(key_bytes).zip(CatalogEntry::decode(value));
        let Some((id, entry)) = decoded else {
            writeln!(out, "catalog entry \"{}\" is unreadable", escape(key_bytes))?;
            verdict = Verdict::Damaged;
            continue;
        };
        if group.is_some_and(|group| group != id.0) {
            continue;
        }
        shown = true;
        writeln!(
            out,
            "\ngroup {id}: {} member(s), ballot {}, chosen_slot {}, applied_slot {}\n  \"{}\"",
            entry.members,
            entry.ballot,
            entry.chosen_slot,
            entry.applied_slot,
            escape(&entry.payload)
        )?;
        if entry.member.as_ref().is_some_and(|member| member.lost) {
            writeln!(out, "  its promises were lost with a damaged log: it is being replaced")?;
        }
        verdict = verdict.and(report("tree", shard, &entry.tree, out)?);
        if items {
            for_each_item(shard, &entry.tree, &mut |key_bytes, item| {
                writeln!(out, "    {}  {}", key(key_bytes), ByteSize(item.len() as u64))
            })?;
        }
    }
    if let Some(group) = group.filter(|_| !shown) {
        writeln!(out, "\nno group {group} in the catalog")?;
    }
    Ok(verdict)
}

fn report(
    what: &str,
    shard: &ShardDir,
    tree: &TreeRef,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let Some(root) = tree.root else {
        writeln!(out, "  {what}: empty")?;
        return Ok(Verdict::Sound);
    };
    let mut read = |page: &PageRef| shard.read_page(page);
    let found: Report = verify(shard.shard, tree, &mut read, &mut |_| {});
    let fill = found.used_bytes as f64 * 100.0 / found.page_bytes.max(1) as f64;
    writeln!(
        out,
        "  {what}: root page {}, {} level(s), {} items, {}, digest {:032x}",
        root.page.id,
        root.page.level + 1,
        found.totals.items,
        ByteSize(found.totals.bytes),
        found.totals.digest,
    )?;
    writeln!(
        out,
        "  {} leaves, {} interior pages, {} extents, {} blocks, {fill:.0} % full",
        found.leaves, found.interiors, found.extents, found.blocks
    )?;
    for damage in &found.damages {
        writeln!(out, "  DAMAGE: {damage}")?;
    }
    Ok(if found.damages.is_empty() { Verdict::Sound } else { Verdict::Damaged })
}

/// Calls `visit` with every item that can be read, in key order.
fn for_each_item(shard: &ShardDir, tree: &TreeRef, visit: &mut Visit<'_>) -> io::Result<()> {
    match &tree.root {
        Some(root) => for_each_below(shard, &root.page, visit),
        None => Ok(()),
    }
}

/// Levels fall by one from page to page (validated), so the recursion ends.
fn for_each_below(shard: &ShardDir, page: &PageRef, visit: &mut Visit<'_>) -> io::Result<()> {
    let Some(buf) = sound_page(shard, page) else { return Ok(()) };
    let view = PageView::new(&buf);
    let mut key = Vec::new();
    for index in 0..view.count() {
        if view.level() > 0 {
            for_each_below(shard, &view.child(index).page, visit)?;
            continue;
        }
        key.clear();
        view.key_into(index, &mut key);
        match view.value(index) {
            Value::Inline(item) => visit(&key, item)?,
            Value::Overflow(extent) => {
                if let Some(buf) = sound_page(shard, &extent.page) {
                    visit(&key, page::overflow_item(&buf))?;
                }
            }
        }
    }
    Ok(())
}

/// The page, unless it is damaged, which the report says.
fn sound_page(shard: &ShardDir, page: &PageRef) -> Option<forebay_storage::block::BlockBuf> {
    let buf = shard.read_page(page).ok()?;
    page::validate(&buf, page, shard.shard).ok()?;
    Some(buf)
}
