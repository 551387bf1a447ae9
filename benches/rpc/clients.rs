//! Many clients at once.

use std::io::{BufRead, Result};
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, Vmid};

use crate::process::{Child, Family, ready};
use crate::{REPETITIONS, WAIT, large};

const ROUND: Duration = Duration::from_millis(200);

/// The rate of 8 clients beside that of one.
pub(crate) fn at_once(pinned: bool) -> Result<()> {
    let family = Family::start(&large())?;
    let base = family.base().to_str().expect("UTF-8");
    let mut clients = (2..10)
        .map(|vmid: u32| Child::start(&["client", base, &vmid.to_string()]))
        .collect::<Result<Vec<_>>>()?;
    let (mut alone, mut together, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        alone.push(rate(&mut clients[..1])?);
        let (before, start) = (family.leader.ticks()?, Instant::now());
        together.push(rate(&mut clients)?);
        let ticks = family.leader.ticks()? - before;
        busy.push(ticks as f64 / 100.0 / start.elapsed().as_secs_f64());
    }
    let [alone, together, busy] = [alone, together, busy].map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    });
    println!(
        "  1 client: {alone:.0} requests/s; 8 at once: {together:.0}, {:.2} times (at least 2.5, or the leader's core saturated)",
        together / alone
    );
    let share = if pinned {
        "its share of the one core"
    } else {
        "of a core"
    };
    println!(
        "  meanwhile the leader is busy {:.0} % {share}",
        busy * 100.0
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
    let identity = Identity::child(vmid, Vmid::FIRST);
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
