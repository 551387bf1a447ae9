//! Processes of a family: their ends and waits for them, signals, groups, sessions, and metadata.
//! The semantics are those of `wait(2)`, `kill(2)`, `setpgid(2)`, `setsid(2)` and POSIX's orphaned
//! groups.

mod bare;
mod c_leader;
mod ending;
mod exits;
mod family;
mod forks;
mod group_kill;
mod groups;
mod ids;
mod kernel;
mod members;
mod metadata;
mod order;
mod orphans;
mod pending;
mod pids;
mod queued;
mod reaping;
mod signals;
