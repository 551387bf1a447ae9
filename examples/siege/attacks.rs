//! The attacks: each is a member, or many, that makes requests which the protocol allows, in the
//! amount and order that cost the leader most.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::collisions;
use crate::common::seconds;
use crate::host::{Core, allow_many_files, pin, set_nice};
use crate::innocent::shared_file;
use crate::raw::{
    ALLOC_ID_RANGE, CHANGE_ID_OWNER, EXCLUSIVE, FILE_LOCK_CLEAR_PID, FILE_LOCK_DELEGATE,
    FILE_LOCK_SET, GET_ID_OWNER, GET_NEW_VMID, Identity, Lock, PID_KILL, PROCESS_START, READ, Raw,
    SYNC_REQUEST_UPGRADE, WRITE, connect, numbers,
};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Many waiting requests and locks of one member, and a flood of requests behind them
    DeadlockFlood,
    /// Requests that wait behind each other, then nothing more
    DeadlockIdle,
    /// As many locks and waiting requests as there is room for, then one request
    DeadlockDeep,
    /// A member that ends with many locks and waiting requests
    DeadlockDeath,
    /// Streams that claim the VMID of a peer which sends without a pause
    ClaimedVmid,
    /// Owners of locks that collide in the leader's hash tables, and their end
    Collisions,
    /// A member that does not return the files that were delegated to it
    UnreturnedDelegation,
    /// Signals for all from one member of many
    Broadcast,
    /// Signals for all from fifty members of many
    BroadcastFifty,
    /// A member that ends with many sync handles
    SyncDeath,
    /// A member that ends with many children
    ChildrenDeath,
    /// A member that returns the files that were delegated to it just before the limit
    LateReturn,
    /// Fifty members whose requests look at the whole table of processes
    ProcessScans,
    /// Members that join and leave without a pause
    Churn,
    /// Messages of a succession from members that have no part in it
    Succession,
    /// The same messages in a family that has heirs
    SuccessionWithHeirs,
    /// Members that are chosen as heirs, and do not read the log, confirm a wrong state, or end
    FalseHeirs,
    /// Streams that stay open with half a HELLO, half a frame, half a VMID, or nothing
    HalfFrames,
    /// Members that alternately write the longest values, and others that read them
    Values,
    /// Locks of files with the longest paths
    LongPaths,
    /// Open files for a member that does not read
    OpenFiles,
    /// Requests for IDs and VMIDs
    Ids,
    /// Signals for members that do not answer
    QueuedSignals,
    /// Waits for locks that are cancelled
    Cancels,
}

impl Attack {
    /// Returns the number of processes that the attacker pretends to be.
    pub(crate) fn members(self, is_large: bool, is_quick: bool) -> usize {
        match self {
            Attack::Broadcast | Attack::BroadcastFifty => match (is_large, is_quick) {
                (true, false) => 1000,
                (true, true) => 300,
                (false, _) => 60,
            },
            Attack::ProcessScans | Attack::Values => 50,
            Attack::Succession
            | Attack::SuccessionWithHeirs
            | Attack::LongPaths
            | Attack::OpenFiles
            | Attack::Ids
            | Attack::QueuedSignals
            | Attack::Cancels => 8,
            // The attacker makes these processes one after another.
            Attack::DeadlockDeath | Attack::SyncDeath | Attack::ChildrenDeath => 6,
            _ => 1,
        }
    }

    /// Returns true if the family has heirs.
    pub(crate) fn has_heirs(self) -> bool {
        matches!(self, Attack::SuccessionWithHeirs | Attack::FalseHeirs)
    }

    /// Returns true if the attacker wants the files that the innocent locks.
    pub(crate) fn shares_files(self) -> bool {
        matches!(self, Attack::UnreturnedDelegation | Attack::LateReturn)
    }
}

const FIRST_FILE: &str = "/siege/first";
const SECOND_FILE: &str = "/siege/second";
/// All bytes of a file: the first and the last.
const WHOLE_FILE: (u64, u64) = (0, u64::MAX);

