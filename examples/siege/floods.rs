//! Attacks that send one kind of messages without a pause, and members that hold streams open.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::attacks::{Attacker, put_lock};
use crate::raw::{
    ALLOC_ID_RANGE, EXCLUSIVE, FENCING_NUMBER, FILE_HANDLE, FILE_LOCK_CANCEL, FILE_LOCK_GET,
    FILE_LOCK_RECALL, FILE_LOCK_RETURN, GET_ID_OWNER, GET_NEW_VMID, HELLO, Identity, Lock, MARK,
    PID_KILL_ORDERED, PROCESS_CHANGE, PROCESS_QUERY, RELEASE_ID_RANGE, Raw, SHARED, SUCCESSION,
    SYNC_CONFIRM_DOWNGRADE, SYNC_REQUEST_DOWNGRADE, SYNC_REQUEST_UPGRADE, WHO_LEADS, WRITE,
    connect, numbers,
};
use crate::run::RECALL_LIMIT;

/// The number of messages that a member sends before the next one does.
const BURST: u32 = 64;

/// The VMIDs above this one are chosen by the attackers themselves.
pub(crate) const OWN_VMID_BASE: u32 = 1_000_000;

/// The greatest length of a shared value in bytes, at the default limits and at LARGE limits.
const VALUE_LENGTH: usize = 1024;

/// The greatest length of a path that the leader accepts, in bytes.
const PATH_LENGTH: usize = 4000;

