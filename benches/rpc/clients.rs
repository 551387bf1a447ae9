//! Many clients at once.

use std::io::{BufRead, Result};
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, Vmid};

use crate::common::bar::verdict;
use crate::common::process::{Child, idle_ticks, ready, unpin};
use crate::common::{Bar, REPETITIONS, WAIT, large};
use crate::process::Family;

/// The time for which the clients send requests in one measurement.
const ROUND: Duration = Duration::from_millis(200);

/// Measures the rate of 8 clients beside that of one.
pub(crate) fn at_once(pinned: bool) -> Result<()> {
    let family = Family::start(&large())?;
    let base = family.base().to_str().expect("UTF-8");
    let mut clients = (2..10)
        .map(|vmid: u32| Child::start(&["client", base, &vmid.to_string()]))
        .collect::<Result<Vec<_>>>()?;
    let cores = if pinned { 1.0 } else { f64::from(unpin()?) };
    // The rate of one client and of all, and the load of the leader and of all cores meanwhile in percent of a core.
    let mut figures = [const { Vec::new() }; 4];
    for _ in 0..REPETITIONS {
        let [alone, together, leader_load, load] = &mut figures;
        alone.push(rate(&mut clients[..1])?);
        let (busy, idle, start) = (family.leader.ticks()?, idle_ticks(pinned)?, Instant::now());
        together.push(rate(&mut clients)?);
        let seconds = start.elapsed().as_secs_f64();
        leader_load.push(f64::from(family.leader.ticks()? - busy) / seconds);
        load.push(100.0 - f64::from(idle_ticks(pinned)? - idle) / seconds / cores);
    }
    let [alone, together, leader_load, load] = figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    });
    let times = together / alone;
    // If the cores are busy all the time, more clients cannot get more.
    let verdict = if load < 95.0 {
        verdict(times, Bar::AtLeast(2.5))
    } else {
        "saturated".to_owned()
    };
    println!(
        "  1 client: {alone:.0} requests/s; 8 at once: {together:.0}, {times:.1} times as many  \
         {verdict}"
    );
    println!(
        "    (meanwhile the leader takes {leader_load:.0} % of a core, \
         and the {cores} there are were {load:.0} % busy)"
    );
    Ok(())
}

/// Returns the number of requests a second of all clients together.
fn rate(clients: &mut [Child]) -> Result<f64> {
    for client in clients.iter_mut() {
        client.tell("go")?;
    }
    let mut sum = 0.0;
    for client in clients {
        sum += client.line()?.parse::<f64>().expect("a number");
    }
    Ok(sum)
}

/// Runs a client: for each line of standard input it sends requests for a while, and prints their rate.
pub(crate) fn client(base: &str, vmid: u32) -> Result<()> {
    let vmid = Vmid::new(vmid).expect("not 0");
    let identity = Identity::child(vmid, Vmid::LEADER);
    let node = HostNode::start(Path::new(base), identity, Config::DEFAULT)?;
    node.owner_of(1, WAIT).expect("the leader answers");
    ready()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < ROUND {
            node.owner_of(count, WAIT).expect("the leader answers");
            count += 1;
        }
        println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    }
    Ok(())
}
