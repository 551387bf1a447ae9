//! The content of the recordings.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use libos_ipc::host::trace::{Recorder, Recording, TracedPal, merge};
use libos_ipc::pal::{ConnectError, Pal, Stream, StreamError};
use libos_ipc::testing::fault_injector::{FaultInjector, Faults};
use nix::sys::stat::Mode;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::tape::{Net, frame, vmid};

/// All faults that lose no connection.
const FAULTS: Faults = Faults {
    short_read: 500,
    short_write: 500,
    would_block: 300,
    interrupted: 200,
    connect_busy: 300,
    ..Faults::NONE
};

/// An entry: the recorder's header, and the bytes.
struct Entry {
    kind: u8,
    seen: u8,
    sender: u32,
    index: u64,
    sent: u64,
    received: u64,
    bytes: Vec<u8>,
}

fn entries(file: &Path) -> Vec<Entry> {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let mut entries = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let u64_at =
                |at: usize| u64::from_le_bytes(packet.data[at..at + 8].try_into().unwrap());
            assert_eq!(packet.data[0], 1, "the version");
            entries.push(Entry {
                kind: packet.data[1],
                seen: packet.data[2],
                sender: u32::from_le_bytes(packet.data[4..8].try_into().unwrap()),
                index: u64_at(16),
                sent: u64_at(24),
                received: u64_at(32),
                bytes: packet.data[40..].to_vec(),
            });
        }
    }
    entries
}

fn connect<P: Pal>(pal: &P) -> P::Stream {
    loop {
        match pal.connect(vmid(2)) {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error, ConnectError::Busy),
        }
    }
}

/// Writes all bytes to a stream, and returns the received ones.
fn transfer(out: impl Stream, inward: &impl Stream, net: &Net, bytes: &[u8]) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    let mut buffer = [0; 100];
    let mut out = Some(out);
    loop {
        net.advance(std::time::Duration::from_nanos(100));
        if let Some(stream) = &out {
            let part = &bytes[sent..bytes.len().min(sent + 150)];
            let (first, second) = part.split_at(part.len() / 3);
            sent += stream.write(&[first, second]).unwrap_or(0);
        }
        if sent == bytes.len() {
            out = None;
        }
        match inward.read(&mut buffer) {
            Ok(0) => return got,
            Ok(count) => got.extend(&buffer[..count]),
            Err(StreamError::Closed) => panic!("the stream broke"),
            Err(_) => {}
        }
    }
}

#[test]
fn frames_that_come_in_pieces_are_recorded_whole_and_once() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..20 {
        let [one, two, both] = ["one", "two", "both"].map(|name| directory.path().join(name));
        let recorders = [&one, &two].map(|file| Recorder::create(file).unwrap());
        let net = Box::new(Net::new());
        let pals = [1, 2].map(|n| {
            FaultInjector::new(net.join(vmid(n)).unwrap(), FAULTS, seed * 2 + u64::from(n))
        });
        let from = TracedPal::new(&pals[0], vmid(1), Some(&recorders[0]));
        let to = TracedPal::new(&pals[1], vmid(2), Some(&recorders[1]));
        let mut random = fastrand::Rng::with_seed(seed);
        let frames: Vec<_> = (0..200)
            .map(|seq| frame(seq, random.u8(..), &vec![seq as u8; random.usize(0..60)]))
            .collect();
        let bytes = [&1_u32.to_le_bytes()[..], &frames.concat()].concat();
        let out = connect(&from);
        let inward = loop {
            if let Ok(stream) = to.accept() {
                break stream;
            }
        };
        assert_eq!(transfer(out, &inward, &net, &bytes), bytes);
        drop((from, to));
        for recorder in recorders {
            let expected = Recording {
                entries: 200,
                lost: 0,
            };
            assert_eq!(recorder.finish().unwrap(), expected);
        }

        let merged = merge(&[one, two], &both).unwrap();
        assert_eq!(
            (merged.frames, merged.seen_twice, merged.others),
            (200, 200, 0)
        );
        let entries = entries(&both);
        for (number, (entry, frame)) in entries.iter().zip(&frames).enumerate() {
            assert_eq!(entry.index, number as u64);
            assert_eq!((entry.kind, entry.seen, entry.sender), (0, 3, 1));
            assert_eq!(&entry.bytes, frame);
            assert!(entry.sent <= entry.received, "it arrives after it went");
        }
        assert!(entries.is_sorted_by_key(|entry| entry.sent));
    }
}

/// A killed process leaves a file that ends anywhere.
#[test]
fn a_truncated_file_is_merged_up_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let exchanges: Vec<_> = (1..20).map(|seq| (frame(seq, 3, &[]), None)).collect();
    let file = crate::tape::record(directory.path(), &exchanges);
    let whole = fs::read(&file).unwrap();
    let to = directory.path().join("to");
    let mut last = 0;
    for length in 0..=whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        // A file that ends within the first block is no recording yet, or an empty one.
        let Ok(merged) = merge(std::slice::from_ref(&file), &to) else {
            assert!(length > 0 && length < 100, "{length} bytes");
            continue;
        };
        assert!(merged.frames >= last && merged.frames <= 19);
        last = merged.frames;
        assert_eq!(entries(&to).len(), merged.frames);
    }
    assert_eq!(last, 19);
}

