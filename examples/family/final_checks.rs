//! The checks at the end.

use anyhow::Result;
use libos_ipc::{ID_MAX, Vmid};

use crate::WAIT;
use crate::figures::Ending;
use crate::id_log::{self, Event, Holds};
use crate::platform::FamilyNode;
use crate::processes::{Member, Processes};

/// Checks that all IDs were released: the leader's table is empty, except for an ID that the killed
/// member transferred just before its death, so that the new owner does not know of it.
pub(crate) fn table(leader: &FamilyNode, processes: &Processes) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut unknown_to_owner = 0;
    for member in processes.members.iter().filter(|member| member.is_killed()) {
        let last = id_log::read(&member.log)?.pop();
        let last_transfer = processes
            .transferred
            .iter()
            .rfind(|transfer| transfer.from == member.vmid);
        if let Some(last) = last
            && last.event == Event::Transferred
            && last_transfer.is_none_or(|transfer| transfer.id != last.id)
            && leader.owner_of(last.id, WAIT)?.is_some()
        {
            unknown_to_owner += 1;
        }
    }
    let remaining = leader.statistics().pools.ranges.now;
    if remaining != unknown_to_owner {
        faults.push(format!(
            "{remaining} ID ranges are left, though all members gave back everything"
        ));
        faults.extend(owners(leader)?);
    }
    if !leader.check_invariants() {
        faults.push("the leader's table of ID ranges has lost something".to_owned());
    }
    Ok(faults)
}

/// Lists the IDs that have an owner, and their owners.
fn owners(leader: &FamilyNode) -> Result<Vec<String>> {
    // The owner, the first and the last ID of each range.
    let mut found: Vec<(Vmid, u32, u32)> = Vec::new();
    for id in 1..=ID_MAX {
        let Some(owner) = leader.owner_of(id, WAIT)? else {
            continue;
        };
        match found.last_mut() {
            Some((last, _, end)) if *last == owner && *end + 1 == id => *end = id,
            _ => found.push((owner, id, id)),
        }
    }
    let text = |(owner, start, end)| format!("member {owner} still owns the IDs {start} to {end}");
    Ok(found.into_iter().map(text).collect())
}

/// Checks that each member but the killed one left the family in order.
pub(crate) fn members(processes: &Processes) -> Vec<String> {
    processes.members.iter().flat_map(member).collect()
}

fn member(member: &Member) -> Vec<String> {
    let vmid = member.vmid;
    let mut faults = Vec::new();
    if member.is_killed() {
        return faults;
    }
    if !member.exit.is_some_and(|exit| exit.success()) {
        faults.push(format!("member {vmid} ended with {:?}", member.exit));
    }
    let Some(report) = &member.report else {
        faults.push(format!("member {vmid} left without a report"));
        return faults;
    };
    let Ending {
        peers,
        waiters,
        own_ranges,
        send_queue,
        ..
    } = report.ending;
    for (count, what) in [
        (peers, "peers"),
        (waiters, "waiting calls"),
        (own_ranges, "ID ranges"),
        (send_queue, "bytes to send"),
    ] {
        if count > 0 {
            faults.push(format!("member {vmid} had {count} {what} when it left"));
        }
    }
    faults
}

/// Returns the number of holds of IDs, and their faults.
pub(crate) fn holds(processes: &Processes) -> Result<(usize, Vec<String>)> {
    let mut holds = Holds::default();
    for member in &processes.members {
        holds.add(member.vmid, &id_log::read(&member.log)?, member.killed_at);
    }
    Ok((holds.len(), holds.check()))
}
