//! The signals from the leader to processes, and between processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::{Error, ProcessState, Target, Wait};

use crate::slots::{Register, Sent};

/// The leader's signals to one process, to a group, and to all.
pub(crate) const ONE: i32 = 10;
pub(crate) const GROUP: i32 = 12;
pub(crate) const ALL: i32 = 18;
/// The signals of processes to each other, and to the leader.
pub(crate) const HELLO: i32 = 17;

/// Signals processes, one by one, by their group, and all of them, until `stop` is set.
pub(crate) fn signal(
    leader: &HostNode,
    register: &Register,
    wait: Wait<'_>,
    stop: &AtomicBool,
    alls: &AtomicU64,
) -> Result<()> {
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        round = round.wrapping_add(1);
        thread::sleep(Duration::from_millis(5));
        if round.is_multiple_of(200) {
            leader
                .kill(Target::All, ALL, wait)
                .context("signalling all")?;
            alls.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Some(pid) = register.any() else { continue };
        let by_group = round.is_multiple_of(4);
        let note = |accepted: u64, unsure: i64| {
            register.change(pid, |known| {
                let sent: &mut Sent = if by_group {
                    &mut known.groups
                } else {
                    &mut known.ones
                };
                sent.accepted += accepted;
                sent.unsure = sent.unsure.saturating_add_signed(unsure);
            });
        };
        note(0, 1);
        let sent = if by_group {
            leader.kill(Target::Group(Some(pid)), GROUP, wait)
        } else {
            leader.kill(Target::Process(pid), ONE, wait)
        };
        match sent {
            // A child that has ended and was not reaped can be signalled, too, but receives
            // nothing.
            Ok(()) => {
                let process = leader.process(Some(pid), wait);
                if process.is_ok_and(|process| process.state == ProcessState::Running) {
                    note(1, -1);
                }
            }
            // The target has not joined yet, or has ended; and may have received the signal at the
            // last moment.
            Err(Error::NoSuchProcess | Error::Refused { .. }) => {}
            Err(error) => return Err(error).with_context(|| format!("signalling {pid}")),
        }
    }
    Ok(())
}
