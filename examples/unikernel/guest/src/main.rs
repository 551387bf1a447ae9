//! A program without an operating system that is a process of a family on the host.
//!
//! The kernel's command line has its identity (`identity=` and five numbers), the guest that it
//! plays (`party=`), and its fault, if any (`fault=`).
#![no_std]
#![no_main]

mod activities;
#[path = "../../board.rs"]
mod board;
mod fault;
mod os;
mod work;

use core::fmt;

use libos_ipc::pal::mux::{MuxEndpoint, MuxPal};
use libos_ipc::{Config, Driving, Error, Exit, Identity, Memory, Node, Vmid, Wait};
use libos_ipc_guest::{Start, VirtioChannel, clock, image_memory, print_line, program};
use static_cell::StaticCell;

use crate::board::LIMIT;
use crate::os::Os;

const WAIT: Wait<'static> = Wait::at_most(LIMIT);

const CONFIG: Config = Config {
    driving: Driving::Caller,
    ..Config::DEFAULT
};

/// A stream for each peer, and for each unidentified connection.
const STREAMS: usize = CONFIG.capacities.peers + CONFIG.capacities.unidentified;
const WINDOW: usize = 4096;

type Line = MuxPal<'static, VirtioChannel, STREAMS, WINDOW>;
type Member = Node<'static, Line>;

/// Every child takes the same memory.
const SOMEBODY: Identity = match Vmid::new(2) {
    Some(vmid) => Identity::child(vmid, Vmid::LEADER),
    None => panic!("2 is a VMID"),
};
const MEMORY: usize = Member::memory(&SOMEBODY, &CONFIG).total();

static TERMINAL: MuxEndpoint<VirtioChannel, STREAMS, WINDOW> = MuxEndpoint::new(VirtioChannel);
static NODE_MEMORY: Memory<MEMORY> = Memory::new();
static NODE: StaticCell<Member> = StaticCell::new();
static OS: Os = Os::new();

program!(run);

/// The failure of a step.
struct Failed {
    what: &'static str,
    error: Option<Error>,
}

impl Failed {
    const fn because(what: &'static str) -> Failed {
        Failed { what, error: None }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            Some(error) => write!(f, "{}: {error}", self.what),
            None => f.write_str(self.what),
        }
    }
}

/// Adds the step to an error.
trait While<T> {
    fn doing(self, what: &'static str) -> Result<T, Failed>;
}

impl<T> While<T> for Result<T, Error> {
    fn doing(self, what: &'static str) -> Result<T, Failed> {
        self.map_err(|error| Failed {
            what,
            error: Some(error),
        })
    }
}

fn run(start: Start) -> u8 {
    match live(start) {
        Ok(()) => 0,
        Err(failed) => {
            print_line!("FAILED: {failed}");
            1
        }
    }
}

fn live(start: Start) -> Result<(), Failed> {
    print_line!(
        "no operating system, one thread, {} KiB in all",
        image_memory() / 1024
    );
    print_line!("figure memory {}", image_memory());
    let identity = start.value("identity").and_then(|text| text.parse().ok());
    let identity = identity.filter(|identity: &Identity| !identity.is_leader());
    let identity = identity.ok_or(Failed::because("no identity=V,P,L,I,J on the command line"))?;
    let party = start.value("party").and_then(|party| party.parse().ok());
    let party = party.filter(|party| board::GUESTS.contains(party));
    let party = party.ok_or(Failed::because("no party=1 or party=2 on the command line"))?;
    if let Err(error) = TERMINAL.channel().open(start) {
        print_line!("{error}");
        return Err(Failed::because("no line to the host"));
    }
    let memory = NODE_MEMORY
        .take()
        .ok_or(Failed::because("memory taken twice"))?;
    let node = Node::new(TERMINAL.pal(), identity, CONFIG, memory)
        .map_err(Error::from)
        .doing("making the node")?;
    // The tasks ask for a node that lives as long as the program.
    let node: &'static Member = NODE.init(node.with_embedder(&OS));
    OS.play(party);

    let pid = node.join(WAIT).doing("joining the family")?;
    print_line!("I am process {pid}, VMID {}", identity.vmid);
    print_line!("figure joined {}", clock::now().0);
    work::work(node, party, start.value("fault"))?;

    let exit = Exit {
        code: board::exit_code(party),
        ..Exit::default()
    };
    node.exit(exit, WAIT)
        .doing("saying how this process ends")?;
    if !node.shut_down(LIMIT) {
        return Err(Failed::because("something was not sent"));
    }
    if !TERMINAL.flush(clock::now() + LIMIT) {
        return Err(Failed::because("the line does not take what was sent"));
    }
    print_line!("ended with {}", exit.code);
    Ok(())
}
