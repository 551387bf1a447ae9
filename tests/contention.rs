//! The contention hook is the platform's: a thread that waits for a spinlock of a node calls the hook
//! of that node's platform.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::Host;
use libos_ipc::pal::{AcceptError, ConnectError, Pal};
use libos_ipc::{Config, Identity, Node, Vmid, Wait, forward_pal};

/// Longer than it takes until two of four threads meet at one lock.
const LONG: Duration = Duration::from_mins(1);

static CALLS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The host's platform with a hook that counts its calls.
struct Counted<const NUMBER: usize>(Host);

impl<const NUMBER: usize> Pal for Counted<NUMBER> {
    type Stream = <Host as Pal>::Stream;
    type Event = <Host as Pal>::Event;

    const SUPPORTS_CALLER_READ: bool = Host::SUPPORTS_CALLER_READ;

    forward_pal!(0: event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(0, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.0.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.0.accept()
    }

    fn contended(attempts: u32) {
        CALLS[NUMBER].fetch_add(1, Ordering::Relaxed);
        Host::contended(attempts);
    }
}

fn with_leader<const NUMBER: usize>(use_it: impl FnOnce(&Node<'_, Counted<NUMBER>>)) {
    let directory = tempfile::tempdir().unwrap();
    let pal = Host::listen(&directory.path().join("family"), Vmid::LEADER).unwrap();
    let size = Node::<Counted<NUMBER>>::memory(&Identity::LEADER, &Config::DEFAULT).total();
    let mut memory = vec![std::mem::MaybeUninit::uninit(); size];
    let pal = Counted::<NUMBER>(pal);
    use_it(&Node::new(pal, Identity::LEADER, Config::DEFAULT, &mut memory).unwrap());
}

/// Uses the leader's tables with four threads until one of them has called the hook.
fn contend<const NUMBER: usize>(node: &Node<'_, Counted<NUMBER>>) {
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    let is_over = &is_over;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(node.owner_of(7, Wait::FOREVER), Ok(None));
                    let called = CALLS[NUMBER].load(Ordering::Relaxed) > 0;
                    if called || start.elapsed() > LONG {
                        is_over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[test]
fn two_nodes_on_two_platforms_call_each_its_own_contention_hook() {
    let calls = || CALLS.each_ref().map(|calls| calls.load(Ordering::Relaxed));
    with_leader::<0>(|first| {
        with_leader::<1>(|second| {
            contend(first);
            let [of_first, of_second] = calls();
            assert!(of_first > 0, "no thread had to wait in {LONG:?}");
            assert_eq!(of_second, 0);
            contend(second);
            assert_eq!(calls()[0], of_first);
            assert!(calls()[1] > 0, "no thread had to wait in {LONG:?}");
        });
    });
}
