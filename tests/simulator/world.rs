//! One run of a family.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::pal::faulty::{Faults, Faulty};
use libos_ipc::pal::loopback::{Loopback, Network};
use libos_ipc::pal::{Pal, Time};
use libos_ipc::wire::{Answer, ChildExit, IdRange, Message};
use libos_ipc::{
    Capacities, Config, Driving, Error, Identity, LeaseLimits, LockLimits, Node, Request, Vmid,
};

use crate::hostile::Hostile;
use crate::model::Model;

/// Processes that ever are in one run, the leader among them, and one that is hostile.
const PROCESSES: usize = 6;
const HOSTILE: u32 = 7;
const STEPS: u64 = 400;
/// Turns of all after which everything must have come to its end.
const PATIENCE: u32 = 20_000;

/// Something to broadcast: no answer is due.
const EXIT: ChildExit = ChildExit {
    parent_pid: 1,
    pid: 2,
    uid: 3,
    exit_code: 4,
    term_signal: 5,
};

type World = Network<7, 64, 200>;
type Platform<'w> = Faulty<Loopback<'w, 7, 64, 200>>;

/// A request under way.
struct Asked<'n, 'm, P: Pal> {
    request: Request<'n, 'm, P>,
    who: usize,
    step: u64,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Vmid,
    Range,
    Owner(u32),
    Change { range: IdRange, id: u32, to: u32 },
}

pub(crate) fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    // Without broken streams everything can be checked; with them a member may be cut off and not
    // know it yet.
    let cuts = seed % 4 == 3;
    let faults = Faults {
        short_read: rng.u16(0..600),
        short_write: rng.u16(0..600),
        would_block: rng.u16(0..500),
        interrupted: rng.u16(0..100),
        disconnect: if cuts { rng.u16(0..8) } else { 0 },
        connect_busy: rng.u16(0..300),
        cut_after: (cuts && rng.bool()).then(|| rng.u64(0..4000)),
    };
    let capacities = Capacities {
        peers: 8,
        strangers: 8,
        waiters: 4,
        frame_length: 200,
        send_queue: 2 * rng.usize(328..700),
        ranges: rng.usize(8..64),
        own_ranges: 4,
        processes: 16,
        children: 8,
        answers: 1,
        locks: LockLimits {
            locks: 8,
            files: 3,
            waiting: 3,
            handles: 4,
        },
        borrowed_files: 0,
        sync_handles: 0,
        sync_data: 0,
        leases: LeaseLimits {
            handles: 2,
            clients: 4,
        },
        events: 64,
    };
    let config = Config {
        capacities,
        driving: Driving::Caller,
        spin: Duration::ZERO,
        wrap_ids: rng.bool(),
        connect_limit: Duration::from_hours(1),
        ..Config::DEFAULT
    };
    let network = Box::new(World::new());
    let platforms: Vec<Platform<'_>> = (1..=PROCESSES)
        .map(|number| Faulty::new(network.join(vmid(number)).unwrap(), faults, rng.u64(..)))
        .collect();
    let mut memories: Vec<Vec<u8>> = (1..=PROCESSES)
        .map(|number| vec![0; Node::<&Platform<'_>>::memory(&identity(number), &config).total()])
        .collect();
    let nodes: Vec<Node<'_, &Platform<'_>>> = memories
        .iter_mut()
        .zip(&platforms)
        .enumerate()
        .map(|(at, (memory, pal))| Node::new(pal, identity(at + 1), config, memory).unwrap())
        .collect();
    let hostile = Hostile::new(network.join(Vmid::new(HOSTILE).unwrap()).unwrap());
    let mut run = Run {
        network: &network,
        nodes: &nodes,
        alive: vec![true; PROCESSES],
        asked: Vec::new(),
        model: Model::default(),
        step: 0,
        exact: !cuts,
    };
    run.work(&mut rng, hostile);
    run.end(&mut rng);
}

fn vmid(number: usize) -> Vmid {
    Vmid::new(u32::try_from(number).unwrap()).unwrap()
}

fn identity(number: usize) -> Identity {
    if number == 1 {
        Identity::FIRST
    } else {
        Identity::child(vmid(number), Vmid::FIRST)
    }
}

struct Run<'r, 'm, P: Pal> {
    network: &'r World,
    nodes: &'r [Node<'m, P>],
    alive: Vec<bool>,
    asked: Vec<Asked<'r, 'm, P>>,
    model: Model,
    step: u64,
    exact: bool,
}

