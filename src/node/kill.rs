//! Signals for any process of the family (`kill(2)`), and what is known of a pid.

use super::data::Data;
use super::embedder::{MetadataReply, Signal, SignalReply, Target};
use super::{Late, Node, Wait};
use crate::error::{Error, Resource, errno};
use crate::leader::{is_signal, signal_bit};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{
    Answer, KillTarget, Message, MetaCode, PidKill, ProcessQuery, ProcessState, codes,
};
use crate::{Id, Vmid};

/// How many owners a process remembers.
const OWNERS: usize = if cfg!(loom) { 1 } else { 64 };

/// Who owned an ID when this process last asked.
pub(crate) struct OwnerCache([(Id, Option<Vmid>); OWNERS]);

impl OwnerCache {
    pub(crate) const fn new() -> Self {
        OwnerCache([(0, None); OWNERS])
    }

    fn place(&mut self, id: Id) -> Option<&mut (Id, Option<Vmid>)> {
        let at = (id as usize).checked_rem(OWNERS)?;
        self.0.get_mut(at)
    }

    fn get(&mut self, id: Id) -> Option<Vmid> {
        self.place(id)
            .filter(|known| known.0 == id)
            .and_then(|known| known.1)
    }

    fn put(&mut self, id: Id, owner: Option<Vmid>) {
        if let Some(place) = self.place(id) {
            *place = (id, owner);
        }
    }
}

