//! The roles of the bench's child processes, by their names.

use std::io::Result;
use std::time::Duration;

use libos_ipc::Config;

use crate::common::floor;
use crate::common::process::{ready, wait_for_the_end};

/// Runs the role that the command line names, with its arguments.
pub(crate) fn play(role: &[String]) -> Result<()> {
    match role[0].as_str() {
        "leader" => {
            let spin = Duration::from_nanos(role[2].parse().expect("a number"));
            let config = Config {
                spin,
                ..crate::common::large()
            };
            let node = crate::kill::leader(&role[1], config)?;
            ready()?;
            wait_for_the_end()?;
            drop(node);
            Ok(())
        }
        #[cfg(feature = "secure")]
        "secure-leader" => crate::secure::leader(&role[1], role[2].parse().expect("a number")),
        "echo" => floor::echo(&role[1], role[2].parse().expect("a number")),
        "sink" => floor::sink(&role[1]),
        "target" => crate::kill::target(&role[1]),
        "members" => {
            let number = |index: usize| role[index].parse().expect("a number");
            crate::kill::members(&role[1], number(2), number(3))
        }
        "client" => crate::clients::client(&role[1], role[2].parse().expect("a number")),
        role => panic!("no role {role}"),
    }
}
