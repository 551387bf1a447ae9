//! A leader like that of the C implementation, for IDs only: it knows codes 1 to 6, skips all
//! others, and never assigns an ID twice.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Id, Identity, Vmid};

/// The counts of the member's requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Ranges that were assigned.
    pub(crate) allocated: u32,
    /// Ranges that were released.
    pub(crate) released: u32,
    /// Requests about IDs that are not the member's, or about a range that is not in the table.
    pub(crate) wrong: u32,
}

/// The leader and its family.
pub(crate) struct CLeader {
    base: PathBuf,
    thread: JoinHandle<Counts>,
}

impl CLeader {
    /// Leads a family of one member, with that VMID.
    pub(crate) fn start(base: &Path, member: u32) -> CLeader {
        let address = |vmid: u32| PathBuf::from(format!("{}.{vmid}", base.display()));
        let listener = UnixListener::bind(address(1)).unwrap();
        let to = address(member);
        let thread = thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            let mut vmid = [0; 4];
            from.read_exact(&mut vmid).unwrap();
            assert_eq!(u32::from_le_bytes(vmid), member);
            let mut to = UnixStream::connect(to).unwrap();
            to.write_all(&1_u32.to_le_bytes()).unwrap();
            Table::default().serve(member, &mut from, &mut to)
        });
        CLeader {
            base: base.to_owned(),
            thread,
        }
    }

    /// Makes the member.
    pub(crate) fn member(&self, vmid: u32) -> HostNode {
        let identity = Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER);
        HostNode::start(&self.base, identity, Config::DEFAULT).unwrap()
    }

    /// Returns the counts after the member has ended.
    pub(crate) fn end(self) -> Counts {
        self.thread.join().unwrap()
    }
}

/// Ranges by their start, with end and owner.
#[derive(Default)]
struct Table {
    ranges: BTreeMap<Id, (Id, u32)>,
    highest: Id,
    counts: Counts,
}

impl Table {
    /// Answers until the member's stream ends.
    fn serve(mut self, member: u32, from: &mut UnixStream, to: &mut UnixStream) -> Counts {
        let mut header = [0; 17];
        loop {
            match from.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return self.counts,
                Err(error) => panic!("{error}"),
            }
            let size = u64::from_le_bytes(header[..8].try_into().unwrap());
            let mut payload = vec![0; usize::try_from(size).unwrap() - header.len()];
            from.read_exact(&mut payload).unwrap();
            let (numbers, _) = payload.as_chunks::<4>();
            let numbers: Vec<_> = numbers.iter().map(|n| u32::from_le_bytes(*n)).collect();
            let answer: Vec<u32> = match (header[16], &numbers[..]) {
                (3, []) => self.alloc(member).into(),
                (4, [start, end]) => {
                    self.release(member, *start, *end);
                    continue;
                }
                (5, [id, owner]) => {
                    self.change_owner(member, *id, *owner);
                    vec![]
                }
                (6, [id]) => vec![self.range_of(*id).map_or(0, |(_, _, owner)| owner)],
                _ => continue,
            };
            let answer: Vec<u8> = answer.iter().flat_map(|n| n.to_le_bytes()).collect();
            let size = (header.len() + answer.len()) as u64;
            let answer = [&size.to_le_bytes()[..], &header[8..16], &[0], &answer].concat();
            to.write_all(&answer).unwrap();
        }
    }

    fn alloc(&mut self, owner: u32) -> [u32; 2] {
        let start = self.highest + 1;
        self.highest += 32;
        self.ranges.insert(start, (self.highest, owner));
        self.counts.allocated += 1;
        [start, self.highest]
    }

    fn release(&mut self, owner: u32, start: Id, end: Id) {
        if self.ranges.get(&start) == Some(&(end, owner)) {
            self.ranges.remove(&start);
            self.counts.released += 1;
        } else {
            self.counts.wrong += 1;
        }
    }

    fn change_owner(&mut self, from: u32, id: Id, to: u32) {
        let Some((start, end, _)) = self.range_of(id).filter(|(_, _, owner)| *owner == from) else {
            self.counts.wrong += 1;
            return;
        };
        for (start, end, owner) in [(start, id - 1, from), (id, id, to), (id + 1, end, from)] {
            if start <= end {
                self.ranges.insert(start, (end, owner));
            }
        }
    }

    /// Returns the range that has the ID: its start, its end and its owner.
    fn range_of(&self, id: Id) -> Option<(Id, Id, u32)> {
        let (start, (end, owner)) = self.ranges.range(..=id).next_back()?;
        (id <= *end).then_some((*start, *end, *owner))
    }
}
