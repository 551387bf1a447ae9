//! Merges the files of several members to one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::vec::Vec;

use zerocopy::FromBytes;

use super::entry_header::{BY_RECEIVER, BY_SENDER, EntryHeader, Kind, VERSION};
use super::pcapng::{Next, Packets, write_interface};
use super::recorder::{begin_file, interface_name, write_entry};
use crate::invariant::{Count, OrBroken};

/// The counts of a merged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Frames, each counted once.
    pub frames: usize,
    /// Frames that both ends recorded.
    pub seen_twice: usize,
    /// Entries that are not a whole frame.
    pub others: usize,
    /// Frames that a member could not record.
    pub lost: u64,
    /// Files that end in mid-entry, since their process was killed.
    pub cut_off: usize,
}

/// An entry of a file.
struct MergedEntry<'f> {
    header: EntryHeader,
    bytes: &'f [u8],
    /// The entry is the second one of a frame that both ends recorded.
    is_duplicate: bool,
}

/// Merges the files of the members of one family to one file, in the order of time. A frame that
/// two files have is written once. The members must have the same clock. All files are held in
/// memory.
///
/// # Errors
/// If a file can't be read or written, or is not a recorder's. A truncated file is no error.
pub fn merge(from: &[PathBuf], to: &Path) -> io::Result<Merged> {
    let files: Vec<Vec<u8>> = from.iter().map(fs::read).collect::<io::Result<_>>()?;
    let mut merged = Merged::default();
    let (mut entries, mut origin) = (Vec::new(), None);
    for (bytes, path) in files.iter().zip(from) {
        let cut_off = read(bytes, &mut entries, &mut origin).map_err(|error| {
            let said = std::format!("{}: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, said)
        })?;
        merged.cut_off = merged.cut_off.saturating_add(cut_off.into());
    }
    merged.seen_twice = merge_pairs(&mut entries);
    entries.retain(|entry| !entry.is_duplicate);
    entries.sort_by_key(|entry| entry.header.time());
    for entry in &entries {
        if entry.header.is(Kind::Frame) {
            merged.frames.increment();
        } else if entry.header.is(Kind::Lost) {
            merged.lost = merged.lost.saturating_add(entry.header.index.get());
        } else {
            merged.others.increment();
        }
    }
    write(&entries, origin.unwrap_or(0), to)?;
    Ok(merged)
}

/// Adds the entries of a file. Returns true if it ends in mid-entry.
fn read<'f>(
    bytes: &'f [u8],
    entries: &mut Vec<MergedEntry<'f>>,
    origin: &mut Option<u64>,
) -> Result<bool, &'static str> {
    let mut packets = Packets::new(bytes);
    loop {
        let packet = match packets.next()? {
            Next::Packet(packet) => packet,
            Next::End => return Ok(false),
            Next::CutOff => return Ok(true),
        };
        let (header, bytes) =
            EntryHeader::read_from_prefix(packet.data).map_err(|_| "an entry is too short")?;
        if header.version != VERSION {
            return Err("an entry of another version");
        }
        origin.get_or_insert(packet.time.saturating_sub(header.time()));
        entries.push(MergedEntry {
            header,
            bytes,
            is_duplicate: false,
        });
    }
}

/// Finds for each received frame the sent one, and merges the two entries. Returns the number of
/// pairs.
fn merge_pairs(entries: &mut [MergedEntry<'_>]) -> usize {
    // Two members may have had several streams, so several frames have the same number. The
    // earliest equal one is used.
    let mut sent: HashMap<(u32, u32, u64), Vec<usize>> = HashMap::new();
    let key = |header: &EntryHeader| {
        (
            header.sender.get(),
            header.receiver.get(),
            header.index.get(),
        )
    };
    for (at, entry) in entries.iter().enumerate() {
        if entry.header.is(Kind::Frame) && entry.header.seen == BY_SENDER {
            sent.entry(key(&entry.header)).or_default().push(at);
        }
    }
    let mut found = 0_usize;
    for at in 0..entries.len() {
        let Some(&MergedEntry { header, bytes, .. }) = entries.get(at) else {
            continue;
        };
        if header.seen != BY_RECEIVER || !header.is(Kind::Frame) {
            continue;
        }
        let Some(candidates) = sent.get_mut(&key(&header)) else {
            continue;
        };
        let fits = |other: &usize| {
            entries
                .get(*other)
                .is_some_and(|other| other.bytes == bytes && other.header.sent <= header.received)
        };
        let Some(place) = candidates.iter().position(fits) else {
            continue;
        };
        let other = candidates.remove(place);
        if let Some(other) = entries.get_mut(other) {
            other.header.seen = BY_SENDER | BY_RECEIVER;
            other.header.received = header.received;
            found.increment();
        }
        if let Some(entry) = entries.get_mut(at) {
            entry.is_duplicate = true;
        }
    }
    found
}

fn write(entries: &[MergedEntry<'_>], origin: u64, to: &Path) -> io::Result<()> {
    let mut file = begin_file(File::create(to)?)?;
    let mut interfaces: HashMap<u32, u32> = HashMap::new();
    for MergedEntry { header, bytes, .. } in entries {
        let sender = header.sender.get();
        let next = u32::try_from(interfaces.len()).or_broken(u32::MAX);
        let number = *interfaces.entry(sender).or_insert(next);
        if number == next {
            write_interface(&mut file, &interface_name(sender))?;
        }
        write_entry(&mut file, number, origin, header, bytes)?;
    }
    file.flush()
}
