//! The real machines, and the effect of a step on them: what a node does with their frames, in a few lines.

use std::mem::MaybeUninit;

use libos_ipc::file_locks::LockLimits;
use libos_ipc::leader::{
    Content, ImageCursor, Leader, LeaderCapacities, Op, Outcome, Outgoing, Presence,
    SMALLEST_SLICE, SentFrames, SignalLimits,
};
use libos_ipc::member::{Allocation, KeptFrames, OwnIds, Purpose};
use libos_ipc::shared_state::{Acquisition, Client, LeaseLimits, ServerMessage};
use libos_ipc::store::Arena;
use libos_ipc::wire::{
    Answer, Expected, FileLock, FrameReader, LockFamily, LockKind, Message, Rejoin, Rejoined,
    SyncNote, SyncState,
};
use libos_ipc::{Errno, Vmid};

use super::state::{Call, HEIR, Has, LEADER, PROCESSES, Process, Seen, Stage, Step, Thing};
use super::{Bug, Family};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 8,
    processes: 4,
    peers: 4,
    signals: SignalLimits {
        targets: 4,
        queued: 4,
    },
    locks: LockLimits {
        locks: 8,
        files: 2,
        waiting: 4,
        open_files: 0,
    },
    leases: LeaseLimits {
        handles: 1,
        clients: 4,
    },
    sync_data: 1,
    wrap_ids: true,
    roster: 4,
    ..LeaderCapacities::NONE
};

/// The bytes of frames that the heir keeps for each member, and the longest frame.
const QUEUE: usize = 1024;
const LONGEST: usize = 256;
const HANDLE: u64 = 7;
const REJOIN_SEQ: u64 = u64::MAX;

fn vmid(process: usize) -> Vmid {
    Vmid::new(u32::try_from(process).unwrap() + 1).unwrap()
}

fn place(vmid: Vmid) -> usize {
    vmid.get() as usize - 1
}

fn lock(kind: LockKind) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: 1,
        handle: 0,
        wait: kind == LockKind::Write,
        path: b"/a",
    }
}

fn frame_of(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut bytes = [0; LONGEST];
    let length = message.encode(seq, &mut bytes).unwrap();
    bytes[..length].to_vec()
}

fn answer_of(seq: u64, answer: &Answer<'_>) -> Vec<u8> {
    let mut bytes = [0; LONGEST];
    let length = answer.encode(seq, &mut bytes).unwrap();
    bytes[..length].to_vec()
}

/// The frame of the process that the operation applies, unless it is another operation.
fn counted_frame(op: &Op<'_>) -> Option<(usize, Vec<u8>)> {
    match *op {
        Op::Request {
            from, seq, message, ..
        } => Some((place(from), frame_of(seq, &message))),
        Op::Sync {
            from, code, sync, ..
        } => Some((place(from), frame_of(0, &Message::Sync(code, sync)))),
        _ => None,
    }
}

fn with_frame<T>(bytes: &[u8], read: impl FnOnce(u64, &Message<'_>) -> T) -> T {
    let mut room = [0; LONGEST];
    let mut reader = FrameReader::new(&mut room);
    reader.space()[..bytes.len()].copy_from_slice(bytes);
    reader.mark_filled(bytes.len());
    let frame = reader.peek().unwrap().unwrap();
    read(frame.seq, &frame.message().unwrap())
}

/// The machines of one process.
struct Machines<'m> {
    ids: OwnIds<'m>,
    client: Client<'m>,
    kept: KeptFrames<'m>,
}

pub(super) struct World<'m, 'f> {
    family: &'f Family,
    /// The tables of the old leader and those of its heir.
    leaders: [Leader<'m>; 2],
    sent: SentFrames<'m>,
    machines: Vec<Machines<'m>>,
    seen: Seen,
}

impl World<'_, '_> {
    fn wrong(&mut self, what: &'static str) {
        self.seen.wrong.get_or_insert(what);
    }