/// A file with any bytes is merged or refused.
#[test]
fn a_file_of_another_format_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let exchanges: Vec<_> = (1..5).map(|seq| (frame(seq, 3, &[]), None)).collect();
    let file = crate::tape::record(directory.path(), &exchanges);
    let whole = fs::read(&file).unwrap();
    let to = directory.path().join("to");
    let refusal = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        merge(std::slice::from_ref(&file), &to)
            .unwrap_err()
            .to_string()
    };
    assert!(
        refusal(b"some text, which is no recording")
            .ends_with("tape.pcapng: it is not a pcapng file")
    );
    // The first block has the byte order after its kind and length.
    let mut other_order = whole.clone();
    other_order[8..12].reverse();
    assert!(refusal(&other_order).ends_with("it is not in little endian"));
    let mut no_length = whole.clone();
    no_length[4..8].copy_from_slice(&11_u32.to_le_bytes());
    assert!(refusal(&no_length).ends_with("a block has a length that cannot be"));
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut damaged = whole.clone();
        let at = random.usize(..damaged.len());
        damaged[at] = random.u8(..);
        fs::write(&file, &damaged).unwrap();
        // A damaged file may be merged or refused.
        let _ = merge(std::slice::from_ref(&file), &to);
    }
}

#[test]
fn a_full_disk_ends_the_recording_only() {
    let recorder = Recorder::create(Path::new("/dev/full")).unwrap();
    let net = Box::new(Net::new());
    let from = TracedPal::new(net.join(vmid(1)).unwrap(), vmid(1), Some(&recorder));
    let to = net.join(vmid(2)).unwrap();
    let out = from.connect(vmid(2)).unwrap();
    let inward = to.accept().unwrap();
    let mut bytes = 1_u32.to_le_bytes().to_vec();
    bytes.extend((0..5000).flat_map(|seq| frame(seq, 3, &[])));
    assert_eq!(transfer(out, &inward, &net, &bytes), bytes);
    let error = recorder.finish().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
}

/// 18 MB of frames: more than the two buffers of 4 MiB and the pipe hold.
const FRAMES: u64 = 1500;

/// On a disk that accepts nothing, frames without room are counted, in the file, too.
#[test]
fn a_slow_disk_loses_records_and_delays_no_frame() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // The pipe is open at both ends, so that neither side waits for the other to open it.
    let mut disk = File::options().read(true).write(true).open(&pipe).unwrap();
    let recorder = Recorder::create(&pipe).unwrap();
    let net = Box::new(Net::new());
    let from = TracedPal::new(net.join(vmid(1)).unwrap(), vmid(1), Some(&recorder));
    let to = net.join(vmid(2)).unwrap();
    let out = from.connect(vmid(2)).unwrap();
    let inward = to.accept().unwrap();
    out.write(&[&1_u32.to_le_bytes()]).unwrap();
    let big = frame(0, 200, &[7; 12_000]);
    let mut buffer = vec![0; big.len()];
    inward.read(&mut buffer).unwrap();
    for _ in 0..FRAMES {
        assert_eq!(out.write(&[&big]), Ok(big.len()));
        assert_eq!(inward.read(&mut buffer), Ok(big.len()));
    }
    // Now the disk accepts bytes again.
    let copy = directory.path().join("copy");
    let reading = std::thread::spawn({
        let copy = copy.clone();
        move || {
            let mut file = File::create(copy).unwrap();
            let mut buffer = vec![0; 65536];
            loop {
                let count = disk.read(&mut buffer).unwrap();
                std::io::Write::write_all(&mut file, &buffer[..count]).unwrap();
                if buffer[..count].ends_with(b"the end.") {
                    return;
                }
            }
        }
    });
    let end = recorder.finish().unwrap();
    fs::write(&pipe, b"the end.").unwrap();
    reading.join().unwrap();
    assert!(end.lost > 0, "{end:?}");
    assert_eq!(end.entries + end.lost, FRAMES);
    let bytes = fs::read(&copy).unwrap();
    fs::write(&copy, &bytes[..bytes.len() - 8]).unwrap();
    let lost: u64 = entries(&copy)
        .iter()
        .filter(|entry| entry.kind == 3)
        .map(|entry| entry.index)
        .sum();
    assert_eq!(lost, end.lost);
}

#[test]
fn without_a_recorder_nothing_is_recorded() {
    let net = Box::new(Net::new());
    let from = TracedPal::new(net.join(vmid(1)).unwrap(), vmid(1), None);
    let to = TracedPal::new(net.join(vmid(2)).unwrap(), vmid(2), None);
    let out = from.connect(vmid(2)).unwrap();
    let inward = to.accept().unwrap();
    assert_eq!(transfer(out, &inward, &net, b"any bytes"), b"any bytes");
}
