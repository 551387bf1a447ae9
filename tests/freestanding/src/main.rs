//! A leader and a member in one thread of a program that has no libraries: fixed memory, the
//! loopback platform, every byte moved by `turn`. Prints what memory a node takes.
#![no_std]
#![no_main]

mod platform;

use core::fmt::Write;
use core::mem::MaybeUninit;

#[cfg(feature = "secure")]
use libos_ipc::pal::secure::{FamilyKey, SecurePal};
use libos_ipc::pal::{Deadline, Pal};
use libos_ipc::store::Memory;
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::wire::{Answer, IdRange, Message};
use libos_ipc::{Capacities, Config, Driving, Identity, Node, Vmid};
use platform::{Console, exit};

const CONFIG: Config = Config {
    capacities: Capacities {
        peers: 4,
        waiters: 8,
        ranges: 64,
        ..Capacities::DEFAULT
    },
    driving: Driving::Caller,
    ..Config::DEFAULT
};
const MEMBER: Identity = match Vmid::new(2) {
    Some(vmid) => Identity::child(vmid, Vmid::LEADER),
    None => panic!("2 is a VMID"),
};

type Net = Network<2, 4, 4096>;
type LoopbackPal = Loopback<'static, 2, 4, 4096>;
#[cfg(not(feature = "secure"))]
type Platform = LoopbackPal;
#[cfg(feature = "secure")]
type Platform = &'static SecurePal<LoopbackPal>;

const LEADER_MEMORY: usize = Node::<Platform>::memory(&Identity::LEADER, &CONFIG).total();
const MEMBER_MEMORY: usize = Node::<Platform>::memory(&MEMBER, &CONFIG).total();

static NETWORK: Net = Net::new();
static LEADER: Memory<LEADER_MEMORY> = Memory::new();
static MEMBER_PLACE: Memory<MEMBER_MEMORY> = Memory::new();

fn node<'p, P: Pal + 'p>(
    pal: P,
    identity: Identity,
    memory: Option<&'static mut [MaybeUninit<u8>]>,
) -> Option<Node<'p, P>> {
    Node::new(pal, identity, CONFIG, memory?).ok()
}

fn ask<P: Pal>(
    leader: &Node<'_, P>,
    member: &Node<'_, P>,
    message: Message<'_>,
) -> Option<Answer<'static>> {
    let mut request = member.request(Vmid::LEADER, &message).ok()?;
    for _ in 0..1000 {
        leader.poll(Deadline::Now);
        member.poll(Deadline::Now);
        if let Some(answer) = request.poll() {
            return answer.ok();
        }
    }
    None
}

fn join(vmid: Vmid) -> Option<LoopbackPal> {
    NETWORK.join(vmid).ok()
}

#[cfg(not(feature = "secure"))]
fn run() -> Option<()> {
    family(join(Vmid::LEADER)?, join(MEMBER.vmid)?)
}

#[cfg(feature = "secure")]
fn run() -> Option<()> {
    let key = FamilyKey::generate(platform::random).ok()?;
    let secure = |vmid, key| Some(SecurePal::new(join(vmid)?, vmid, key, platform::random));
    let (leader, member) = (
        secure(Vmid::LEADER, key.clone())?,
        secure(MEMBER.vmid, key)?,
    );
    family(&leader, &member)?;
    (leader.statistics().handshakes == 2).then_some(())
}

fn family<P: Pal>(leader: P, member: P) -> Option<()> {
    let leader = node(leader, Identity::LEADER, LEADER.take())?;
    let member = node(member, MEMBER, MEMBER_PLACE.take())?;
    let _ = write!(
        Console,
        "{}",
        Node::<Platform>::memory(&Identity::LEADER, &CONFIG)
    );
    let range = IdRange { start: 1, end: 32 };
    let exchanges = [
        (Message::GetNewVmid, Answer::Vmid(3)),
        (Message::AllocIdRange, Answer::IdRange(range)),
        (Message::GetIdOwner(7), Answer::Owner(2)),
        (Message::ChangeIdOwner { id: 7, owner: 3 }, Answer::Empty),
        (Message::GetIdOwner(7), Answer::Owner(3)),
        (Message::GetIdOwner(33), Answer::Owner(0)),
    ];
    for (message, expected) in exchanges {
        let answer = ask(&leader, &member, message);
        let _ = writeln!(Console, "{message:?} -> {answer:?}");
        if answer != Some(expected) {
            return None;
        }
    }
    (leader.check_invariants() && leader.statistics().pools.ranges.now == 3).then_some(())
}

#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    let ok = run().is_some();
    let _ = writeln!(
        Console,
        "freestanding: {}",
        if ok { "ok" } else { "FAILED" }
    );
    exit(i32::from(!ok))
}