    fn process(&mut self, process: usize) -> &mut Process {
        &mut self.seen.processes[process]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { process, thing } => self.acquire(process, thing),
            Step::Release { process, thing } => self.release(process, thing),
            Step::Take { process } => {
                let frame = self.process(process).up.pop_front().unwrap();
                self.take(process, &frame);
            }
            Step::LogMessage => {
                self.seen.is_logging = false;
                self.log_message();
                self.send_output(LEADER);
            }
            Step::WriteLog => self.write_log(),
            Step::WriteFrame { process } => {
                let process = self.process(process);
                let frame = process.queue.pop_front().unwrap();
                process.down.push_back(frame);
            }
            Step::Receive { process } => {
                let frame = self.process(process).down.pop_front().unwrap();
                self.receive(process, &frame, true);
            }
            Step::Crash => self.crash(),
            Step::TakeOver => self.take_over(),
            Step::Rejoin { process } => self.ask_to_rejoin(process),
        }
    }

    /// # A process
    fn acquire(&mut self, process: usize, thing: Thing) {
        self.process(process).left -= 1;
        self.process(process).has.insert(thing, Has::Wanted);
        match thing {
            Thing::Id => self.request(process, Call::Range, &Message::AllocIdRange),
            Thing::Lock => {
                let message = Message::FileLockSet(lock(LockKind::Write));
                self.request(process, Call::Lock, &message);
            }
            Thing::Value => {
                let client = &mut self.machines[process].client;
                client.change_waiters(SyncState::Exclusive, 1);
                self.poll_value(process);
            }
        }
    }

    fn release(&mut self, process: usize, thing: Thing) {
        match thing {
            Thing::Id => {
                self.process(process).left -= 1;
                let id = self.process(process).id.take().unwrap();
                let ids = &mut self.machines[process].ids;
                // Its other IDs go back, too.
                let range = ids.release(id).unwrap().or_else(|| ids.take_idle_range());
                self.process(process).has.insert(thing, Has::No);
                let message = Message::ReleaseIdRange(range.unwrap());
                self.send(process, 0, &message);
            }
            Thing::Lock => {
                self.process(process).left -= 1;
                self.process(process).has.insert(thing, Has::Releasing);
                let message = Message::FileLockSet(lock(LockKind::Unlock));
                self.request(process, Call::Unlock, &message);
            }
            Thing::Value => {
                self.process(process).has.insert(thing, Has::No);
                self.seen.value += 1;
                let client = &mut self.machines[process].client;
                client.data_mut(1)[0] = self.seen.value;
                client.release(SyncState::Exclusive);
                self.send_client_messages(process);
            }
        }
    }

    fn request(&mut self, process: usize, call: Call, message: &Message<'_>) {
        let own = self.process(process);
        own.seq += 1;
        let (seq, number) = (own.seq, own.frames.len() + 1);
        own.calls.insert(seq, (call, number));
        self.send(process, seq, message);
    }

    /// Sends a counted frame to the leader, which may be the process itself.
    fn send(&mut self, process: usize, seq: u64, message: &Message<'_>) {
        let frame = frame_of(seq, message);
        let leader = self.seen.leader_of(process);
        let own = &mut self.seen.processes[process];
        own.frames.push(frame.clone());
        if own.stage == Stage::Leads {
            return self.execute(process, &frame);
        }
        let kept = &mut self.machines[process].kept;
        kept.keep(&frame);
        if seq != 0 {
            kept.note_request(seq, true);
        }
        // What is written to a leader that is dead is lost.
        let is_lost = leader == LEADER && !self.seen.is_old_alive;
        let own = &mut self.seen.processes[process];
        if own.stage == Stage::Led && !is_lost {
            own.up.push_back(frame);
        }
    }

    fn send_client_messages(&mut self, process: usize) {
        while let Some(outgoing) = self.machines[process].client.poll_transmit() {
            let client = &mut self.machines[process].client;
            let payload = client.payload(outgoing);
            let frame = frame_of(0, &Message::Sync(outgoing.code, payload));
            client.mark_sent(outgoing);
            with_frame(&frame, |seq, message| self.send(process, seq, message));
        }
    }