/// The first pid of the owners of the attack's locks. No process of the family has these pids.
const FIRST_OWNER: u32 = 3_000_000;
/// The pid of the owner of the locks for which these owners wait.
const HOLDER: u32 = 2_999_999;
/// The first pid of the owners of requests that wait behind all others.
const FIRST_LATE_OWNER: u32 = 3_100_000;

/// The number of requests that are sent before the answers are read.
const BATCH: u64 = 64;

/// The pause between two ends of members.
const DEATH_PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Options {
    /// Where the family listens
    #[arg(long)]
    pub(crate) base: PathBuf,
    #[arg(long, value_enum)]
    attack: Attack,
    #[arg(long, value_parser = seconds)]
    seconds: Duration,
    #[arg(long, allow_negative_numbers = true)]
    nice: i32,
    /// The leader has LARGE limits
    #[arg(long)]
    pub(crate) large: bool,
    /// Use smaller tables
    #[arg(long)]
    quick: bool,
    /// The processes to pretend to be: VMID and pid of each
    #[arg(long, value_delimiter = ',', num_args = 1..)]
    identities: Vec<u32>,
}

/// An attacking process.
pub(crate) struct Attacker<'a> {
    pub(crate) options: &'a Options,
    /// The processes that it pretends to be.
    pub(crate) identities: Vec<Identity>,
    /// The time at which the attack ends.
    end: Instant,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    pin(Core::Second)?;
    allow_many_files()?;
    let identity = |pair: &[u32; 2]| Identity {
        vmid: pair[0],
        pid: pair[1],
    };
    let (pairs, _) = options.identities.as_chunks::<2>();
    let attacker = Attacker {
        options,
        identities: pairs.iter().map(identity).collect(),
        end: Instant::now() + options.seconds,
    };
    // The search is no part of the attack: on a busy machine it would take minutes at a low priority.
    let colliding = match options.attack {
        Attack::Collisions => attacker.colliding_pids(),
        _ => Vec::new(),
    };
    set_nice(options.nice)?;
    match options.attack {
        Attack::DeadlockFlood => attacker.deadlock_flood(),
        Attack::DeadlockIdle => attacker.deadlock_idle(),
        Attack::DeadlockDeep => attacker.deadlock_deep(),
        Attack::DeadlockDeath => attacker.deadlock_death(),
        Attack::ClaimedVmid => attacker.claimed_vmid(),
        Attack::Collisions => attacker.collisions(&colliding),
        Attack::UnreturnedDelegation => attacker.unreturned_delegation(),
        Attack::Broadcast => attacker.broadcast(1),
        Attack::BroadcastFifty => attacker.broadcast(50),
        Attack::SyncDeath => attacker.sync_death(),
        Attack::ChildrenDeath => attacker.children_death(),
        Attack::LateReturn => attacker.late_return(),
        Attack::ProcessScans => attacker.process_scans(),
        Attack::Churn => attacker.churn(),
        Attack::Succession | Attack::SuccessionWithHeirs => attacker.succession(),
        Attack::FalseHeirs => attacker.false_heirs(),
        Attack::HalfFrames => attacker.half_frames(),
        Attack::Values => attacker.values(),
        Attack::LongPaths => attacker.long_paths(),
        Attack::OpenFiles => attacker.open_files(),
        Attack::Ids => attacker.ids(),
        Attack::QueuedSignals => attacker.queued_signals(),
        Attack::Cancels => attacker.cancels(),
    }
}

