//! The death of the leader, the take-over, and the members that rejoin.

use libos_ipc::leader::{Op, Outcome};
use libos_ipc::wire::{Answer, Expected, Message, Rejoin, Rejoined};
use libos_ipc::{Errno, Vmid};

use super::Bug;
use super::frames::{answer_of, frame_of, proven, resent};
use super::state::{Call, HEIR, LEADER, PROCESSES, Process, Stage};
use super::system::{System, vmid};

/// The sequence number of REJOIN.
const REJOIN_SEQ: u64 = u64::MAX;

impl System<'_, '_> {
    pub(super) fn crash(&mut self) {
        self.observed.is_old_alive = false;
        self.observed.is_logging = false;
        self.observed.log.clear();
        for process in &mut self.observed.processes {
            process.to_leader.clear();
            process.queue.clear();
        }
        let old = self.process(LEADER);
        *old = Process {
            frames: core::mem::take(&mut old.frames),
            ..Process::new(0, Stage::Dead)
        };
    }

    pub(super) fn take_over(&mut self) {
        let own_vmid = vmid(HEIR);
        self.observed.has_taken_over = true;
        // The frames that the old leader had for this process.
        let mut unread = Vec::new();
        let received = self.observed.processes[HEIR].received;
        self.sent.for_each_after(own_vmid, received, 0, |frame| {
            unread.push(frame.to_vec());
            true
        });
        for frame in unread {
            self.receive(HEIR, &frame, true);
        }
        self.machines[HEIR].files.recall_all();
        self.return_files(HEIR);
        let taken = self.leaders[HEIR].taken(own_vmid).unwrap();
        self.apply(HEIR, &Op::Succeed { to: own_vmid });
        let heir = self.process(HEIR);
        heir.stage = Stage::Leading;
        heir.epoch = 2;
        heir.to_leader.clear();
        for member in HEIR + 1..PROCESSES {
            self.process(member).awaits_rejoin = true;
        }
        // The frames that the old leader has not taken.
        let kept = &mut self.machines[HEIR].kept;
        if !kept.covers(taken) {
            return self.fail("the heir can't follow itself");
        }
        kept.begin_resend(taken);
        for frame in resent(kept) {
            self.execute(HEIR, &frame);
        }
        if self.family.bug != Bug::DeadLeaderKept {
            self.reclaim(vmid(LEADER));
        }
        self.send_output(HEIR);
    }

    /// Reclaims what a process had, as a node does.
    fn reclaim(&mut self, owner: Vmid) {
        let portions: [fn(Vmid, u64) -> Op<'static>; 3] = [
            |owner, left| Op::ReclaimLocks { owner, left },
            |owner, left| Op::ReclaimLeases { owner, left },
            |owner, left| Op::ReclaimChildren { owner, left },
        ];
        for portion in portions {
            self.reclaim_with(owner, u64::MAX, portion);
        }
        self.reclaim_with(owner, 1, |owner, _| Op::RevokeGrants(owner));
        let left = self.leaders[HEIR].ranges_to_reclaim(owner);
        self.reclaim_with(owner, left, |owner, left| Op::ReclaimRanges { owner, left });
        self.apply(HEIR, &Op::Left(owner));
    }

    fn reclaim_with(&mut self, owner: Vmid, left: u64, op: fn(Vmid, u64) -> Op<'static>) {
        let mut left = left;
        while left > 0 {
            left = match self.apply(HEIR, &op(owner, left)) {
                Outcome::Remaining(left) => left,
                other => panic!("{other:?}"),
            };
        }
    }

    pub(super) fn ask_to_rejoin(&mut self, process: usize) {
        let kept = &self.machines[process].kept;
        let own = &mut self.observed.processes[process];
        let received = match self.family.bug {
            Bug::ReceivedForgotten => 0,
            _ => own.received,
        };
        let rejoin = Message::Rejoin(Rejoin {
            epoch: own.epoch,
            config: 1,
            pid: 0,
            waiting: kept.waiting(),
            sent: kept.sent(),
            received,
        });
        own.stage = Stage::Rejoining;
        own.calls.insert(REJOIN_SEQ, (Call::Rejoin, 0));
        own.to_leader.clear();
        own.to_leader.push_back(frame_of(REJOIN_SEQ, &rejoin));
    }

    pub(super) fn answer_rejoin(&mut self, process: usize, seq: u64, rejoin: &Rejoin) {
        let member = vmid(process);
        let epoch = self.leaders[HEIR].epoch();
        let is_stale = rejoin.epoch >= epoch || !self.observed.processes[process].awaits_rejoin;
        let taken = self.leaders[HEIR].taken(member).unwrap();
        let is_covered = self.sent.covers(member, rejoin.received);
        let is_right = !is_stale && taken <= rejoin.sent && is_covered;
        let taken = is_right.then_some(taken).ok_or(Errno::ESTALE);
        let own = &mut self.observed.processes[process];
        let answer = Answer::Rejoin(Rejoined { epoch, taken });
        own.awaits_rejoin = false;
        own.queue.push_back(answer_of(seq, &answer));
        if self.family.bug != Bug::NothingSentAgain {
            self.sent
                .for_each_after(member, rejoin.received, 0, |frame| {
                    own.queue.push_back(frame.to_vec());
                    true
                });
        }
    }

    /// Goes on with the new leader after its answer.
    pub(super) fn resume(&mut self, process: usize, payload: &[u8]) {
        let Ok(Answer::Rejoin(Rejoined { epoch, taken })) =
            Answer::decode(Expected::Rejoin, payload)
        else {
            panic!("no answer to REJOIN");
        };
        let kept = &mut self.machines[process].kept;
        let proven = proven(kept);
        let Some(mut taken) = taken.ok().filter(|taken| kept.covers(*taken)) else {
            return self.fail("a member can't follow the new leader");
        };
        if self.family.bug == Bug::TakenIgnored {
            taken = proven;
        }
        kept.begin_resend(taken);
        let mut frames = resent(kept);
        if self.family.bug == Bug::KeptFrameLost && !frames.is_empty() {
            frames.remove(0);
        }
        let own = &mut self.observed.processes[process];
        let is_later = epoch > own.epoch;
        own.epoch = epoch;
        own.stage = Stage::Following;
        own.to_leader.extend(frames);
        if !is_later {
            self.fail("an epoch that is not later");
        }
    }
}