impl<'m, P: Pal> Run<'_, 'm, P> {
    fn work<Q: Pal>(&mut self, rng: &mut Rng, mut hostile: Hostile<Q>) {
        for step in 1..=STEPS {
            self.step = step;
            match rng.u8(0..100) {
                0..60 => self.turn(rng.usize(0..PROCESSES)),
                60..65 => self.network.advance(Duration::from_millis(rng.u64(1..5))),
                65..90 => self.ask(rng),
                90..92 if !self.asked.is_empty() => {
                    let given_up = self.asked.swap_remove(rng.usize(0..self.asked.len()));
                    self.given_up(&given_up);
                }
                92..98 => hostile.act(rng),
                98 if rng.bool() => self.crash(rng.usize(1..PROCESSES)),
                _ => {
                    let message = Message::ChildExit(EXIT);
                    self.nodes[0].broadcast(&message, None);
                }
            }
            self.take_answers();
            assert!(self.nodes[0].is_sound(), "a range was lost");
        }
    }

    fn turn(&self, who: usize) {
        if self.alive[who] {
            self.nodes[who].turn(Some(Time(0)));
        }
    }

    fn ask(&mut self, rng: &mut Rng) {
        let who = rng.usize(1..PROCESSES);
        let number = u32::try_from(who + 1).unwrap();
        let own = self.model.range_of(number, rng.usize(..));
        let (message, what) = match (rng.u8(0..10), own) {
            (0, _) => (Message::GetNewVmid, What::Vmid),
            (1..4, _) => (Message::AllocIdRange, What::Range),
            (4, Some(range)) => {
                let node = &self.nodes[who];
                let now = libos_ipc::Wait::at_most(Duration::ZERO);
                if self.alive[who] && node.release_range(range, now).is_ok() {
                    self.model.forget(range);
                }
                return;
            }
            (5..7, Some(range)) => {
                let id = rng.u32(range.start..=range.end);
                let to = rng.u32(2..=6);
                (
                    Message::ChangeIdOwner { id, owner: to },
                    What::Change { range, id, to },
                )
            }
            _ => {
                let id = rng.u32(0..300);
                (Message::GetIdOwner(id), What::Owner(id))
            }
        };
        match self.nodes[who].request(Vmid::FIRST, &message) {
            Ok(request) => {
                if let What::Change { range, .. } = what {
                    self.model.forget(range);
                }
                self.asked.push(Asked {
                    request,
                    who,
                    step: self.step,
                    what,
                });
            }
            Err(Error::Full(_)) => {}
            Err(error) => assert!(
                !self.alive[who] && error == Error::ShuttingDown
                    || !self.exact && error == Error::LeaderGone,
                "{error}"
            ),
        }
    }

    fn take_answers(&mut self) {
        let mut at = 0;
        while at < self.asked.len() {
            match self.asked[at].request.poll() {
                None => at += 1,
                Some(outcome) => {
                    let asked = self.asked.swap_remove(at);
                    self.answered(&asked, outcome);
                }
            }
        }
    }

    fn answered(&mut self, asked: &Asked<'_, 'm, P>, outcome: Result<Answer<'static>, Error>) {
        let who = u32::try_from(asked.who + 1).unwrap();
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                let expected = !self.alive[asked.who] || !self.exact;
                assert!(
                    expected,
                    "{:?} of {who}: {error}\nleader {:?}\nmember {:?}",
                    asked.what,
                    self.nodes[0].statistics(),
                    self.nodes[asked.who].statistics()
                );
                return;
            }
        };
        // Of a process that may be gone for the leader nothing is certain.
        let certain = self.exact && self.alive[asked.who];
        match (asked.what, answer) {
            (What::Vmid, Answer::Vmid(vmid)) => self.model.new_vmid(vmid),
            (What::Range, Answer::IdRange(range)) => {
                if range.start != 0 && certain {
                    self.model.allocated(range, who, self.step);
                }
            }
            (What::Owner(id), Answer::Owner(owner)) => {
                if self.exact {
                    self.model.looked_up(id, owner, asked.step);
                }
            }
            (What::Change { range, id, to }, Answer::Status(0)) => {
                let to_lives = self.alive[usize::try_from(to).unwrap() - 1];
                if certain {
                    self.model
                        .changed(range, id, (who, to_lives.then_some(to)), self.step);
                }
            }
            (What::Change { range, .. }, Answer::Status(_)) => {
                if certain {
                    self.model.allocated(range, who, self.step);
                }
            }
            (what, answer) => panic!("{answer:?} to {what:?}"),
        }
    }

    /// Nobody waits for the answer any more: what it would have told stays unknown.
    fn given_up(&mut self, asked: &Asked<'_, 'm, P>) {
        if let What::Change { range, .. } = asked.what {
            self.model.forget(range);
        }
    }

    /// The process is gone from one moment to the next.
    fn crash(&mut self, who: usize) {
        self.alive[who] = false;
        self.model.forget_all_of(u32::try_from(who + 1).unwrap());
        self.nodes[who].shut_down(Duration::ZERO);
    }

    /// Nothing new is asked. Everything under way comes to its end; then all but the leader leave,
    /// and nothing is left of them.
    fn end(&mut self, rng: &mut Rng) {
        self.settle(rng, "a request was forgotten", |run| run.asked.is_empty());
        for who in 1..PROCESSES {
            self.crash(who);
        }
        for who in 1..PROCESSES {
            // It may have been given an ID and never have joined.
            self.nodes[0].bury(vmid(who + 1)).unwrap();
        }
        self.settle(rng, "something is left of members that are gone", |run| {
            let pools = run.nodes[0].statistics().pools;
            pools.ranges.now == 0
                && pools.peers.now == 0
                && pools.waiters.now == 0
                && pools.send_queue.now == 0
        });
        assert!(self.nodes[0].is_sound(), "a range was lost");
        for node in self.nodes {
            assert_eq!(node.statistics().pools.waiters.now, 0, "a waiter was lost");
        }
    }

    fn settle(&mut self, rng: &mut Rng, what: &str, is_settled: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE {
            if is_settled(self) {
                return;
            }
            self.network.advance(Duration::from_millis(1));
            self.turn(rng.usize(0..PROCESSES));
            self.turn(0);
            self.take_answers();
        }
        panic!("{what}: {:?}", self.nodes[0].statistics());
    }
}
