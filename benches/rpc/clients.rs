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

const ROUND: Duration = Duration::from_millis(200);

/// Measures the rate of 8 clients beside that of one.
pub(crate) fn at_once(pinned: bool) -> Result<()> {
    let family = Family::start(&large())?;
    let base = family.base().to_str().expect("UTF-8");
    let mut clients = (2..10)
        .map(|vmid: u32| Child::start(&["client", base, &vmid.to_string()]))
        .collect::<Result<Vec<_>>>()?;
    let cores = if pinned { 1.0 } else { f64::from(unpin()?) };
    let mut figures = [const { Vec::new() }; 4];
    for _ in 0..REPETITIONS {
        figures[0].push(rate(&mut clients[..1])?);
        let (busy, idle, start) = (family.leader.ticks()?, idle_ticks(pinned)?, Instant::now());
        figures[1].push(rate(&mut clients)?);
        let span = start.elapsed().as_secs_f64();
        figures[2].push(f64::from(family.leader.ticks()? - busy) / span);
        figures[3].push(100.0 - f64::from(idle_ticks(pinned)? - idle) / span / cores);
    }
    let [alone, together, leader, all] = figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    });
    let times = together / alone;
    // If the cores are busy all the time, more clients cannot get more.
    let judged = if all < 95.0 {
        verdict(times, Bar::AtLeast(2.5))
    } else {
        "saturated".to_owned()
    };
    println!(
        "  1 client: {alone:.0} requests/s; 8 at once: {together:.0}, {times:.1} times as many  \
         {judged}"
    );
    println!(
        "    (meanwhile the leader takes {leader:.0} % of a core, \
         and the {cores} there are were {all:.0} % busy)"
    );
    Ok(())
}

/// Requests a second, of all together.
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
