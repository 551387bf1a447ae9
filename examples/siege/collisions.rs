//! Pids whose locks collide in the leader's tables, if these are plain hash tables.

/// Returns up to `count` pids of the member `vmid` whose hashes all choose the first of `buckets`
/// buckets.
pub(crate) fn pids(vmid: u32, buckets: u64, count: usize) -> Vec<u32> {
    let last_hash = u64::MAX / buckets;
    let member = u64::from(vmid) << 32;
    (1..u32::MAX)
        .filter(|pid| hash64(member | u64::from(*pid)) <= last_hash)
        .take(count)
        .collect()
}

/// Returns the hash that the leader's tables use (the finaliser of `SplitMix64`).
fn hash64(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