impl Attacker<'_> {
    /// Sends messages as all members, without a pause. `put` adds one message of a member; it gets the number of the
    /// message. A member whose connection the leader has closed connects again with another VMID.
    fn flood(&self, mut put: impl FnMut(&mut Raw, Identity, u32)) -> Result<()> {
        let mut members = Vec::new();
        for (number, identity) in self.identities.iter().enumerate() {
            members.push((self.join(number)?, *identity));
        }
        let (mut number, mut vmid) = (0_u32, OWN_VMID_BASE);
        while !self.is_over() {
            for (raw, identity) in &mut members {
                match raw.send() {
                    Ok(true) => {
                        for _ in 0..BURST {
                            number = number.wrapping_add(1);
                            put(raw, *identity, number);
                        }
                        let _ = raw.send();
                    }
                    Ok(false) => {}
                    Err(_) => {
                        vmid += 1;
                        *identity = Identity { vmid, pid: 0 };
                        *raw = Raw::join(&self.options.base, *identity)?;
                    }
                }
                raw.drain();
            }
        }
        Ok(())
    }

    /// Returns each delegated file just before the recall limit.
    pub(crate) fn late_return(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let mut number = 0;
        // The time at which each recalled file is returned, and the payload of the recall.
        let mut recalled: Vec<(Instant, Vec<u8>)> = Vec::new();
        while !self.is_over() {
            self.request_delegations(&mut raw, &mut number);
            raw.send()?;
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {
                for (code, payload) in raw.take_frames() {
                    if code == FILE_LOCK_RECALL {
                        recalled.push((Instant::now() + RECALL_LIMIT * 9 / 10, payload));
                    }
                }
                while let Some((_, recall)) = recalled
                    .first()
                    .filter(|(return_at, _)| *return_at <= Instant::now())
                {
                    // The number of the delegation, and no locks.
                    let payload = [&recall[..8], &[0; 8]].concat();
                    raw.put_unanswered(FILE_LOCK_RETURN, &payload);
                    raw.send()?;
                    recalled.remove(0);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Has the leader search its whole table of processes: for a group that does not exist, or whether a
    /// group is orphaned, or whether it is of the session.
    pub(crate) fn process_scans(&self) -> Result<()> {
        self.flood(|raw, identity, number| match number % 3 {
            0 => raw.put(PROCESS_QUERY, &numbers(&[0, 77_777, 0, 0, 0, 0])),
            1 => raw.put(PROCESS_QUERY, &numbers(&[identity.pid, 0, 0, 0, 0, 0])),
            _ => raw.put(PROCESS_CHANGE, &numbers(&[0, identity.pid, 77_777])),
        })
    }

    /// Joins and leaves, again and again.
    pub(crate) fn churn(&self) -> Result<()> {
        let mut vmid = OWN_VMID_BASE;
        let mut members = Vec::new();
        while !self.is_over() {
            vmid += 1;
            let pid = vmid;
            members.push(Raw::join(&self.options.base, Identity { vmid, pid })?);
            if members.len() > 20 {
                members.drain(..10);
            }
        }
        Ok(())
    }

    /// Sends the messages of a succession, which this member must not send.
    pub(crate) fn succession(&self) -> Result<()> {
        self.flood(|raw, identity, number| {
            let number = number as usize;
            let code = SUCCESSION[number % SUCCESSION.len()];
            let zeros = [0_u8; 64];
            let length = match code {
                // Marks are allowed, and so they are the most frequent.
                MARK => 8,
                WHO_LEADS => 0,
                // The leader closes the stream after another message, which costs it more than a frame: so these are rare.
                _ if !number.is_multiple_of(8) => return raw.put(WHO_LEADS, &[]),
                _ => [8, 16, 32][number / 8 % 3],
            };
            let payload = [
                &numbers(&[1, 1, identity.vmid, 1])[..],
                &number.to_le_bytes(),
                &zeros,
            ];
            raw.put(code, &payload.concat()[..length]);
        })
    }

    /// Holds streams open that have sent nothing, half a VMID, half a frame, or half a HELLO.
    pub(crate) fn half_frames(&self) -> Result<()> {
        let mut raw = self.join(0)?;
        let mut streams = Vec::new();
        let mut number = 0_u32;
        while !self.is_over() {
            number += 1;
            let vmid = OWN_VMID_BASE + number;
            if let Ok(mut stream) = connect(&self.options.base, vmid) {
                // A part of a header, or a header and half of a HELLO.
                let half = match number % 2 {
                    0 => [&[100_u8, 0, 0, 0, 0, 0, 0, 0][..], &[7; 5]].concat(),
                    _ => [&[33, 0, 0, 0, 0, 0, 0, 0][..], &[0; 8], &[HELLO], &[1; 8]].concat(),
                };
                let _ = stream.write(&half);
                streams.push(stream);
            }
            for length in [0, 2] {
                streams.extend(Raw::open(&self.options.base, &[5, 6][..length]));
            }
            if streams.len() > 600 {
                streams.drain(..300);
            }
            raw.put(GET_ID_OWNER, &numbers(&[1]));
            raw.send()?;
            raw.drain();
        }
        Ok(())
    }

    /// Writes the longest values as some members in turn, and reads them as the others.
    pub(crate) fn values(&self) -> Result<()> {
        let mut members = Vec::new();
        for number in 0..self.identities.len() {
            members.push(self.join(number)?);
        }
        let payload = |handle: &[u8], state: u32, data: &[u8]| {
            let length = (data.len() as u64).to_le_bytes();
            [handle, &length, &numbers(&[state]), data, &[0; 4]].concat()
        };
        let value = vec![7; VALUE_LENGTH];
        while !self.is_over() {
            for (index, raw) in members.iter_mut().enumerate() {
                let is_writer = index.is_multiple_of(8);
                if !matches!(raw.send(), Ok(true)) {
                    continue;
                }
                for handle in 0..8_u64 {
                    let handle = ((1 << 41) | handle).to_le_bytes();
                    let state = if is_writer { EXCLUSIVE } else { SHARED };
                    raw.put_unanswered(SYNC_REQUEST_UPGRADE, &payload(&handle, state, &[]));
                }
                for (code, frame) in raw.take_frames() {
                    if code == SYNC_REQUEST_DOWNGRADE && frame.len() >= 20 {
                        let data = if is_writer { &value[..] } else { &[] };
                        let state = frame[16].into();
                        let payload = payload(&frame[..8], state, data);
                        raw.put_unanswered(SYNC_CONFIRM_DOWNGRADE, &payload);
                    }
                }
                let _ = raw.send();
            }
        }
        Ok(())
    }

    /// Locks files with the longest paths, which differ only at their ends.
    pub(crate) fn long_paths(&self) -> Result<()> {
        let prefix = "/x".repeat(PATH_LENGTH / 2);
        self.flood(|raw, identity, number| {
            let path = format!("{prefix}{}", number % 500);
            put_lock(raw, &path, (0, 0), identity.pid, WRITE, false);
        })
    }

    /// Gives open files to a member that does not read.
    pub(crate) fn open_files(&self) -> Result<()> {
        let to = self.identities[1].vmid;
        self.flood(|raw, identity, number| {
            let handle = (u64::from(identity.vmid) << 32) | u64::from(number % 40);
            let held = u32::from(!number.is_multiple_of(7));
            let vmid = if number.is_multiple_of(3) { 0 } else { to };
            let payload = [&handle.to_le_bytes()[..], &numbers(&[held, vmid])].concat();
            raw.put(FILE_HANDLE, &payload);
        })
    }

    /// Requests IDs and VMIDs, and releases IDs.
    pub(crate) fn ids(&self) -> Result<()> {
        self.flood(|raw, _, number| match number % 4 {
            0 => raw.put(GET_NEW_VMID, &[]),
            3 => {
                let first = 2 + 32 * (number % 4000);
                raw.put(RELEASE_ID_RANGE, &numbers(&[first, first + 31]));
            }
            _ => raw.put(ALLOC_ID_RANGE, &[]),
        })
    }

    /// Queues signals for members that do not answer.
    pub(crate) fn queued_signals(&self) -> Result<()> {
        let targets: Vec<_> = self
            .identities
            .iter()
            .map(|identity| identity.pid)
            .collect();
        self.flood(|raw, identity, number| {
            let target = targets[number as usize % targets.len()];
            let signal = 34 + number % 30;
            let kill = [identity.pid, target, target, signal, 1, 1];
            raw.put(PID_KILL_ORDERED, &numbers(&kill));
        })
    }

    /// Waits for locks and cancels the waits; queries conflicting locks and fencing numbers.
    pub(crate) fn cancels(&self) -> Result<()> {
        self.flood(|raw, identity, number| {
            let lock = Lock {
                path: "/siege/cancels",
                range: (0, u64::MAX),
                pid: identity.pid + number % 50,
                kind: WRITE,
                waits: true,
                number: 0,
            };
            match number % 8 {
                0 => raw.put(FILE_LOCK_GET, &lock.payload()),
                1 => raw.put(FENCING_NUMBER, &lock.payload()),
                2 => {
                    let last = raw.seq().saturating_sub(4);
                    raw.put_unanswered(FILE_LOCK_CANCEL, &last.to_le_bytes());
                }
                _ => put_lock(raw, lock.path, lock.range, lock.pid, WRITE, true),
            }
        })
    }
}
