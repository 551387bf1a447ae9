//! A leader: it takes frames, logs its operations, and has messages for processes. Its heir applies the log.

use libos_ipc::leader::{Op, Outcome, Presence};
use libos_ipc::wire::{Answer, Expected, FileLock, Message};

use super::Bug;
use super::frames::{MAX_FRAME, answer_of, counted_frame, frame_of, outgoing_frame, with_frame};
use super::state::{HEIR, LEADER, Stage};
use super::system::{System, place, vmid};

impl System<'_, '_> {
    /// Takes a frame of a process.
    pub(super) fn take(&mut self, process: usize, frame: &[u8]) {
        let leader = self.observed.leader_of(process);
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
    pub(super) fn execute(&mut self, process: usize, frame: &[u8]) {
        let leader = self.observed.leader_of(process);
        let answer = with_frame(frame, |seq, message| {
            let mut message = *message;
            if let Message::FileLockDelegate(lock) = message {
                // A leader delegates no file to its own process.
                message = Message::FileLockSet(FileLock { handle: 0, ..lock });
                let number = self.observed.applied[leader][process];
                self.process(process).frames[number] = frame_of(seq, &message);
            }
            match self.handle(leader, process, seq, &message) {
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
                self.fail("the server refuses a message");
            }
            return outcome;
        }
        loop {
            let outcome = self.apply(
                leader,
                &Op::Request {
                    from,
                    seq,
                    message,
                    other: Presence::Absent,
                },
            );
            match outcome {
                Outcome::Remaining(_) => {}
                Outcome::Rejected | Outcome::NotForLeader => {
                    self.fail("a request is refused without reason");
                    return outcome;
                }
                _ => return outcome,
            }
        }
    }

    /// Applies an operation to the tables of a leader.
    pub(super) fn apply(&mut self, leader: usize, op: &Op<'_>) -> Outcome {
        let outcome = self.leaders[leader].apply(op);
        self.note_applied(leader, op, &outcome);
        let is_own = matches!(op, Op::Request { from, .. } if place(*from) == LEADER);
        if leader == LEADER && !(is_own && self.family.bug == Bug::OwnCallsNotLogged) {
            let mut bytes = [0; MAX_FRAME];
            let length = op.encode(&mut bytes).unwrap();
            self.observed.log.push_back(bytes[..length].to_vec());
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
        let applied = &mut self.observed.applied[leader][process];
        let number = *applied;
        *applied += 1;
        if self.observed.processes[process].frames.get(number) != Some(&frame) {
            self.fail("a frame is applied twice, or is left out");
        }
        let taken = self.leaders[leader].taken(vmid(process));
        if taken.is_some_and(|taken| taken != number as u64 + 1) {
            self.fail("the leader counts the frames otherwise");
        }
    }

    /// Queues what the tables have for the processes.
    pub(super) fn send_output(&mut self, leader: usize) {
        while let Some((to, frame)) = self.next_output(leader) {
            let leads = self.observed.processes[to].stage == Stage::Leading;
            if leads {
                self.mark_transmitted(leader);
                self.receive(to, &frame, false);
                continue;
            }
            self.put(to, frame);
            if leader == LEADER {
                // Others may write the queue before this is logged.
                self.observed.is_logging = true;
                return;
            }
            self.mark_transmitted(leader);
        }
    }

    pub(super) fn mark_transmitted(&mut self, leader: usize) {
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
        if !self.observed.processes[to].awaits_rejoin {
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

    pub(super) fn write_log(&mut self) {
        let record = self.observed.log.pop_front().unwrap();
        if self.observed.has_taken_over {
            // The heir has closed the log.
            return;
        }
        let mut request = None;
        let (op, _) = Op::decode(&record, &mut request).unwrap();
        let tables = &mut self.leaders[HEIR];
        self.sent.before_op(tables, &op);
        let outcome = tables.apply(&op);
        self.sent.after_op(tables, &op, &outcome);
        self.note_applied(HEIR, &op, &outcome);
    }
}
