//! The platforms that are checked. A new one is a line of [`all`].

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::{Addresses, Host, random};
use libos_ipc::pal::secure::{FamilyKey, SecurePal};
use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Event, Flag, Pal, ReadyList, Time};
use libos_ipc::testing::conformance::{Check, Defect, Defective, Report};
use libos_ipc::testing::fault_injector::{FaultInjector, Faults};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};
use libos_ipc::{Vmid, forward_pal};

use crate::mux::{MuxFamily, MuxMember};
use crate::tiny_pal::Tiny;

/// A platform, or the reason why this machine does not have it.
pub(crate) type CheckResult = Result<Report, String>;

/// A platform of the list.
pub(crate) struct Platform {
    pub(crate) name: &'static str,
    run: fn(Check, &Path) -> CheckResult,
}

impl Platform {
    /// Checks the platform, with a directory for its sockets.
    pub(crate) fn check(&self, check: Check) -> CheckResult {
        let directory = tempfile::tempdir().expect("a directory for sockets");
        (self.run)(check, &directory.path().join("family"))
    }
}

/// Checks the host's platform with a defect.
pub(crate) fn check_defect(check: Check, defect: Defect) -> Report {
    let directory = tempfile::tempdir().expect("a directory for sockets");
    let host = host(&directory.path().join("family"));
    check.run(move |vmid| Defective::new(host(vmid), defect))
}

/// All platforms.
pub(crate) const ALL: &[Platform] = &[
    platform("host sockets", |check, base| Ok(check.run(host(base)))),
    platform("loopback", |check, _| Ok(check.run(loopback()))),
    platform("mux", |check, base| {
        // Its members have one thread each.
        let check = Check {
            has_threads: false,
            ..check
        };
        Ok(check.run(mux(base)))
    }),
    platform("secure", |check, base| Ok(check.run(secure(base)))),
    platform("TCP", |check, _| network(check, &free_ports())),
    platform("secure over TCP", |check, _| {
        let addresses = free_ports();
        Ok(check.run(encrypted(move |vmid| {
            Host::listen_at(&addresses, vmid).expect("a port")
        })))
    }),
    platform("vsock", |check, _| network(check, &VSOCK)),
    platform("host with faults", |check, base| {
        // The streams borrow the platform, so it stays for as long as the program runs.
        let check = Check {
            drop_ends: false,
            ..check
        };
        Ok(check.run(faulty(base)))
    }),
    platform("tiny platform", |check, _| Ok(check.run(tiny()))),
];

/// Returns the platforms with these names; all, if there are none.
///
/// # Errors
/// A name that no platform has.
pub(crate) fn named(names: &[String]) -> Result<Vec<&'static Platform>, String> {
    let find = |name: &String| {
        let platform = ALL.iter().find(|platform| platform.name == name);
        platform.ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|platform| platform.name).collect();
            format!("no platform is called {name:?}: take {}", known.join(", "))
        })
    };
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(find).collect()
}

const fn platform(name: &'static str, run: fn(Check, &Path) -> CheckResult) -> Platform {
    Platform { name, run }
}

pub(crate) fn host(base: &Path) -> impl Fn(Vmid) -> Host + Send + Sync + 'static {
    let base = base.to_owned();
    move |vmid| Host::listen(&base, vmid).expect("a socket")
}

type Net = Network<8, 200, 1024>;

/// Returns the network in memory.
fn loopback() -> impl Fn(Vmid) -> PausingPal + Send + Sync + 'static {
    static NETWORK: Net = Net::new();
    |vmid| PausingPal(NETWORK.join(vmid).expect("a place in the network"))
}

/// The time for which a thread sleeps that finds nothing.
const PAUSE: Duration = Duration::from_micros(100);

/// A member in memory, with the clock of the host. Its waits return at once, so a thread that finds nothing sleeps for
/// a moment.
struct PausingPal(Loopback<'static, 8, 200, 1024>);

impl Pal for PausingPal {
    type Stream = LoopbackStream<'static, 8, 200, 1024>;
    type Event = Flag;

    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(0: is_secure, requires_secure, end, clean_up_after, stop_listening, event, watch_listener, wake);
    forward_pal!(0, stream: watch, rewatch, unwatch, wait_readable);

    fn now(&self) -> Time {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let passed = u64::try_from(START.elapsed().as_nanos());
        Time(passed.expect("less than centuries"))
    }

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.0.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.0.accept()
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        self.0.wait(ready, until);
        if ready.is_empty() && until != Deadline::Now {
            thread::sleep(PAUSE);
        }
    }

    fn wait_event(&self, event: &Flag, until: Deadline) {
        self.0.wait_event(event, until);
        if !event.is_set() && until != Deadline::Now {
            thread::sleep(PAUSE);
        }
    }
}

fn mux(base: &Path) -> impl Fn(Vmid) -> MuxMember + Send + Sync + 'static {
    let family = MuxFamily::new(base.to_owned());
    move |vmid| family.member(vmid)
}

/// The sockets of virtual machines, at this machine itself.
const VSOCK: Addresses = Addresses::Vsock {
    cid: 1,
    base: 40_000,
};

/// Ports that no other process has, at an address of this machine that no other run of these tests uses: all that begin
/// with 127 are its own. The ports of connections begin above 32767.
fn free_ports() -> Addresses {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = IpAddr::from(Ipv4Addr::new(127, high, middle, low));
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 10_000 + number * 200;
        let all = (base..base + 200).map(|port| TcpListener::bind((host, port)));
        if all.collect::<Result<Vec<_>, _>>().is_ok() {
            return Addresses::Tcp { host, base };
        }
    }
}

/// Checks the host's platform on a network, if this machine has it.
fn network(check: Check, addresses: &Addresses) -> CheckResult {
    let first = Vmid::new(1).expect("a VMID");
    Host::listen_at(addresses, first).map_err(|error| error.to_string())?;
    let addresses = addresses.clone();
    Ok(check.run(move |vmid| {
        let host = Host::listen_at(&addresses, vmid).expect("an address");
        host.allow_plain()
    }))
}

fn secure(base: &Path) -> impl Fn(Vmid) -> Arc<SecurePal<Host>> + Send + Sync + 'static {
    encrypted(host(base))
}

/// Makes the streams of a platform secure, with a key of their own.
fn encrypted(
    host: impl Fn(Vmid) -> Host + Send + Sync + 'static,
) -> impl Fn(Vmid) -> Arc<SecurePal<Host>> + Send + Sync + 'static {
    let mut key = [0; 32];
    random(&mut key).expect("random bytes");
    move |vmid| {
        let key = FamilyKey::new(1, &key);
        Arc::new(SecurePal::new(host(vmid), vmid, key, random))
    }
}

fn faulty(base: &Path) -> impl Fn(Vmid) -> &'static FaultInjector<Host> + Send + Sync + 'static {
    let host = host(base);
    move |vmid| {
        let seed = vmid.get().into();
        Box::leak(Box::new(FaultInjector::new(
            host(vmid),
            Faults::HARMLESS,
            seed,
        )))
    }
}

/// Returns the platform of the guide. All members have one port, which the first of them gets from the
/// system.
fn tiny() -> impl Fn(Vmid) -> Tiny + Send + Sync + 'static {
    let first = Vmid::new(1).expect("a VMID");
    let port = Tiny::listen(first, 0).expect("a port").port;
    move |vmid| Tiny::listen(vmid, port).expect("an address")
}