    /// Goes on with a call that waits for the value.
    fn poll_value(&mut self, process: usize) {
        if self.seen.processes[process].has(Thing::Value) == Has::Wanted {
            let client = &mut self.machines[process].client;
            match client.acquire(SyncState::Exclusive, true) {
                Acquisition::Acquired => {
                    client.change_waiters(SyncState::Exclusive, -1);
                    let value = client.data().first().copied().unwrap_or(0);
                    let (_, owner_died) = client.take_status();
                    self.process(process).has.insert(Thing::Value, Has::Held);
                    if value != self.seen.value {
                        self.wrong("a value that was released is lost");
                    }
                    if owner_died {
                        self.wrong("an owner died that did not");
                    }
                }
                Acquisition::Pending => {}
                _ => self.wrong("a value is refused without reason"),
            }
        }
        self.send_client_messages(process);
    }

    /// Receives a frame of the leader. `is_counted`: the process counts messages.
    fn receive(&mut self, process: usize, frame: &[u8], is_counted: bool) {
        with_frame(frame, |seq, message| match *message {
            Message::Response(payload) => self.receive_answer(process, seq, payload),
            Message::Sync(code, sync) => {
                let received = self.machines[process].client.on_message(code, &sync);
                if received.is_err() {
                    self.wrong("a message about the value that can't be");
                }
                self.process(process).received += u64::from(is_counted);
                self.poll_value(process);
            }
            _ => self.wrong("a message that nobody has asked for"),
        });
    }

    fn receive_answer(&mut self, process: usize, seq: u64, payload: &[u8]) {
        self.machines[process].kept.on_answer(seq);
        let own = &mut self.seen.processes[process];
        // An answer that was sent again, and had arrived.
        let Some((call, number)) = own.calls.remove(&seq) else {
            return;
        };
        if call != Call::Rejoin {
            own.answered = own.answered.max(number);
        }
        match call {
            Call::Range => {
                let ids = &mut self.machines[process].ids;
                let Ok(Answer::IdRange(range)) = Answer::decode(Expected::IdRange, payload) else {
                    panic!("no range");
                };
                let Allocation::Id(id) = ids
                    .add(range)
                    .map_or(Allocation::NeedRange, |()| ids.alloc(Purpose::Own))
                else {
                    return self.wrong("the range has no ID");
                };
                self.process(process).id = Some(id);
                self.process(process).has.insert(Thing::Id, Has::Held);
            }
            Call::Lock | Call::Unlock => {
                let result = Answer::decode(Expected::StatusOrEmpty, payload);
                if result != Ok(Answer::Status(Ok(0))) {
                    self.wrong("a lock is refused without reason");
                }
                let has = if call == Call::Lock {
                    Has::Held
                } else {
                    Has::No
                };
                self.process(process).has.insert(Thing::Lock, has);
            }
            Call::Rejoin => self.go_on(process, payload),
        }
    }

    /// # A leader
    /// Takes a frame of a process.
    fn take(&mut self, process: usize, frame: &[u8]) {
        let leader = self.seen.leader_of(process);
        with_frame(frame, |seq, message| match *message {
            Message::Rejoin(rejoin) => self.answer_rejoin(process, seq, &rejoin),
            _ => {
                if let Outcome::Answer(answer) = self.handle(leader, process, seq, message) {
                    self.put(process, answer_of(seq, &answer));
                }
            }
        });
        self.send_output(leader);
    }

    /// Executes a frame of the leader's own process.
    fn execute(&mut self, process: usize, frame: &[u8]) {
        let leader = self.seen.leader_of(process);
        let answer = with_frame(frame, |seq, message| {
            match self.handle(leader, process, seq, message) {
                Outcome::Answer(answer) => Some(answer_of(seq, &answer)),
                _ => None,
            }
        });
        if let Some(answer) = answer {
            self.receive(process, &answer, false);
        }
        self.send_output(leader);
    }

