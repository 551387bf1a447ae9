//! **bounds**: no pool ever exceeds its limit. **left-over**: at the end all pools are empty.

use libos_ipc::{Pools, Usage};

/// Returns the usage of each pool, with its name in messages.
fn named_usages(pools: &Pools) -> [(&'static str, Usage); 17] {
    [
        ("peers", pools.peers),
        ("waiters", pools.waiters),
        ("ranges", pools.ranges),
        ("own ranges", pools.own_ranges),
        ("processes", pools.processes),
        ("queued signals", pools.queued_signals),
        ("children", pools.children),
        ("locks", pools.locks),
        ("locked files", pools.locked_files),
        ("waiting for locks", pools.waiting_for_locks),
        ("lock handles", pools.lock_handles),
        ("delegations", pools.delegations),
        ("delegated files", pools.delegated_files),
        ("sync handles", pools.sync_handles),
        ("served handles", pools.served_handles),
        ("sync clients", pools.sync_clients),
        ("send queue", pools.send_queue),
    ]
}

/// Checks that no pool exceeds its limit.
pub(crate) fn check_bounds(pools: &Pools) -> Result<(), String> {
    let above = named_usages(pools)
        .into_iter()
        .find(|(_, usage)| usage.peak > usage.limit || usage.now > usage.peak);
    match above {
        Some((name, usage)) => Err(format!("{name}: {usage:?}")),
        None => Ok(()),
    }
}

/// Checks the leader's pools, but for those of `kept`. The leader opens its own handles once and keeps them to the
/// end.
pub(crate) fn check_left_over(pools: &Pools, kept: &[&str]) -> Result<(), String> {
    let is_left = |(name, usage): &(&str, Usage)| match *name {
        "sync handles" => false,
        name if kept.contains(&name) => false,
        _ => usage.now > 0,
    };
    match named_usages(pools).into_iter().find(is_left) {
        Some((name, usage)) => Err(format!("{name}: {usage:?}")),
        None => Ok(()),
    }
}
