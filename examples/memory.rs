//! Prints the memory of a node, part by part, for the predefined limits.

use libos_ipc::host::Host;
use libos_ipc::{Capacities, Config, Identity, Node, Vmid};

fn main() {
    let child = Identity::child(Vmid::new(2).expect("not 0"), Vmid::LEADER);
    for (limits, capacities) in [
        ("default", Capacities::DEFAULT),
        ("large", Capacities::LARGE),
    ] {
        let config = Config {
            capacities,
            ..Config::DEFAULT
        };
        for (process, identity) in [("a leader", Identity::LEADER), ("a member", child)] {
            println!(
                "{process} with the {limits} limits, {} peers:",
                capacities.peers
            );
            println!("{}", Node::<Host>::memory(&identity, &config));
        }
    }
}