    fn handle(&mut self, leader: usize, from: usize, seq: u64, message: &Message<'_>) -> Outcome {
        let from = vmid(from);
        if let Message::Sync(code, sync) = *message {
            let outcome = self.apply(
                leader,
                &Op::Sync {
                    from,
                    code,
                    sync,
                    is_extended: true,
                },
            );
            if outcome != Outcome::Sync(Ok(())) {
                self.wrong("the server refuses a message");
            }
            return outcome;
        }
        loop {
            let outcome = self.apply(
                leader,
                &Op::Request {
                    from,
                    seq,
                    message: *message,
                    other: Presence::Absent,
                },
            );
            match outcome {
                Outcome::Remaining(_) => {}
                Outcome::Rejected => {
                    self.wrong("a request is refused without reason");
                    return outcome;
                }
                _ => return outcome,
            }
        }
    }

    /// Applies an operation to the tables of a leader.
    fn apply(&mut self, leader: usize, op: &Op<'_>) -> Outcome {
        let outcome = self.leaders[leader].apply(op);
        self.note_applied(leader, op, &outcome);
        let is_own = matches!(op, Op::Request { from, .. } if place(*from) == LEADER);
        if leader == LEADER && !(is_own && self.family.bug == Bug::OwnCallsNotLogged) {
            let mut bytes = [0; LONGEST];
            let length = op.encode(&mut bytes).unwrap();
            self.seen.log.push_back(bytes[..length].to_vec());
        }
        outcome
    }

    /// Checks that the frames of each process are applied once and in their order.
    fn note_applied(&mut self, leader: usize, op: &Op<'_>, outcome: &Outcome) {
        if matches!(outcome, Outcome::Remaining(_)) {
            return;
        }
        let Some((process, frame)) = counted_frame(op) else {
            return;
        };
        let applied = &mut self.seen.applied[leader][process];
        let number = *applied;
        *applied += 1;
        if self.seen.processes[process].frames.get(number) != Some(&frame) {
            self.wrong("a frame is applied twice, or is left out");
        }
        let taken = self.leaders[leader].taken(vmid(process));
        if taken.is_some_and(|taken| taken != number as u64 + 1) {
            self.wrong("the leader counts the frames otherwise");
        }
    }

    /// Queues what the tables have for the processes.
    fn send_output(&mut self, leader: usize) {
        while let Some((to, frame)) = self.next_output(leader) {
            let leads = self.seen.processes[to].stage == Stage::Leads;
            if leads {
                self.mark_transmitted(leader);
                self.receive(to, &frame, false);
                continue;
            }
            self.put(to, frame);
            if leader == LEADER {
                // Others may write the queue before this is logged.
                self.seen.is_logging = true;
                return;
            }
            self.mark_transmitted(leader);
        }
    }

    fn log_message(&mut self) {
        self.mark_transmitted(LEADER);
    }

    fn mark_transmitted(&mut self, leader: usize) {
        let id = self.leaders[leader].poll_transmit().unwrap().id;
        let op = Op::Transmitted {
            id,
            is_extended: true,
        };
        self.apply(leader, &op);
    }

    fn next_output(&mut self, leader: usize) -> Option<(usize, Vec<u8>)> {
        while self.leaders[leader].locks().has_releases() {
            self.apply(leader, &Op::ReleaseLocks);
        }
        let outgoing = self.leaders[leader].poll_transmit()?;
        Some((place(outgoing.to), outgoing_frame(&outgoing)))
    }

    /// Queues a frame for a member.
    fn put(&mut self, to: usize, frame: Vec<u8>) {
        if !self.seen.processes[to].awaits_rejoin {
            return self.process(to).queue.push_back(frame);
        }
        with_frame(&frame, |seq, message| match *message {
            Message::Response(payload) => {
                let answer = Answer::decode(Expected::StatusOrEmpty, payload).unwrap();
                self.sent.push_answer(vmid(to), seq, &answer);
            }
            _ => self.sent.push_message(vmid(to), seq, message),
        });
    }

