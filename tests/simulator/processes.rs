//! A world of processes: they start children, signal each other, change groups, end or die, and
//! wait. Every end is seen once, by the right parent; every signal that was sent is delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread::{self, Scope};
use std::time::Duration;

use fastrand::Rng;
use libos_ipc::pal::faulty::{Faults, Faulty};
use libos_ipc::wire::{ChildExit, ProcessChange};
use libos_ipc::{
    Capacities, Config, Driving, Embedder, Error, Exit, Id, Identity, LeaseLimits, LockLimits,
    Node, Signal, SignalReply, Target, Wait, Which,
};

use crate::baton::{Baton, Passing, World};
use crate::locks::{self, Locked};
use crate::sync::{Syncs, Values};

/// Processes that a run ever has, at most.
const PROCESSES: usize = 16;
const STEPS: usize = 40;
/// The signal that goes to all, once.
const TO_ALL: i32 = 60;
const SIGPWR: u32 = 30;
const WAIT: Wait<'static> = Wait::at_most(Duration::from_hours(1));
const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

/// What happened, for certain.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Pids of all processes that joined, and whether they have begun to end.
    joined: BTreeMap<Id, bool>,
    /// How each process that ended did so: code and signal.
    ends: BTreeMap<Id, (u32, u32)>,
    /// Which parent's embedder was told of which process's end.
    told: BTreeSet<(Id, Id)>,
    /// Whose end was waited for, and by whom.
    reaped: BTreeMap<Id, Id>,
    /// Signals sent with success to processes that had not begun to end, and attempts.
    sent: BTreeMap<(Id, i32), (u32, u32)>,
    delivered: BTreeMap<(Id, i32), u32>,
    /// Who has to get the signal for all.
    all: Vec<Id>,
    started: usize,
    pub(crate) finish: bool,
    /// File locks that processes have for certain.
    pub(crate) locked: Locked,
    pub(crate) values: Values,
}

struct Os<'r> {
    pid: Mutex<Id>,
    ledger: &'r Mutex<Ledger>,
}

impl<P: libos_ipc::pal::Pal> Embedder<P> for Os<'_> {
    fn signal(&self, node: &Node<'_, P>, signal: &Signal, reply: SignalReply) {
        let pid = *self.pid.lock().unwrap();
        let outcome = match signal.target {
            Target::Process(target) if target != pid => Err(3),
            _ => Ok(()),
        };
        if outcome.is_ok() && signal.signal != 0 {
            let mut ledger = self.ledger.lock().unwrap();
            *ledger.delivered.entry((pid, signal.signal)).or_default() += 1;
        }
        let _ = reply.send(node, outcome);
    }

    fn child_ended(&self, _: &Node<'_, P>, exit: &ChildExit) {
        let parent = *self.pid.lock().unwrap();
        let mut ledger = self.ledger.lock().unwrap();
        assert!(ledger.told.insert((exit.pid, parent)), "{exit:?} twice");
        let end = ledger.ends.get(&exit.pid).copied();
        assert_eq!(end, Some((exit.exit_code, exit.term_signal)), "{exit:?}");
    }
}

struct Run<'r, 'w> {
    network: &'w World,
    baton: &'r Baton<'w>,
    ledger: &'r Mutex<Ledger>,
    faults: Faults,
}

pub(crate) fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let faults = Faults {
        short_read: rng.u16(0..500),
        short_write: rng.u16(0..500),
        would_block: rng.u16(0..300),
        interrupted: rng.u16(0..100),
        connect_busy: rng.u16(0..200),
        disconnect: 0,
        cut_after: None,
    };
    let network = Box::new(World::new());
    let baton = Baton::new(&network, rng.u64(..));
    let ledger = Mutex::new(Ledger::default());
    let run = Run {
        network: &network,
        baton: &baton,
        ledger: &ledger,
        faults,
    };
    thread::scope(|scope| run.process(scope, Identity::FIRST, 0));
    let ledger = ledger.into_inner().unwrap();
    for (pid, ended) in &ledger.joined {
        assert!(*ended);
        // The first has no parent.
        let waited_for = ledger.reaped.contains_key(pid);
        assert!(waited_for || *pid == 1, "nobody has waited for {pid}");
    }
    for (what, (succeeded, tried)) in &ledger.sent {
        let delivered = ledger.delivered.get(what).copied().unwrap_or(0);
        assert!(
            (*succeeded..=*tried).contains(&delivered),
            "{what:?}: {delivered} delivered, {succeeded} of {tried} succeeded"
        );
    }
}

