//! The leader's side of a run: starts the members, kills one, stops the others, looks at what is
//! left.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::host::{HostNode, raise_descriptor_limit};
use libos_ipc::{Capacities, Config, Identity, Vmid};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::account::Account;
use crate::control::Command;
use crate::kin::{Kin, Member, Stage, Start};
use crate::{RunOptions, WAIT, holds, verdict};

/// What all members do at once, they do in this time.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The longest that members work for a number of IDs.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// How soon the leader has to notice that a member is gone.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);

/// How many things that are wrong are told one by one.
const TOLD: usize = 20;

pub(crate) fn run(options: &RunOptions) -> ExitCode {
    let mut wrong = Vec::new();
    if let Err(error) = family(options, &mut wrong) {
        wrong.push(format!("{error:#}"));
    }
    for what in wrong.iter().take(TOLD) {
        println!("family: FAILED: {what}");
    }
    if let Some(more) = wrong.len().checked_sub(TOLD + 1) {
        println!("family: FAILED: and {} things more", more + 1);
    }
    if wrong.is_empty() {
        println!("family: ok");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How far the work has come: 1 is all of it.
fn done_of(options: &RunOptions, kin: &Kin, begin: Instant) -> f64 {
    let Some(ids) = options.ids else {
        return begin.elapsed().as_secs_f64() / options.seconds.as_secs_f64();
    };
    if kin.all_at(Stage::Done) && kin.members.iter().any(Member::is_killed) {
        return 1.0;
    }
    // The one that is to be killed goes on until it is.
    let taken: u64 = kin
        .members
        .iter()
        .map(|member| member.counts.taken.min(ids))
        .sum();
    taken as f64 / (ids as f64 * kin.members.len() as f64)
}

fn family(options: &RunOptions, wrong: &mut Vec<String>) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let directory = tempfile::Builder::new()
        .prefix("family-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("a directory for the family")?;
    let base = directory.path().join("f");
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let config = Config {
        capacities: Capacities::LARGE,
        wrap_ids: true,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(&base, Identity::FIRST, config)?;

    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut random = fastrand::Rng::with_seed(seed);
    let vmids: Vec<Vmid> = (0..options.members)
        .map(|_| leader.new_vmid(WAIT))
        .collect::<Result<_, _>>()?;
    let victim = random.choice(&vmids).copied().context("no members")?;

    let mut account = Account::new(options);
    account.say(format!(
        "{} members, seed {seed}; member {victim} is going to be killed",
        vmids.len()
    ));
    let mut kin = Kin::new();
    for vmid in &vmids {
        kin.start(Start {
            base: &base,
            vmid: *vmid,
            others: vmids
                .iter()
                .copied()
                .filter(|other| other != vmid)
                .collect(),
            log: directory.path().join(format!("log.{vmid}")),
            seed: random.u64(..),
            ids: options.ids.filter(|_| *vmid != victim),
        })?;
    }
    kin.listen_until(
        "starting",
        STEP_LIMIT,
        |_| (),
        |kin| kin.all_at(Stage::Ready),
    )?;
    account.say("all have joined".to_owned());

    kin.tell_all(Command::Go);
    let begin = Instant::now();
    let work_limit = if options.ids.is_some() {
        WORK_LIMIT
    } else {
        options.seconds + STEP_LIMIT
    };
    let done = |kin: &Kin| {
        if interrupted.load(Ordering::Relaxed) {
            1.0
        } else {
            done_of(options, kin, begin)
        }
    };
    let has_begun = |kin: &Kin| {
        kin.members
            .iter()
            .all(|member| member.vmid != victim || member.counts.taken > 0)
    };
    kin.listen_until(
        "the first half of the work",
        work_limit,
        |kin| account.tick(kin, done(kin)),
        |kin| done(kin) >= 0.5 && has_begun(kin),
    )?;
    kill(&mut kin, &leader, victim, &account)?;
    kin.listen_until(
        "the work",
        work_limit,
        |kin| account.tick(kin, done(kin)),
        |kin| done(kin) >= 1.0,
    )?;

    // Nobody gives anything back, let alone leaves, before all have stopped handing IDs on.
    kin.tell_all(Command::Stop);
    kin.listen_until(
        "stopping",
        STEP_LIMIT,
        |_| (),
        |kin| kin.all_at(Stage::Stopped),
    )?;
    kin.tell_all(Command::Empty);
    kin.listen_until(
        "giving back",
        STEP_LIMIT,
        |_| (),
        |kin| kin.all_at(Stage::Emptied),
    )?;
    account.finish();
    account.say("all have stopped and given back what they had".to_owned());
    wrong.extend(verdict::table(&leader, &kin)?);
    kin.tell_all(Command::Leave);
    kin.listen_until(
        "leaving",
        STEP_LIMIT,
        |_| (),
        |kin| kin.members.iter().all(|member| member.silent),
    )?;
    wrong.extend(verdict::leader(&leader));
    wrong.extend(verdict::members(&kin));
    let (count, overlaps) = verdict::holds(&kin)?;
    account.say(format!("{count} holds of IDs compared"));
    wrong.extend(overlaps);
    account.table(&kin, &leader.statistics());
    Ok(())
}

/// Kills the member and waits until the leader has taken back what it had.
fn kill(kin: &mut Kin, leader: &HostNode, victim: Vmid, account: &Account) -> Result<()> {
    kin.kill(victim)?;
    let log = |kin: &Kin| {
        kin.members
            .iter()
            .find(|member| member.vmid == victim)
            .map(|member| member.log.clone())
    };
    let records = holds::read(&log(kin).context("no such member")?)?;
    let held = holds::held_at_end(&records);
    let since = Instant::now();
    account.say(format!(
        "killed member {victim}, which held {} IDs",
        held.len()
    ));
    let is_gone = |kin: &Kin| {
        let given = kin
            .gifts
            .iter()
            .filter(|gift| gift.to == victim)
            .map(|gift| gift.id);
        let its = |id| leader.owner_of(id, WAIT) == Ok(Some(victim));
        kin.members
            .iter()
            .all(|member| member.vmid != victim || member.silent)
            && !held.iter().copied().chain(given).any(its)
    };
    let what = format!("taking back what member {victim} had");
    kin.listen_until(&what, NOTICE_LIMIT, |_| (), is_gone)?;
    account.say(format!(
        "what it had came back within {:.1?}",
        since.elapsed()
    ));
    Ok(())
}