    /// # The heir
    fn write_log(&mut self) {
        let record = self.seen.log.pop_front().unwrap();
        if self.seen.has_taken_over {
            // The heir has closed the log.
            return;
        }
        let (op, _) = Op::decode(&record).unwrap();
        let tables = &mut self.leaders[HEIR];
        self.sent.on_op(tables, &op);
        let outcome = tables.apply(&op);
        self.sent.after_op(tables, &op, &outcome);
        self.note_applied(HEIR, &op, &outcome);
    }

    /// # The succession
    fn crash(&mut self) {
        self.seen.is_old_alive = false;
        self.seen.is_logging = false;
        self.seen.log.clear();
        for process in &mut self.seen.processes {
            process.up.clear();
            process.queue.clear();
        }
        let old = self.process(LEADER);
        *old = Process {
            frames: core::mem::take(&mut old.frames),
            ..Process::new(0, Stage::Dead)
        };
    }

    fn take_over(&mut self) {
        let us = vmid(HEIR);
        self.seen.has_taken_over = true;
        // What the old leader had for this process.
        let mut own = Vec::new();
        let received = self.seen.processes[HEIR].received;
        self.sent.for_each_after(us, received, 0, |frame| {
            own.push(frame.to_vec());
            true
        });
        for frame in own {
            self.receive(HEIR, &frame, true);
        }
        let taken = self.leaders[HEIR].taken(us).unwrap();
        self.apply(HEIR, &Op::Succeed { to: us });
        let heir = self.process(HEIR);
        heir.stage = Stage::Leads;
        heir.epoch = 2;
        heir.up.clear();
        for member in HEIR + 1..PROCESSES {
            self.process(member).awaits_rejoin = true;
        }
        // The frames that the old leader has not taken.
        let kept = &mut self.machines[HEIR].kept;
        if !kept.covers(taken) {
            return self.wrong("the heir can't follow itself");
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
        self.apply(HEIR, &Op::Left(owner));
        self.reclaim_with(owner, 1, |owner, _| Op::RevokeGrants(owner));
        let left = self.leaders[HEIR].ranges_to_reclaim(owner);
        self.reclaim_with(owner, left, |owner, left| Op::ReclaimRanges { owner, left });
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

    fn ask_to_rejoin(&mut self, process: usize) {
        let kept = &self.machines[process].kept;
        let own = &mut self.seen.processes[process];
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
        own.up.clear();
        own.up.push_back(frame_of(REJOIN_SEQ, &rejoin));
    }

    fn answer_rejoin(&mut self, process: usize, seq: u64, rejoin: &Rejoin) {
        let member = vmid(process);
        let epoch = self.leaders[HEIR].epoch();
        let is_stale = rejoin.epoch >= epoch || !self.seen.processes[process].awaits_rejoin;
        let taken = self.leaders[HEIR].taken(member).unwrap();
        let is_covered = self.sent.covers(member, rejoin.received);
        let is_right = !is_stale && taken <= rejoin.sent && is_covered;
        let taken = is_right.then_some(taken).ok_or(Errno::ESTALE);
        let own = &mut self.seen.processes[process];
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
    fn go_on(&mut self, process: usize, payload: &[u8]) {
        let Ok(Answer::Rejoin(Rejoined { epoch, taken })) =
            Answer::decode(Expected::Rejoin, payload)
        else {
            panic!("no answer to REJOIN");
        };
        let kept = &mut self.machines[process].kept;
        let proven = proven(kept);
        let Some(mut taken) = taken.ok().filter(|taken| kept.covers(*taken)) else {
            return self.wrong("a member can't follow the new leader");
        };
        if self.family.bug == Bug::TakenIgnored {
            taken = proven;
        }
        kept.begin_resend(taken);
        let mut frames = resent(kept);
        if self.family.bug == Bug::KeptFrameLost && !frames.is_empty() {
            frames.remove(0);
        }
        let own = &mut self.seen.processes[process];
        let is_later = epoch > own.epoch;
        own.epoch = epoch;
        own.stage = Stage::Led;
        own.up.extend(frames);
        if !is_later {
            self.wrong("an epoch that is not later");
        }
    }

    /// # What is observed
    fn look(&mut self) {
        self.seen.digests = [0; 2];
        if self.seen.is_old_alive {
            self.seen.digests[LEADER] = self.leaders[LEADER].digest();
        }
        self.seen.digests[HEIR] = self.leaders[HEIR].digest();
        for (process, own) in self.seen.processes.iter_mut().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            let machines = &mut self.machines[process];
            own.lease = machines.client.current().number();
            own.value = machines.client.data().first().copied().unwrap_or(0);
            own.proven = proven(&machines.kept);
            own.kept_for.clear();
            self.sent.for_each_after(vmid(process), 0, 0, |frame| {
                own.kept_for.push(frame.to_vec());
                true
            });
        }
    }

    /// Checks what holds in every state.
    fn check(&mut self) {
        let [leader, heir] = self.seen.digests;
        let has_all = self.seen.log.is_empty() && !self.seen.has_taken_over;
        if self.seen.is_old_alive && has_all && leader != heir {
            self.wrong("the heir's state differs from the leader's");
        }
        for process in HEIR..PROCESSES {
            self.check_process(process);
        }
        let ids = self.seen.processes.iter().filter_map(|own| own.id);
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            self.wrong("two processes have one ID");
        }
        if self.seen.holders(Thing::Lock) > 1 {
            self.wrong("two processes hold the lock");
        }
        let exclusive = SyncState::Exclusive.number();
        let owners = self.seen.processes.iter();
        if owners.filter(|own| own.lease == exclusive).count() > 1 {
            self.wrong("two processes own the value");
        }
    }

    /// Checks that the leader, or if that dies now, the heir has what the process knows.
    fn check_process(&mut self, process: usize) {
        let (member, own) = (vmid(process), &self.seen.processes[process]);
        let tables = &mut self.leaders[HEIR];
        let mut wrong = None;
        if own.answered > self.seen.applied[HEIR][process] {
            wrong = Some("the heir does not know a request that was answered");
        }
        if own.stage == Stage::Led
            && tables
                .given(member)
                .is_some_and(|given| given < own.received)
        {
            wrong = Some("the heir does not know a message that was received");
        }
        if own.id.is_some_and(|id| tables.owner_of(id) != Some(member)) {
            wrong = Some("the heir does not know the owner of an ID");
        }
        if own.has(Thing::Lock) == Has::Held
            && !tables
                .locks()
                .has_write_lock(member, &lock(LockKind::Write))
        {
            wrong = Some("the heir does not know the holder of a lock");
        }
        if own.lease == SyncState::Exclusive.number()
            && !tables.leases().has_exclusive(member, HANDLE)
        {
            wrong = Some("the heir does not know the owner of the value");
        }
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
    }

    /// The state when nothing more can happen.
    fn at_last(&mut self) -> Option<&'static str> {
        let leader = usize::from(self.seen.has_taken_over);
        for (process, own) in self.seen.processes.iter().enumerate() {
            if own.stage == Stage::Dead {
                continue;
            }
            if self.seen.applied[leader][process] != own.frames.len() {
                return Some("a frame is never applied");
            }
            if own.stage == Stage::Led
                && self.leaders[leader].given(vmid(process)) != Some(own.received)
            {
                return Some("a message never arrives");
            }
            // One that has made all its requests keeps its lock.
            let is_locked = self.seen.holders(Thing::Lock) > 0;
            for (thing, has) in &own.has {
                let waits = matches!(has, Has::Wanted | Has::Releasing);
                if waits && !(*thing == Thing::Lock && *has == Has::Wanted && is_locked) {
                    return Some("a process waits for ever");
                }
            }
        }
        (!self.leaders[leader].check_invariants()).then_some("the tables are not sound")
    }
}