impl<P: Pal> Node<'_, P> {
    /// Sends a signal. `signal` 0 only asks whether it could be sent. The sender is the process
    /// that [joined](Node::join), or 0.
    ///
    /// A zombie child counts as signalled. A group is asked member by member: 0 if any could be
    /// signalled. [`Target::All`] goes to the leader, which passes it on to every member but this
    /// one and does not wait for them; if a member doesn't read for so long that its queue is
    /// full, equal signals become one, as with a kernel's pending signals. What is for a process that
    /// has not joined yet is kept by the leader until it has; what is for a thread of it is not.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a signal that isn't one, [`Error::NoSuchProcess`] if there is no
    /// such target, [`Error::Refused`] as the target's embedder says (`EPERM`); else as
    /// [`Node::ask`].
    pub fn kill(&self, target: Target, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        self.kill_as(self.pid().unwrap_or(0), target, signal, wait)
    }

    /// As [`Node::kill`], for that sender.
    pub(crate) fn kill_as(
        &self,
        sender: Id,
        target: Target,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.alive()?;
        if !is_signal(signal) {
            return Err(Error::Invalid);
        }
        let kill = |pid, id, target| PidKill {
            sender,
            pid,
            id,
            signal,
            target,
        };
        match target {
            Target::Thread { pid, tid } => self.kill_one(kill(pid, tid, KillTarget::Thread), wait),
            Target::Process(pid) => self.kill_one(kill(pid, pid, KillTarget::Process), wait),
            Target::Group(group) if self.is_known_process() => {
                self.kill_group(group, sender, signal, wait)
            }
            // As a process in C does it.
            Target::Group(group) => self.kill_one(kill(group, group, KillTarget::Group), wait),
            Target::All => self.kill_all(kill(0, 0, KillTarget::All), wait),
        }
    }

    fn kill_one(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        let is_zombie =
            || kill.target == KillTarget::Process && self.children.lock().is_zombie(kill.id);
        if is_zombie() {
            return Ok(());
        }
        let ask = || match self.at_owner(kill.pid, wait, |owner| self.kill_at(owner, kill, wait)) {
            // It died meanwhile.
            Err(Error::NoSuchProcess) if is_zombie() => Ok(()),
            outcome => outcome,
        };
        let outcome = ask();
        if outcome != Err(Error::NoSuchProcess) {
            return outcome;
        }
        // Perhaps it was only about to join.
        match self.process(kill.pid, wait).map(|process| process.state) {
            Ok(ProcessState::Starting) => self.kill_starting(kill, wait).or_else(|_| ask()),
            Ok(ProcessState::Running) => ask(),
            _ => outcome,
        }
    }

    /// A process that has not joined yet can't be asked: the leader passes the signal on when it
    /// has.
    fn kill_starting(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        self.change_process(&Message::PidKill(kill), wait)
    }

    fn kill_at(&self, owner: Vmid, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        let answer = if owner == self.identity.vmid {
            self.ask_here(codes::PID_KILL, &mut Data::none(), wait, |seq| {
                let reply = SignalReply { to: owner, seq };
                self.deliver(&Signal::read(owner, &kill), reply);
            })?
        } else {
            self.ask(owner, &Message::PidKill(kill), wait)?
        };
        match answer {
            Answer::Status(0) => Ok(()),
            Answer::Status(status) => Err(error_of(status)),
            _ => Err(Error::Invalid),
        }
    }

    /// Asks an ID's owner, who is looked up again if it is not who was thought.
    fn at_owner<T>(
        &self,
        id: Id,
        wait: Wait<'_>,
        mut ask: impl FnMut(Vmid) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let known = self.owners.lock().get(id);
        if let Some(owner) = known {
            match ask(owner) {
                Err(Error::NoSuchProcess | Error::LeaderGone) => {}
                outcome => return outcome,
            }
        }
        let owner = self.owner_of(id, wait)?;
        self.owners.lock().put(id, owner);
        match owner {
            Some(owner) if Some(owner) != known => ask(owner),
            _ => Err(Error::NoSuchProcess),
        }
    }

    fn kill_group(&self, group: Id, sender: Id, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        if group == 0 {
            return self.kill_own_group(sender, signal, wait);
        }
        let mut query = ProcessQuery {
            group,
            ..ProcessQuery::default()
        };
        let mut outcome = Err(Error::NoSuchProcess);
        // In the order of birth: a child that is started meanwhile has its turn, too.
        loop {
            let member = match self.query(&query, wait) {
                Ok(member) => member,
                // That was all.
                Err(Error::NoSuchProcess) => return outcome,
                Err(error) => return Err(error),
            };
            query.after = member.born;
            let kill = PidKill {
                sender,
                pid: member.pid,
                id: member.pid,
                signal,
                target: KillTarget::Process,
            };
            let one = match (Vmid::new(member.vmid), member.state) {
                (_, ProcessState::Zombie) => Ok(()),
                (_, ProcessState::Starting) => match self.kill_starting(kill, wait) {
                    // It has joined meanwhile.
                    Err(_) => self.kill_one(kill, wait),
                    done => done,
                },
                (Some(vmid), _) => self.kill_at(vmid, kill, wait),
                (None, _) => Err(Error::NoSuchProcess),
            };
            match one {
                Err(Error::TimedOut | Error::Interrupted | Error::ShuttingDown) => return one,
                // One that died meanwhile says nothing about the others.
                Err(Error::NoSuchProcess) => {}
                _ if outcome.is_ok() => {}
                one => outcome = one,
            }
        }
    }

    /// Nobody is without a group of its own: if that is empty another thread has just put this process
    /// into another.
    fn kill_own_group(&self, sender: Id, signal: i32, wait: Wait<'_>) -> Result<(), Error> {
        let mut group = self.group_of(0, wait)?;
        loop {
            let outcome = self.kill_group(group, sender, signal, wait);
            let before = group;
            if outcome != Err(Error::NoSuchProcess) {
                return outcome;
            }
            group = self.group_of(0, wait)?;
            if group == before {
                return outcome;
            }
        }
    }

    fn kill_all(&self, kill: PidKill, wait: Wait<'_>) -> Result<(), Error> {
        match self.identity.leader {
            None => {
                self.pass_on(self.identity.vmid, &kill);
                Ok(())
            }
            Some(leader) => match self.ask(leader, &Message::PidKill(kill), wait)? {
                Answer::Status(0) => Ok(()),
                Answer::Status(status) => Err(error_of(status)),
                _ => Err(Error::Invalid),
            },
        }
    }

    /// As the leader: passes a signal on to every member but the sender.
    pub(crate) fn pass_on(&self, from: Vmid, kill: &PidKill) {
        let Some(bit) = signal_bit(kill.signal) else {
            return;
        };
        let Some(leader) = &self.leader else { return };
        {
            // In one step: who joins just now gets it by one way or the other.
            let mut leader = leader.lock();
            leader.owe_to_starting(kill.sender, kill.signal);
            for peer in self.peers.all() {
                let has_ended = peer.ended.load(Ordering::SeqCst);
                if peer.vmid() != from && !has_ended && !leader.processes().is_starting(peer.vmid())
                {
                    peer.owe(bit, kill.sender);
                }
            }
        }
        for peer in self.peers.all() {
            self.pay(&peer);
            self.flush(&peer);
        }
    }

    /// What the user and group of a pid are, anywhere in the family.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if there is no such pid, [`Error::Refused`] as its process says;
    /// else as [`Node::ask`].
    pub fn credentials(&self, pid: Id, wait: Wait<'_>) -> Result<(u32, u32), Error> {
        self.alive()?;
        let mut data = [0; 8];
        if self.metadata(pid, MetaCode::Credentials, &mut data, wait)? != data.len() {
            return Err(Error::Invalid);
        }
        let number = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok((number(data.first_chunk()), number(data.last_chunk())))
    }

    /// A pid's executable, working directory or root, anywhere in the family. Returns the path's
    /// length; it stands at the start of `path`, without its NUL.
    ///
    /// # Errors
    /// As [`Node::credentials`]; [`Error::Invalid`] if `what` is no path or the path is longer
    /// than the buffer, which [`PATH_MAX`](crate::PATH_MAX) bytes are enough for;
    /// [`Error::Full`] at the limit of such calls at once.
    pub fn path_of(
        &self,
        pid: Id,
        what: MetaCode,
        path: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        self.alive()?;
        if what == MetaCode::Credentials {
            return Err(Error::Invalid);
        }
        let length = self.metadata(pid, what, path, wait)?;
        match path.get(..length).and_then(|path| path.split_last()) {
            Some((0, path)) if !path.contains(&0) => Ok(path.len()),
            _ => Err(Error::Invalid),
        }
    }

    /// Asks about a pid; the data stands at the start of `data`. Returns its length.
    pub(crate) fn metadata(
        &self,
        pid: Id,
        what: MetaCode,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        self.at_owner(pid, wait, |owner| {
            let mut data = Data {
                bytes: &mut *data,
                length: 0,
            };
            let answer = if owner == self.identity.vmid {
                self.ask_here(codes::PID_GETMETA, &mut data, wait, |seq| {
                    let reply = MetadataReply { to: owner, seq };
                    self.embedder.metadata(self, pid, what, reply);
                })?
            } else {
                let message = Message::PidGetMeta { pid, code: what };
                self.tell_short_limits(owner, wait)?;
                self.ask_with(owner, &message, Late::Drop, &mut data, wait)?
            };
            match answer {
                Answer::Meta { status: 0, .. } => Ok(data.length),
                // What was asked for is longer than what this process takes.
                Answer::Meta { status, .. } if status == -errno::EMSGSIZE => {
                    Err(Error::Full(Resource::FrameLength))
                }
                Answer::Meta { status, .. } => Err(error_of(status)),
                _ => Err(Error::Invalid),
            }
        })
    }
}

/// What a negative status stands for.
pub(super) fn error_of(status: i32) -> Error {
    match status.saturating_neg() {
        errno::ESRCH => Error::NoSuchProcess,
        errno::EINVAL => Error::Invalid,
        number => Error::Refused(number),
    }
}
