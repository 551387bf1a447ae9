//! A program without an operating system that is a process of a family on the host.
//!
//! The kernel's command line has its identity (`identity=` and five numbers), its index among the participants
//! (`participant=`), and its fault, if any (`fault=`).
#![no_std]
#![no_main]

mod activities;
mod fault;
mod os;
#[path = "../../shared.rs"]
mod shared;
mod work;

use core::fmt;

use libos_ipc::pal::mux::{MuxEndpoint, MuxPal};
use libos_ipc::{Config, Driving, Error, Exit, Identity, Memory, Node, Vmid, Wait};
use libos_ipc_guest::{Start, VirtioChannel, clock, image_memory, print_line, program};
use static_cell::StaticCell;

use crate::os::Os;
use crate::shared::LIMIT;

const WAIT: Wait<'static> = Wait::at_most(LIMIT);

const CONFIG: Config = Config {
    driving: Driving::Caller,
    ..Config::DEFAULT
};

/// A stream for each peer, and for each unidentified connection.
const STREAMS: usize = CONFIG.capacities.peers + CONFIG.capacities.unidentified;
/// The bytes of a stream that its sender may send before the receiver has read some.
const WINDOW: usize = 4096;

type Platform = MuxPal<'static, VirtioChannel, STREAMS, WINDOW>;
type Member = Node<'static, Platform>;

/// The identity of any child: the memory of a node is the same for all.
const ANY_CHILD: Identity = match Vmid::new(2) {
    Some(vmid) => Identity::child(vmid, Vmid::LEADER),
    None => panic!("2 is a VMID"),
};
const MEMORY: usize = Member::memory(&ANY_CHILD, &CONFIG).total();

static ENDPOINT: MuxEndpoint<VirtioChannel, STREAMS, WINDOW> = MuxEndpoint::new(VirtioChannel);
static NODE_MEMORY: Memory<MEMORY> = Memory::new();
static NODE: StaticCell<Member> = StaticCell::new();
static OS: Os = Os::new();

program!(run);

/// The failure of a step.
struct Failure {
    /// The step, or the reason.
    what: &'static str,
    error: Option<Error>,
}

impl Failure {
    const fn new(what: &'static str) -> Failure {
        Failure { what, error: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            Some(error) => write!(f, "{}: {error}", self.what),
            None => f.write_str(self.what),
        }
    }
}

/// Adds the step to an error.
trait Context<T> {
    fn context(self, what: &'static str) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            what,
            error: Some(error),
        })
    }
}

fn run(start: Start) -> u8 {
    match run_process(start) {
        Ok(()) => 0,
        Err(failed) => {
            print_line!("FAILED: {failed}");
            1
        }
    }
}

/// Runs this guest as a process of the family, from its start to its exit.
fn run_process(start: Start) -> Result<(), Failure> {
    print_line!(
        "no operating system, one thread, {} KiB in all",
        image_memory() / 1024
    );
    print_line!("figure memory {}", image_memory());
    let identity = start.value("identity").and_then(|text| text.parse().ok());
    let identity = identity.filter(|identity: &Identity| !identity.is_leader());
    let identity = identity.ok_or(Failure::new("no identity=V,P,L,I,J on the command line"))?;
    let participant = start
        .value("participant")
        .and_then(|participant| participant.parse().ok());
    let participant = participant.filter(|participant| shared::GUESTS.contains(participant));
    let participant = participant.ok_or(Failure::new(
        "no participant=1 or participant=2 on the command line",
    ))?;
    if let Err(error) = ENDPOINT.channel().open(start) {
        print_line!("{error}");
        return Err(Failure::new("no channel to the host"));
    }
    let memory = NODE_MEMORY
        .take()
        .ok_or(Failure::new("memory taken twice"))?;
    let node = Node::new(ENDPOINT.pal(), identity, CONFIG, memory)
        .map_err(Error::from)
        .context("making the node")?;
    // The tasks ask for a node that lives as long as the program.
    let node: &'static Member = NODE.init(node.with_embedder(&OS));
    OS.set_participant(participant);

    let pid = node.join(WAIT).context("joining the family")?;
    print_line!("I am process {pid}, VMID {}", identity.vmid);
    print_line!("figure joined {}", clock::now().0);
    work::work(node, participant, start.value("fault"))?;

    let exit = Exit {
        code: shared::exit_code(participant),
        ..Exit::default()
    };
    node.exit(exit, WAIT).context("reporting the exit")?;
    if !node.shut_down(LIMIT) {
        return Err(Failure::new("something was not sent"));
    }
    if !ENDPOINT.flush(clock::now() + LIMIT) {
        return Err(Failure::new("the channel does not take what was sent"));
    }
    print_line!("ended with {}", exit.code);
    Ok(())
}
