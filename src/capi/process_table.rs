//! Processes, groups and sessions of the family.

use core::ffi::c_int;

use super::ffi_copy::{read, write};
use super::tables::libos_ipc_process;
use super::{node, status, wait};
use crate::error::{Error, Invalid};
use crate::wire::{Process, ProcessChange, ProcessFlags};
use crate::{Pid, Vmid};

fn process_of(process: &Process) -> libos_ipc_process {
    libos_ipc_process {
        start_seq: process.start_seq,
        pid: process.pid.get(),
        vmid: Vmid::number(process.vmid),
        parent: Pid::number(process.parent),
        group: process.group.get(),
        session: process.session.get(),
        state: process.state.number(),
        flags: process.flags.bits(),
        reserved: 0,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_get_process(pid: u32, process: *mut libos_ipc_process) -> c_int {
    let found = node().and_then(|node| node.process(Pid::new(pid), wait()));
    // SAFETY: the header requires NULL or room for the struct.
    status(found.map(|found| unsafe { write(process, process_of(&found)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_next_process(process: *mut libos_ipc_process) -> c_int {
    status(node().and_then(|node| {
        // SAFETY: the header requires NULL or a whole struct.
        let last = unsafe { read(process) }?;
        let next = node.process_after(last.start_seq, wait())?;
        let next = next.ok_or(Error::NoSuchProcess)?;
        // SAFETY: as above.
        unsafe { write(process, process_of(&next)) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_getpgid(pid: u32, group: *mut u32) -> c_int {
    let found = node().and_then(|node| node.group_of(Pid::new(pid), wait()));
    // SAFETY: the header requires NULL or room for a number.
    status(found.map(|found| unsafe { write(group, found.get()) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_getsid(pid: u32, session: *mut u32) -> c_int {
    let found = node().and_then(|node| node.session_of(Pid::new(pid), wait()));
    // SAFETY: the header requires NULL or room for a number.
    status(found.map(|found| unsafe { write(session, found.get()) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_setpgid(pid: u32, group: u32) -> c_int {
    status(node().and_then(|node| node.set_group(Pid::new(pid), Pid::new(group), wait())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_setsid(session: *mut u32) -> c_int {
    let new = node().and_then(|node| node.new_session(wait()));
    // SAFETY: the header requires NULL or room for a number.
    status(new.map(|new| unsafe { write(session, new.get()) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_set_process_flag(flag: u32, is_set: bool) -> c_int {
    let change = match ProcessFlags::from_bits_retain(flag) {
        ProcessFlags::SUBREAPER => ProcessChange::Subreaper,
        ProcessFlags::EXECUTED => ProcessChange::Executed,
        ProcessFlags::STOPPED => ProcessChange::Stopped,
        _ => return status(Err(Error::Invalid(Invalid::Mark))),
    };
    status(node().and_then(|node| node.mark(change, is_set, wait())))
}
