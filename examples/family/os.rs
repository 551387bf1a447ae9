//! The library OS of a process of the process tree.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};

use libos_ipc::{
    ChildExit, Embedder, Errno, MetaCode, Metadata, MetadataReply, Node, Pid, Signal, SignalReply,
    Target, Vmid,
};
use rustix::process::{getgid, getuid};

use crate::platform::Platform;

/// An event of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A signal was delivered.
    Signal(Signal),
    /// A child has ended.
    Ended(ChildExit),
    /// The leader has ended, and the family with it.
    LeaderLeft,
}

/// A process without threads that accepts every signal.
pub(crate) struct Os {
    events: Sender<Event>,
}

impl Os {
    pub(crate) fn new() -> (Os, Receiver<Event>) {
        let (events, receiver) = mpsc::channel();
        (Os { events }, receiver)
    }
}

impl Embedder<Platform> for Os {
    fn signal(&self, node: &Node<'_, Platform>, signal: &Signal, reply: SignalReply) {
        let is_here = match signal.target {
            Target::Process(pid) => node.pid() == Some(pid),
            Target::All => true,
            Target::Thread { .. } | Target::Group(_) => false,
        };
        if is_here && signal.signal != 0 {
            // A process that is ending does not receive events.
            let _ = self.events.send(Event::Signal(*signal));
        }
        let _ = reply.send(node, if is_here { Ok(()) } else { Err(Errno::ESRCH) });
    }

    fn metadata(&self, node: &Node<'_, Platform>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        let path = |path: std::io::Result<PathBuf>| {
            let path = path.map_err(|_| Errno::ENOENT)?;
            CString::new(path.into_os_string().into_vec()).map_err(|_| Errno::ENOENT)
        };
        let found = match what {
            _ if node.pid() != Some(pid) => Err(Errno::ESRCH),
            MetaCode::Credentials => {
                let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
                let _ = reply.send(node, Ok(Metadata::Credentials { uid, gid }));
                return;
            }
            MetaCode::Executable => path(std::env::current_exe()),
            MetaCode::WorkingDirectory => path(std::env::current_dir()),
            MetaCode::Root => path(Ok(PathBuf::from("/"))),
        };
        let _ = match &found {
            Ok(path) => reply.send(node, Ok(Metadata::Path(path))),
            Err(errno) => reply.send(node, Err(*errno)),
        };
    }

    fn child_ended(&self, _: &Node<'_, Platform>, exit: &ChildExit) {
        let _ = self.events.send(Event::Ended(*exit));
    }

    fn member_left(&self, _: &Node<'_, Platform>, vmid: Vmid) {
        if vmid == Vmid::LEADER {
            let _ = self.events.send(Event::LeaderLeft);
        }
    }
}
