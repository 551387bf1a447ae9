//! Attacks on a family that has heirs: members that claim to be able to lead, and are no heirs.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::attacks::Attacker;
use crate::floods::OWN_VMID_BASE;
use crate::raw::{
    CAN_LEAD, DISMISS, FOLLOWS, GET_ID_OWNER, HEIR_READY, Identity, LIMITS, LOG, Raw, numbers,
};

/// The number of members that the leader may choose at a time.
const CANDIDATES: usize = 4;

/// The reaction of a candidate when it is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// The candidate does not read the log.
    IgnoreLog,
    /// The candidate confirms a state that is not the leader's.
    ConfirmWrongState,
    /// The candidate ends.
    Leave,
}

/// A member that the leader may choose as its heir.
struct Candidate {
    raw: Raw,
    reaction: Reaction,
    /// The streams of the leader's log, once it has connected.
    logs: Vec<UnixStream>,
    is_chosen: bool,
    /// The number of the operation whose state it has confirmed last.
    confirmed: u64,
}

impl Attacker<'_> {
    /// Keeps some candidates connected, which claim to be able to lead. One that is dismissed or leaves is replaced by
    /// another process.
    pub(crate) fn false_heirs(&self) -> Result<()> {
        let features = self.features_of_an_heir()?;
        let (mut vmid, mut chosen) = (OWN_VMID_BASE, 0);
        let mut join = || {
            vmid += 1;
            let mut raw = Raw::join_with(&self.options.base, Identity { vmid, pid: 0 }, features)?;
            // A member answers the limits of its leader with its own. The leader never chooses one that does not.
            raw.put_unanswered(LIMITS, &numbers(&[1, 0, u32::MAX, 0]));
            let reaction = match vmid % 4 {
                0 => Reaction::IgnoreLog,
                1 => Reaction::ConfirmWrongState,
                _ => Reaction::Leave,
            };
            Ok::<_, anyhow::Error>(Candidate {
                raw,
                reaction,
                logs: Vec::new(),
                is_chosen: false,
                confirmed: 0,
            })
        };
        let mut candidates = Vec::new();
        while !self.is_over() {
            while candidates.len() < CANDIDATES {
                candidates.push(join()?);
            }
            candidates.retain_mut(|candidate| {
                let is_here = candidate.act();
                chosen += u32::from(candidate.is_chosen && !is_here);
                is_here
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        // If no candidate was chosen the attack has not taken place.
        ensure!(chosen > 0, "no candidate was chosen and dismissed");
        Ok(())
    }

    /// Returns the features in the HELLO of a member that can lead, which the leader's own HELLO has.
    fn features_of_an_heir(&self) -> Result<u32> {
        let mut raw = self.join(0)?;
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(features) = raw.leader_features() {
                ensure!(features & CAN_LEAD != 0, "the leader has no heirs");
                return Ok(FOLLOWS | CAN_LEAD | features & !0xFF);
            }
            ensure!(Instant::now() < end, "the leader has sent no HELLO");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Candidate {
    /// Handles what has arrived, without waiting. Returns false if the candidate leaves, or if the leader has dismissed it or closed its
    /// connection.
    fn act(&mut self) -> bool {
        self.logs.extend(self.raw.accept());
        for (code, _) in self.raw.take_frames() {
            match code {
                LOG => self.is_chosen = true,
                DISMISS => return false,
                _ => {}
            }
        }
        if self.is_chosen && self.reaction == Reaction::Leave {
            return false;
        }
        if self.is_chosen && self.reaction == Reaction::ConfirmWrongState {
            let mut bytes = [0; 4096];
            for log in &mut self.logs {
                while matches!(log.read(&mut bytes), Ok(1..)) {}
            }
            self.confirmed += 1;
            // The number of the operation, and a wrong digest of the state.
            let payload = [self.confirmed.to_le_bytes(), [7; 8]].concat();
            self.raw.put_unanswered(HEIR_READY, &payload);
        }
        self.raw.put(GET_ID_OWNER, &numbers(&[1]));
        self.raw.send().is_ok()
    }
}