fn outgoing_frame(outgoing: &Outgoing<'_>) -> Vec<u8> {
    match outgoing.content {
        Content::Answer(seq, answer) => answer_of(seq, &answer),
        Content::Message(message) => frame_of(0, &message),
        Content::Sync(ServerMessage::Sync(code, sync)) => frame_of(0, &Message::Sync(code, sync)),
        Content::Sync(ServerMessage::OwnerDied(id)) => {
            let note = SyncNote::OwnerDied;
            frame_of(0, &Message::SyncNote { id, note })
        }
        Content::Exit(_) | Content::Signal(_) => panic!("{outgoing:?}"),
    }
}

/// The frames that are to be sent again.
fn resent(kept: &mut KeptFrames<'_>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !kept.next_to_resend().is_empty() {
        frames.push(kept.next_to_resend().to_vec());
        kept.mark_resent();
    }
    frames
}

/// The number of frames that are proven to have arrived.
fn proven(kept: &KeptFrames<'_>) -> u64 {
    (0..=kept.sent()).find(|taken| kept.covers(*taken)).unwrap()
}

/// Loads the leader's state into the tables of its heir.
fn fill(leader: &Leader<'_>, heir: &mut Leader<'_>) {
    let mut cursor = Some(ImageCursor::START);
    while let Some(at) = cursor {
        let mut slice = [0; 16 * SMALLEST_SLICE];
        let (length, next) = leader.save_slice(at, &mut slice).unwrap();
        heir.load_slice(&slice[..length]).unwrap();
        cursor = next;
    }
    heir.finish_load().unwrap();
}