/// Ends its part in the run, also if it fails.
struct Part<'r, 'w>(&'r Baton<'w>, usize);

impl Drop for Part<'_, '_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl<'r, 'w: 'r> Run<'r, 'w> {
    fn process<'s>(&'s self, scope: &'s Scope<'s, '_>, identity: Identity, who: usize) {
        let _part = Part(self.baton, who);
        self.baton.begin(who);
        let config = Config {
            capacities: Capacities {
                peers: 20,
                strangers: 8,
                waiters: 8,
                // What a file takes that was lent.
                frame_length: 809,
                send_queue: 2000,
                ranges: 80,
                own_ranges: 8,
                processes: 24,
                children: 20,
                answers: 0,
                locks: LockLimits {
                    // Enough for one of the two to be lent.
                    locks: 96,
                    files: 2,
                    waiting: PROCESSES,
                    handles: 0,
                },
                borrowed_files: 1,
                sync_handles: 2,
                sync_data: 16,
                leases: LeaseLimits {
                    handles: 2,
                    clients: 2 * PROCESSES,
                },
                events: 64,
            },
            driving: Driving::Caller,
            spin: Duration::ZERO,
            ..Config::DEFAULT
        };
        let seed = self.baton.choice(usize::MAX) as u64;
        let loopback = self.network.join(identity.vmid).unwrap();
        let platform = Faulty::new(loopback, self.faults, seed);
        let pal = Passing {
            inner: &platform,
            baton: self.baton,
            who,
        };
        let os = Os {
            pid: Mutex::new(identity.pid),
            ledger: self.ledger,
        };
        let mut memory = vec![0; Node::<Passing<'_, '_>>::memory(&identity, &config).total()];
        let node = Node::new(pal, identity, config, &mut memory)
            .unwrap()
            .with_embedder(&os);
        let pid = node.join(WAIT).unwrap();
        *os.pid.lock().unwrap() = pid;
        self.ledger.lock().unwrap().joined.insert(pid, false);
        let mut rng = Rng::with_seed(seed);
        let mut syncs = Syncs::open(&node);
        for _ in 0..rng.usize(1..STEPS) {
            if rng.u8(0..4) == 0 {
                syncs.act(self.ledger, &node, pid, &mut rng);
            } else {
                self.act(scope, &node, pid, &mut rng);
            }
        }
        if identity.is_leader() {
            // Others may wait for what it has, and it is going to wait for them.
            locks::let_go(self.ledger, &node, pid);
            syncs.give(self.ledger, &node, pid, true);
            self.signal_all(&node);
            self.ledger.lock().unwrap().finish = true;
            self.end_of_all(&node);
            return;
        }
        // Some stay to the end.
        while rng.bool() && !self.ledger.lock().unwrap().finish {
            node.turn(None);
        }
        self.end(&node, pid, &mut syncs, &mut rng);
    }

    fn act<'s, 'm>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        node: &Node<'m, Passing<'m, 'w>>,
        pid: Id,
        rng: &mut Rng,
    ) {
        match rng.u8(0..14) {
            10.. => locks::act(self.ledger, node, pid, rng),
            0 | 1 => {
                let mut ledger = self.ledger.lock().unwrap();
                if ledger.started + 1 < PROCESSES && !ledger.finish {
                    ledger.started += 1;
                    drop(ledger);
                    let child = node.start_child(WAIT).unwrap();
                    let who = self.baton.add();
                    scope.spawn(move || self.process(scope, child, who));
                    // As `fork(2)` returns when there is a child.
                    while !self.ledger.lock().unwrap().joined.contains_key(&child.pid) {
                        node.turn(None);
                    }
                }
            }
            2..5 => self.signal_one(node, rng),
            5 => {
                let _ = node.set_group(0, 0, WAIT);
            }
            6 => {
                let _ = node.new_session(WAIT);
            }
            7 => {
                let _ = node.mark(ProcessChange::Subreaper, rng.bool(), WAIT);
                match node.kill(Target::Group(0), 0, WAIT) {
                    Ok(()) => {}
                    outcome => panic!("{pid} is in its own group: {outcome:?}"),
                }
            }
            _ => match node.wait_child(Which::Any, NOW) {
                Ok(exit) => self.reaped(pid, &exit),
                Err(Error::TimedOut | Error::NoChild) => {}
                Err(error) => panic!("{error}"),
            },
        }
    }

    fn reaped(&self, by: Id, exit: &ChildExit) {
        let mut ledger = self.ledger.lock().unwrap();
        let end = ledger.ends.get(&exit.pid).copied();
        assert_eq!(end, Some((exit.exit_code, exit.term_signal)), "{exit:?}");
        if let Some(before) = ledger.reaped.insert(exit.pid, by) {
            // It died before anybody could know that it had seen this.
            let died = ledger.ends.get(&before) == Some(&(0, SIGPWR));
            assert!(died, "{exit:?} was seen by {before} and {by}");
        }
    }

    fn signal_one<'m>(&self, node: &Node<'m, Passing<'m, 'w>>, rng: &mut Rng) {
        let signal = rng.i32(1..30);
        let target = {
            let mut ledger = self.ledger.lock().unwrap();
            let pids: Vec<_> = ledger.joined.keys().copied().collect();
            let target = pids[rng.usize(..pids.len())];
            ledger.sent.entry((target, signal)).or_default().1 += 1;
            target
        };
        match node.kill(Target::Process(target), signal, WAIT) {
            Ok(()) => {
                let mut ledger = self.ledger.lock().unwrap();
                if !ledger.joined[&target] {
                    ledger.sent.entry((target, signal)).or_default().0 += 1;
                }
            }
            Err(Error::NoSuchProcess) => {
                let ended = self.ledger.lock().unwrap().joined[&target];
                assert!(ended, "{target} lives");
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// From the first process.
    fn signal_all<'m>(&self, node: &Node<'m, Passing<'m, 'w>>) {
        let alive = |ledger: &Ledger| {
            let alive = ledger
                .joined
                .iter()
                .filter(|(pid, ended)| !**ended && **pid != 1);
            alive.map(|(pid, _)| *pid).collect::<Vec<_>>()
        };
        let all = alive(&self.ledger.lock().unwrap());
        self.ledger.lock().unwrap().all = all;
        node.kill(Target::All, TO_ALL, WAIT).unwrap();
        let got = |ledger: &Ledger, pid: Id| ledger.delivered.get(&(pid, TO_ALL)).copied();
        for patience in 0.. {
            assert!(
                patience < 100_000,
                "somebody did not get the signal for all"
            );
            let ledger = self.ledger.lock().unwrap();
            let missing = ledger
                .all
                .iter()
                .any(|pid| !ledger.joined[pid] && got(&ledger, *pid).is_none());
            drop(ledger);
            if !missing {
                break;
            }
            node.turn(None);
        }
    }

    /// The first process waits for all that become its children, and nothing is left.
    fn end_of_all<'m>(&self, node: &Node<'m, Passing<'m, 'w>>) {
        loop {
            match node.wait_child(Which::Any, WAIT) {
                Ok(exit) => self.reaped(1, &exit),
                Err(Error::NoChild) => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.ledger.lock().unwrap().joined.insert(1, true);
        node.leave(WAIT).unwrap();
        node.give_back_ids(WAIT).unwrap();
        let pools = node.statistics().pools;
        assert!(node.is_sound());
        let left = [
            pools.processes.now,
            pools.ranges.now,
            pools.children.now,
            pools.peers.now,
            pools.waiters.now,
            pools.own_ranges.now,
            pools.locks.now,
            pools.locked_files.now,
            pools.waiting_for_locks.now,
            pools.lent_files.now,
            pools.served_handles.now,
            pools.sync_clients.now,
        ];
        assert_eq!(left, [0; 12], "{pools:?}");
        for (what, times) in &self.ledger.lock().unwrap().delivered {
            assert!(what.1 != TO_ALL || *times == 1, "{what:?} {times} times");
        }
        node.shut_down(Duration::from_secs(1));
    }

    fn end<'m>(&self, node: &Node<'m, Passing<'m, 'w>>, pid: Id, syncs: &mut Syncs, rng: &mut Rng) {
        let (code, says) = (rng.u32(0..256), rng.u8(0..3) > 0);
        if says {
            syncs.give(self.ledger, node, pid, true);
            node.close_all_syncs(WAIT).unwrap();
        }
        {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.locked.forget(pid);
            if !says {
                ledger.values.died(pid);
            }
            ledger.joined.insert(pid, true);
            let end = if says { (code, 0) } else { (0, SIGPWR) };
            ledger.ends.insert(pid, end);
        }
        if says {
            let exit = Exit {
                uid: 0,
                code,
                signal: 0,
            };
            node.exit(exit, WAIT).unwrap();
            node.give_back_ids(WAIT).unwrap();
            assert!(node.shut_down(Duration::from_hours(1)));
        } else {
            node.shut_down(Duration::ZERO);
        }
        assert_eq!(node.statistics().pools.waiters.now, 0, "a waiter was lost");
    }
}
