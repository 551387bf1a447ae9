//! The signals of the first process to the others, and the numbers of all signals.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use libos_ipc::host::HostNode;
use libos_ipc::{Error, ProcessState, Target, Wait};

use crate::slots::{ProcessRegister, Sent};

/// The signals of the first process to one process, to a group, and to all.
pub(crate) const TO_PROCESS: i32 = 10;
pub(crate) const TO_GROUP: i32 = 12;
pub(crate) const TO_ALL: i32 = 18;
/// The signal of processes to each other, and to the first process.
pub(crate) const HELLO: i32 = 17;

/// Signals processes, one by one, by their group, and all of them, until `stop` is set. `broadcasts` counts the signals
/// for all.
pub(crate) fn signal(
    node: &HostNode,
    register: &ProcessRegister,
    wait: Wait<'_>,
    stop: &AtomicBool,
    broadcasts: &AtomicU64,
) -> Result<()> {
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        round = round.wrapping_add(1);
        thread::sleep(Duration::from_millis(5));
        if round.is_multiple_of(200) {
            match node.kill(Target::All, TO_ALL, wait) {
                // On a busy machine it may be that no process has joined yet, or that all are ending.
                Ok(()) | Err(Error::NoSuchProcess) => broadcasts.fetch_add(1, Ordering::Relaxed),
                Err(error) => return Err(error).context("signalling all"),
            };
            continue;
        }
        let Some(pid) = register.any() else { continue };
        let by_group = round.is_multiple_of(4);
        let count = |accepted: u64, unsure: i64| {
            register.change(pid, |facts| {
                let sent: &mut Sent = if by_group {
                    &mut facts.group_signals
                } else {
                    &mut facts.single_signals
                };
                sent.accepted += accepted;
                sent.unsure = sent.unsure.saturating_add_signed(unsure);
            });
        };
        // The result is unknown until the call returns.
        count(0, 1);
        let outcome = if by_group {
            node.kill(Target::Group(Some(pid)), TO_GROUP, wait)
        } else {
            node.kill(Target::Process(pid), TO_PROCESS, wait)
        };
        match outcome {
            // A child that has ended and was not reaped can be signalled, too, but receives
            // nothing.
            Ok(()) => {
                let process = node.process(Some(pid), wait);
                if process.is_ok_and(|process| process.state == ProcessState::Running) {
                    count(1, -1);
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