/// Does the steps with new machines. Nothing more can happen after them if `is_last`.
pub(super) fn seen_after(family: &Family, steps: &[Step], is_last: bool) -> Seen {
    let mut tables = [(); 2].map(|()| Box::new_uninit_slice(Leader::bytes(&CAPACITIES)));
    let mut frames = Box::new_uninit_slice(SentFrames::bytes(PROCESSES, QUEUE) + 64);
    let own = KeptFrames::bytes(LONGEST, 8) + OwnIds::bytes(4) + 128;
    let mut memories = [(); PROCESSES].map(|()| vec![MaybeUninit::uninit(); own]);
    let mut data = [[0_u8; 1]; PROCESSES];
    let mut leaders = tables
        .each_mut()
        .map(|memory| Leader::new(&mut Arena::new(memory), &CAPACITIES).unwrap());
    for member in HEIR..PROCESSES {
        leaders[LEADER].apply(&Op::Connected(vmid(member)));
        if !family.has_image {
            leaders[HEIR].apply(&Op::Connected(vmid(member)));
        }
    }
    let [leader, heir] = &mut leaders;
    if family.has_image {
        fill(leader, heir);
    }
    let mut sent = SentFrames::new(&mut Arena::new(&mut frames), PROCESSES, QUEUE);
    sent.begin(heir);
    let machines = memories.iter_mut().zip(&mut data).map(|(memory, data)| {
        let mut arena = Arena::new(memory);
        let mut client = Client::new(data);
        client.open(HANDLE, true);
        Machines {
            ids: OwnIds::new(&mut arena, 4).unwrap(),
            client,
            kept: KeptFrames::new(&mut arena, LONGEST, 8),
        }
    });
    let processes = (0..PROCESSES).map(|process| {
        let stage = if process == LEADER {
            Stage::Leads
        } else {
            Stage::Led
        };
        Process::new(family.requests[process], stage)
    });
    let mut world = World {
        family,
        leaders,
        sent,
        machines: machines.collect(),
        seen: Seen {
            processes: processes.collect(),
            is_old_alive: true,
            has_taken_over: false,
            log: std::collections::VecDeque::new(),
            is_logging: false,
            digests: [0; 2],
            applied: [[0; PROCESSES]; 2],
            value: 0,
            wrong: None,
        },
    };
    for step in steps {
        world.step(*step);
    }
    world.look();
    world.check();
    if is_last && let Some(wrong) = world.at_last() {
        world.wrong(wrong);
    }
    world.seen
}
