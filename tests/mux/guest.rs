//! A member behind a channel, and a family around it.

use std::ffi::CString;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libos_ipc::host::{HostNode, Proxy, ProxyEnd};
use libos_ipc::pal::Pal;
use libos_ipc::pal::mux::{ByteChannel, MuxEndpoint, MuxPal};
use libos_ipc::wire::MetaCode;
use libos_ipc::{
    ChildSelector, Config, Driving, Embedder, Exit, Identity, Metadata, MetadataReply, Node, Pid,
    Signal, SignalReply, Target, Wait,
};
use tempfile::TempDir;

use crate::channel::SocketChannel;

pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const STREAMS: usize = 8;
const WINDOW: usize = 512;

pub(crate) type End = MuxEndpoint<SocketChannel, STREAMS, WINDOW>;
pub(crate) type Member<'t> = Node<'t, MuxPal<'t, SocketChannel, STREAMS, WINDOW>>;

pub(crate) struct Family {
    pub(crate) leader: HostNode,
    directory: TempDir,
}

impl Family {
    pub(crate) fn new() -> Family {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        leader.join(WAIT).unwrap();
        Family { leader, directory }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.directory.path().join("f")
    }

    pub(crate) fn member(&self) -> HostNode {
        let child = self.leader.start_child(WAIT).unwrap();
        let node = HostNode::start(&self.base(), child, Config::DEFAULT).unwrap();
        node.join(WAIT).unwrap();
        node
    }

    /// Starts the proxy of a child, and returns the child's identity, its end of the channel, and
    /// the proxy's thread.
    pub(crate) fn behind_channel(&self) -> (Identity, UnixStream, JoinHandle<ProxyEnd>) {
        let child = self.leader.start_child(WAIT).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let proxy = Proxy::new(&self.base(), child.vmid, theirs).unwrap();
        (child, ours, thread::spawn(move || proxy.run()))
    }
}

struct Os;

const LONG_PATH: &str = "/a/rather/long/path";

impl<P: Pal> Embedder<P> for Os {
    fn signal(&self, node: &Node<'_, P>, _: &Signal, reply: SignalReply) {
        reply.send(node, Ok(())).unwrap();
    }

    fn metadata(&self, node: &Node<'_, P>, _: Pid, _: MetaCode, reply: MetadataReply) {
        let path = CString::new(LONG_PATH.repeat(200)).unwrap();
        reply.send(node, Ok(Metadata::Path(&path))).unwrap();
    }
}

/// Runs a member behind a channel in this thread, and checks that all its bytes are sent.
pub(crate) fn run<T>(
    identity: Identity,
    channel: UnixStream,
    act: impl FnOnce(&Member<'_>) -> T,
) -> T {
    let (done, is_sent) = run_within(Duration::from_secs(20), identity, channel, act);
    assert!(is_sent);
    done
}

/// Like [`run`], but returns whether all its bytes were sent.
pub(crate) fn run_and_flush<T>(
    identity: Identity,
    channel: UnixStream,
    act: impl FnOnce(&Member<'_>) -> T,
) -> (T, bool) {
    run_within(Duration::from_secs(1), identity, channel, act)
}

/// Like [`run_and_flush`], with the time in which the bytes must be sent at the end.
fn run_within<T>(
    limit: Duration,
    identity: Identity,
    channel: UnixStream,
    act: impl FnOnce(&Member<'_>) -> T,
) -> (T, bool) {
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let endpoint = Box::new(End::new(SocketChannel::new(channel)));
    let mut memory = Box::new_uninit_slice(Member::memory(&identity, &config).total());
    let node = Node::new(endpoint.pal(), identity, config, &mut memory).unwrap();
    let os = Os;
    let node = node.with_embedder(&os);
    let done = act(&node);
    let is_sent = node.shut_down(limit);
    drop(node);
    let is_sent = endpoint.flush(endpoint.channel().now() + limit) && is_sent;
    assert_eq!(endpoint.fault(), None);
    (done, is_sent)
}

#[test]
fn a_member_behind_a_channel_takes_part_in_the_family() {
    let family = Family::new();
    let (identity, channel, proxy) = family.behind_channel();
    let other = family.member();
    let handle = family.leader.share::<u64>(Some(1)).unwrap();
    *handle.write(WAIT).unwrap() = 1;
    let end = thread::spawn(move || {
        run(identity, channel, |node| {
            let pid = node.join(WAIT).unwrap();
            let value = node.share::<u64>(Some(1)).unwrap();
            *value.write(WAIT).unwrap() += 1;
            for _ in 0..100 {
                node.take_id(WAIT).unwrap();
            }
            // The member works until the value is 100.
            drop(value.wait_for(WAIT, |value| *value == 100).unwrap());
            drop(value);
            let exit = Exit {
                code: 7,
                ..Exit::default()
            };
            node.exit(exit, WAIT).unwrap();
            pid
        })
    });
    drop(handle.wait_for(WAIT, |value| *value == 2).unwrap());
    let pid = identity.pid;
    other.kill(Target::Process(pid.unwrap()), 10, WAIT).unwrap();
    let mut path = [0; 4096];
    let length = other
        .path_of(pid.unwrap(), MetaCode::Root, &mut path, WAIT)
        .unwrap();
    assert_eq!(length, 200 * LONG_PATH.len());
    *handle.write(WAIT).unwrap() = 100;
    assert_eq!(end.join().unwrap(), pid.unwrap());
    let exit = family
        .leader
        .wait_child(ChildSelector::Pid(pid.unwrap()), WAIT)
        .unwrap();
    assert_eq!((exit.code, exit.signal), (7, 0));
    assert_eq!(proxy.join().unwrap(), ProxyEnd::Closed);
}
