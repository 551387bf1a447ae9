//! The work of a guest as a process: the list of processes, locks, the shared board, its activities, signals.

use core::time::Duration;

use libos_ipc::pal::Deadline;
use libos_ipc::{Errno, Error, LockKind, Pid, Shared, Target, Vmid};
use libos_ipc_guest::{clock, print_line};

use crate::board::{BOARD, Board, FIRST, LIMIT, MEMBER, lock_of_ledger, own_bytes, step};
use crate::{Failed, Line, Member, OS, WAIT, While, activities, fault};

const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;

/// The number of measured round trips.
const ROUND_TRIPS: usize = 1000;

type SharedBoard<'n> = Shared<'n, 'static, Line, Board>;

/// A guest's work.
struct Guest<'n> {
    node: &'n Member,
    pid: Pid,
    party: usize,
    board: SharedBoard<'n>,
}

pub(crate) fn work(node: &'static Member, party: usize, fault: Option<&str>) -> Result<(), Failed> {
    let guest = Guest {
        node,
        pid: node.pid().ok_or(Failed::because("no pid"))?,
        party,
        board: node.share(Some(BOARD)).doing("opening the board")?,
    };
    guest.list()?;
    guest.measure()?;
    guest.reach(step::MEASURED)?;
    guest.first_bytes()?;
    guest.own_bytes()?;
    if let Some(how) = fault {
        return guest.fail(how);
    }
    guest.unlock_own_bytes()?;
    activities::run(node, guest.pid)?;
    guest.reach(step::COUNTED)?;
    guest.signal_others()
}

impl Guest<'_> {
    /// Writes this guest's step on the board.
    fn reach(&self, step: u64) -> Result<(), Failed> {
        let mut board = self.board.write(WAIT).doing("writing on the board")?;
        board.pids[self.party] = u64::from(self.pid.get());
        board.steps[self.party] = step;
        Ok(())
    }

    /// Waits until another party has reached a step. Returns its pid.
    fn wait_for(&self, party: usize, step: u64) -> Result<Pid, Failed> {
        let reached = |board: &Board| board.steps[party] >= step;
        let board = self
            .board
            .wait_for(WAIT, reached)
            .doing("waiting for another")?;
        let pid = u32::try_from(board.pids[party]).ok().and_then(Pid::new);
        pid.ok_or(Failed::because("a pid on the board is none"))
    }

    /// Prints the list of processes, as `ps` does.
    fn list(&self) -> Result<(), Failed> {
        let mut last = None;
        let mut found = false;
        while let Some(process) = self
            .node
            .next_process(last.as_ref(), WAIT)
            .doing("listing the family")?
        {
            print_line!(
                "  pid {:>3} parent {:>3} VMID {:>2} {:?}",
                process.pid,
                process.parent.map_or(0, Pid::get),
                process.vmid.map_or(0, Vmid::get),
                process.state
            );
            found |= process.pid == self.pid;
            last = Some(process);
        }
        if found {
            Ok(())
        } else {
            Err(Failed::because("this process is not in the list"))
        }
    }

    fn measure(&self) -> Result<(), Failed> {
        let mut times = [0; ROUND_TRIPS];
        for time in &mut times {
            let start = clock::now();
            self.node
                .owner_of(self.pid.get(), WAIT)
                .doing("asking the leader")?;
            *time = (clock::now() - start).as_nanos();
        }
        times.sort_unstable();
        let at = |percent: usize| times[ROUND_TRIPS * percent / 100];
        print_line!(
            "{ROUND_TRIPS} requests to the leader: half of them within {} µs",
            at(50) / 1000
        );
        print_line!("figure round-trip {}", at(50));
        print_line!("figure round-trip-90 {}", at(90));
        Ok(())
    }

    fn lock(&self, kind: LockKind, bytes: (u64, u64), wait: bool) -> Result<(), Error> {
        self.node
            .set_lock(&lock_of_ledger(self.pid.get(), kind, bytes, wait), WAIT)
    }

    /// Checks that the host's member has locked bytes of the ledger, and waits for them.
    fn first_bytes(&self) -> Result<(), Failed> {
        let member = self.wait_for(MEMBER, step::LOCKED)?;
        match self.lock(LockKind::Write, FIRST, false) {
            Err(Error::Refused {
                errno: Errno::EAGAIN,
                ..
            }) => {}
            Err(error) => return Err(error).doing("trying a lock"),
            Ok(()) => return Err(Failed::because("got a lock that another has")),
        }
        let lock = lock_of_ledger(self.pid.get(), LockKind::Write, FIRST, false);
        let held = self.node.find_lock(&lock, WAIT).doing("testing a lock")?;
        if held.is_none_or(|held| held.pid != member.get()) {
            return Err(Failed::because("the lock in the way is not the member's"));
        }
        print_line!("the ledger is locked by process {member}: waiting");
        self.reach(step::LOCKED)?;
        self.lock(LockKind::Write, FIRST, true)
            .doing("waiting for a lock")?;
        print_line!("got the ledger");
        self.lock(LockKind::Unlock, FIRST, false).doing("unlocking")
    }

    /// Locks bytes of the ledger, and keeps them until the host's member has sent a signal.
    fn own_bytes(&self) -> Result<(), Failed> {
        let own = own_bytes(self.party);
        self.lock(LockKind::Write, own, false)
            .doing("locking its own bytes")?;
        self.reach(step::HELD)?;
        self.await_signal(SIGUSR1)?;
        print_line!("signal {SIGUSR1} came");
        Ok(())
    }

    fn unlock_own_bytes(&self) -> Result<(), Failed> {
        let own = own_bytes(self.party);
        self.lock(LockKind::Unlock, own, false)
            .doing("unlocking its own bytes")
    }

    /// Fails while it holds its bytes of the ledger.
    fn fail(self, how: &str) -> Result<(), Failed> {
        if how == "unresponsive" {
            // The value is released first. All other resources are reclaimed only when this guest
            // is dead.
            drop(self.board);
            let until = clock::now() + Duration::from_millis(100);
            while clock::now() < until {
                self.node.poll(Deadline::At(until));
            }
        }
        fault::fail(how);
        Err(Failed::because("it did not fail"))
    }

    fn await_signal(&self, signal: i32) -> Result<(), Failed> {
        let until = clock::now() + LIMIT;
        while !OS.has_come(signal) {
            if clock::now() >= until {
                return Err(Failed::because("the signal did not come"));
            }
            self.node.poll(Deadline::At(until));
        }
        Ok(())
    }

    /// Signals the host's member, which ends when all guests have signalled.
    fn signal_others(&self) -> Result<(), Failed> {
        let member = self.wait_for(MEMBER, step::COUNTED)?;
        self.node
            .kill(Target::Process(member), SIGUSR2, WAIT)
            .doing("signalling the member")
    }
}