impl Attacker<'_> {
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn sleep_until_end(&self) {
        sleep(self.end.saturating_duration_since(Instant::now()));
    }

    /// Connects to the leader as the process with that index.
    pub(crate) fn join(&self, index: usize) -> Result<Raw> {
        let identity = self.identities.get(index).context("too few identities")?;
        Raw::join(&self.options.base, *identity)
    }

    /// Returns the size of the attack at these limits.
    fn size<T>(&self, default: T, quick: T, large: T) -> T {
        match (self.options.large, self.options.quick) {
            (false, _) => default,
            (true, true) => quick,
            (true, false) => large,
        }
    }

    /// Makes `owners` owners that each read-lock a byte of the first file and wait for all of the
    /// second one, where one owner has `locks` locks of single bytes.
    fn make_waits(raw: &mut Raw, owners: u32, locks: u64) -> Result<()> {
        for number in 0..locks {
            let byte = 2 * number;
            put_lock(raw, SECOND_FILE, (byte, byte), HOLDER, WRITE, false);
            if number % BATCH == BATCH - 1 {
                raw.settle()?;
            }
        }
        for owner in 0..owners {
            let byte = u64::from(owner);
            put_lock(
                raw,
                FIRST_FILE,
                (byte, byte),
                FIRST_OWNER + owner,
                READ,
                false,
            );
            put_lock(
                raw,
                SECOND_FILE,
                WHOLE_FILE,
                FIRST_OWNER + owner,
                WRITE,
                true,
            );
        }
        raw.settle()
    }

    /// Adds requests for all of the first file, which wait behind its readers.
    fn wait_behind(raw: &mut Raw, count: u32) -> Result<()> {
        for owner in 0..count {
            let pid = FIRST_LATE_OWNER + owner;
            put_lock(raw, FIRST_FILE, WHOLE_FILE, pid, WRITE, true);
        }
        raw.settle()
    }

    fn deadlock_flood(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let (owners, locks) = self.size((62, 900), (500, 4000), (500, 20_000));
        Self::make_waits(&mut raw, owners, locks)?;
        while !self.is_over() {
            put_lock(
                &mut raw,
                FIRST_FILE,
                WHOLE_FILE,
                FIRST_LATE_OWNER,
                WRITE,
                true,
            );
            raw.put(FILE_LOCK_CLEAR_PID, &numbers(&[FIRST_LATE_OWNER]));
            raw.flush()?;
            raw.drain();
        }
        Ok(())
    }

    fn deadlock_idle(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let (owners, locks) = self.size((30, 950), (300, 4000), (300, 20_000));
        Self::make_waits(&mut raw, owners, locks)?;
        Self::wait_behind(&mut raw, owners)?;
        self.sleep_until_end();
        Ok(())
    }

    fn deadlock_deep(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let (owners, locks) = self.size((60, 900), (500, 4000), (500, 20_000));
        Self::make_waits(&mut raw, owners, locks)?;
        Self::wait_behind(&mut raw, 1)?;
        self.sleep_until_end();
        Ok(())
    }

    /// Makes members, one after another, that each run `attack` and end.
    fn deaths(&self, attack: impl Fn(&Self, &mut Raw) -> Result<()>) -> Result<()> {
        for number in 0..self.identities.len() {
            let mut raw = self.join(number)?;
            attack(self, &mut raw)?;
            raw.settle()?;
            drop(raw);
            if self.is_over() {
                break;
            }
            sleep(DEATH_PAUSE);
        }
        self.sleep_until_end();
        Ok(())
    }

    fn deadlock_death(&self) -> Result<()> {
        self.deaths(|attacker, raw| {
            let (owners, locks) = attacker.size((60, 400), (400, 4000), (400, 10_000));
            Self::make_waits(raw, owners, locks)?;
            Self::wait_behind(raw, 2)
        })
    }

    /// Sends look-ups as a member, and opens other streams that name the same VMID and send nothing.
    fn claimed_vmid(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let vmid = self.identities[0].vmid;
        let mut streams = Vec::new();
        while !self.is_over() {
            for _ in 0..256 {
                raw.put(GET_ID_OWNER, &numbers(&[1]));
            }
            if raw.send().is_err() {
                // The leader has closed the connection: the attack begins anew.
                raw = self.join(0)?;
            }
            raw.drain();
            streams.extend(connect(&self.options.base, vmid));
            if streams.len() > 16 {
                streams.clear();
            }
        }
        Ok(())
    }

    fn colliding_pids(&self) -> Vec<u32> {
        let (buckets, owners) = self.size((1024, 900), (65_536, 6000), (65_536, 30_000));
        collisions::pids(self.identities[0].vmid, buckets, owners)
    }

    /// Sets locks of colliding owners. The attack ends when the member has set them all.
    fn collisions(&self, pids: &[u32]) -> Result<()> {
        let mut raw = self.join(0)?;
        for (byte, pid) in (0_u64..).zip(pids) {
            put_lock(&mut raw, FIRST_FILE, (byte, byte), *pid, READ, false);
            if byte % BATCH == BATCH - 1 {
                raw.settle()?;
            }
        }
        raw.settle()
    }

    /// Requests the delegations of the next few files that the innocent member uses. `number` is that of the last request.
    pub(crate) fn request_delegations(&self, raw: &mut Raw, number: &mut u64) {
        for ahead in 1..5 {
            *number += 1;
            let lock = Lock {
                path: &shared_file(ahead),
                range: (0, 0),
                pid: self.identities[0].pid,
                kind: READ,
                waits: false,
                number: *number,
            };
            raw.put(FILE_LOCK_DELEGATE, &lock.payload());
        }
    }

    /// Requests delegations and never returns them. Each time the leader closes the connection the same process connects
    /// again.
    fn unreturned_delegation(&self) -> Result<()> {
        let mut number = 0;
        while !self.is_over() {
            let mut raw = self.join(0)?;
            while !self.is_over() {
                self.request_delegations(&mut raw, &mut number);
                if raw.send().is_err() {
                    break;
                }
                raw.drain();
                sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Sends signals for all from that many members.
    fn broadcast(&self, senders: usize) -> Result<()> {
        let mut members = Vec::new();
        for number in 0..self.identities.len() {
            members.push(self.join(number)?);
        }
        for raw in &mut members {
            raw.settle()?;
        }
        while !self.is_over() {
            for (raw, identity) in members.iter_mut().zip(&self.identities).take(senders) {
                // Target 3 is all; signal 10 is SIGUSR1.
                raw.put(PID_KILL, &numbers(&[identity.pid, 0, 0, 10, 3]));
                raw.send()?;
            }
            for raw in &mut members {
                raw.drain();
            }
        }
        Ok(())
    }

    fn sync_death(&self) -> Result<()> {
        self.deaths(|attacker, raw| {
            for number in 0..attacker.size(60_u64, 200, 200) {
                // The handle's number, the length of the data, the state, and reserved bytes.
                let handle = (1_u64 << 40) | number;
                let payload = [
                    &handle.to_le_bytes()[..],
                    &[0; 8],
                    &numbers(&[EXCLUSIVE, 0]),
                ]
                .concat();
                raw.put_unanswered(SYNC_REQUEST_UPGRADE, &payload);
            }
            Ok(())
        })
    }

    fn children_death(&self) -> Result<()> {
        self.deaths(|attacker, raw| {
            let mut ids = 0..0;
            for _ in 0..attacker.size(60, 300, 900) {
                if attacker.is_over() {
                    break;
                }
                if ids.is_empty() {
                    let range = read_numbers(&raw.call(ALLOC_ID_RANGE, &[])?);
                    ids = match range[..] {
                        [first, last] if first > 0 => first..last + 1,
                        _ => break,
                    };
                }
                let answer = read_numbers(&raw.call(GET_NEW_VMID, &[])?);
                let (Some(pid), &[vmid]) = (ids.next(), &answer[..]) else {
                    break;
                };
                raw.put(CHANGE_ID_OWNER, &numbers(&[pid, vmid]));
                raw.put(PROCESS_START, &numbers(&[vmid, pid]));
            }
            Ok(())
        })
    }
}

/// Adds a request for a record lock to those that [`Raw::send`] writes.
pub(crate) fn put_lock(
    raw: &mut Raw,
    path: &str,
    range: (u64, u64),
    pid: u32,
    kind: u32,
    waits: bool,
) {
    let lock = Lock {
        path,
        range,
        pid,
        kind,
        waits,
        number: 0,
    };
    raw.put(FILE_LOCK_SET, &lock.payload());
}

/// Returns the numbers of an answer.
fn read_numbers(payload: &[u8]) -> Vec<u32> {
    let (numbers, _) = payload.as_chunks::<4>();
    numbers
        .iter()
        .map(|number| u32::from_le_bytes(*number))
        .collect()
}
