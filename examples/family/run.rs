//! The leader's side of a run: starts the members, kills one, stops the others, looks at what is
//! left.

use std::fs::{Permissions, create_dir};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use libos_ipc::host::raise_descriptor_limit;
use libos_ipc::{Capacities, Config, Identity, Vmid};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::account::{self, ALL, Account};
use crate::common::{lead, left};
use crate::control::Command;
use crate::key::Key;
use crate::kin::{Kin, Member, Stage, Start};
use crate::os::{Event, Os};
use crate::platform::{FamilyNode, merge_traces};
use crate::{RunOptions, WAIT, holds, verdict, world};

/// What all members do at once, they do in this time.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The longest that members work for a number of IDs.
const WORK_LIMIT: Duration = Duration::from_mins(10);

/// How soon the leader has to notice that a member is gone.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);

/// How many of the leader's last events are told.
const EVENTS: usize = 40;

pub(crate) fn run(options: &RunOptions) -> ExitCode {
    lead("family", |wrong| family(options, wrong))
}

fn family(options: &RunOptions, wrong: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("family-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("a directory for the family")?;
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let traces = match &options.trace {
        Some(_) => {
            let traces = directory.path().join("traces");
            create_dir(&traces).context("a directory for the recordings")?;
            Some(traces)
        }
        None => None,
    };
    let outcome = live(options, directory.path(), traces.as_deref(), wrong);
    // Also, and above all, if something went wrong. All recordings have ended.
    if let (Some(traces), Some(to)) = (traces, &options.trace) {
        merge_traces(&traces, to)?;
    }
    outcome
}

fn live(
    options: &RunOptions,
    directory: &Path,
    traces: Option<&Path>,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let mut run = Run::start(options, directory, traces)?;
    let outcome = run.all(directory, traces, wrong);
    if outcome.is_err() || !wrong.is_empty() {
        run.account.finish();
        let events: Vec<_> = run.leader.events().collect();
        println!("what happened last at the leader:");
        for event in events.iter().skip(events.len().saturating_sub(EVENTS)) {
            println!("{event}");
        }
    }
    outcome
}

struct Run<'a> {
    options: &'a RunOptions,
    /// The members go before the leader does.
    kin: Kin,
    leader: FamilyNode,
    key: Key,
    /// What happens to this process.
    events: Receiver<Event>,
    /// The one that is going to be killed.
    victim: Vmid,
    account: Account,
    interrupted: Arc<AtomicBool>,
}

impl<'a> Run<'a> {
    /// Becomes the leader, and starts the members.
    fn start(options: &'a RunOptions, directory: &Path, traces: Option<&Path>) -> Result<Run<'a>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let base = directory.join("f");
        let config = Config {
            capacities: Capacities::LARGE,
            ..Config::DEFAULT
        };
        let (os, events) = Os::new();
        let key = Key::fresh(options.secure)?;
        let leader = FamilyNode::start(&base, Identity::LEADER, config, os, traces, &key)?;

        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let mut random = fastrand::Rng::with_seed(seed);
        let vmids: Vec<Vmid> = (0..options.members)
            .map(|_| leader.new_vmid(WAIT))
            .collect::<Result<_, _>>()?;
        let victim = random.choice(&vmids).copied().context("no members")?;
        let account = Account::new(options);
        account.say(&format!(
            "members: {}; member {victim} is going to be killed; seed {seed}",
            vmids.len()
        ));

        let mut kin = Kin::new();
        for vmid in &vmids {
            kin.start(Start {
                base: &base,
                key: &key,
                vmid: *vmid,
                others: vmids
                    .iter()
                    .copied()
                    .filter(|other| other != vmid)
                    .collect(),
                log: directory.join(format!("log.{vmid}")),
                seed: random.u64(..),
                // The one that is going to be killed is at work until then.
                ids: options.ids.filter(|_| *vmid != victim),
                traces,
                is_watched: options.top,
            })?;
        }
        Ok(Run {
            options,
            kin,
            leader,
            key,
            events,
            victim,
            account,
            interrupted,
        })
    }

    /// The work, and the world of processes after it.
    fn all(
        &mut self,
        directory: &Path,
        traces: Option<&Path>,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        self.work()?;
        wrong.extend(self.stop()?);
        let (count, overlaps) = verdict::holds(&self.kin)?;
        self.account.say(&format!("{count} holds of IDs compared"));
        wrong.extend(overlaps);
        account::table(&self.kin, &self.leader.statistics());
        let Run {
            leader,
            key,
            events,
            account,
            options,
            ..
        } = self;
        let base = directory.join("f");
        let world = world::run(leader, events, &base, traces, key, options.members, account);
        wrong.extend(world.context("the world of processes")?);
        leader.give_back_ids(WAIT)?;
        wrong.extend(left(leader, |_, _| false));
        Ok(())
    }

    /// From the moment that all are there until all is done, with a death in between.
    fn work(&mut self) -> Result<()> {
        self.kin.listen_until(
            "starting",
            STEP_LIMIT,
            |_| (),
            |kin| kin.all_at(Stage::Ready),
        )?;
        self.account.say("all have joined");
        self.kin.tell_all(Command::Go);
        let begin = Instant::now();
        let Run {
            options,
            kin,
            leader,
            victim,
            account,
            interrupted,
            ..
        } = self;
        let limit = if options.ids.is_some() {
            WORK_LIMIT
        } else {
            options.seconds + STEP_LIMIT
        };
        let done = |kin: &Kin| {
            if interrupted.load(Ordering::Relaxed) {
                ALL
            } else {
                done(options, kin, begin.elapsed())
            }
        };
        let has_begun = |kin: &Kin| {
            kin.member(*victim)
                .is_some_and(|member| member.counts.taken > 0)
        };
        kin.listen_until(
            "the first half of the work",
            limit,
            |kin| account.tick(kin, leader, done(kin)),
            |kin| done(kin) >= ALL / 2 && has_begun(kin),
        )?;
        kill(kin, leader, *victim, account)?;
        kin.listen_until(
            "the work",
            limit,
            |kin| account.tick(kin, leader, done(kin)),
            |kin| done(kin) >= ALL,
        )
    }

    /// Ends the work: nobody gives anything back, let alone leaves, before all have stopped
    /// handing IDs on. Returns what is wrong then.
    fn stop(&mut self) -> Result<Vec<String>> {
        self.kin.tell_all(Command::Stop);
        self.kin.listen_until(
            "stopping",
            STEP_LIMIT,
            |_| (),
            |kin| kin.all_at(Stage::Stopped),
        )?;
        self.kin.tell_all(Command::Empty);
        self.kin.listen_until(
            "giving back",
            STEP_LIMIT,
            |_| (),
            |kin| kin.all_at(Stage::Emptied),
        )?;
        self.account.finish();
        self.account
            .say("all have stopped and given back what they had");
        let mut wrong = verdict::table(&self.leader, &self.kin)?;
        self.kin.tell_all(Command::Leave);
        let all_left = |kin: &Kin| kin.members.iter().all(|member| member.silent);
        self.kin
            .listen_until("leaving", STEP_LIMIT, |_| (), all_left)?;
        wrong.extend(left(&self.leader, |_, _| false));
        wrong.extend(verdict::members(&self.kin));
        Ok(wrong)
    }
}

/// How much of the work is done, of [`ALL`].
fn done(options: &RunOptions, kin: &Kin, time: Duration) -> u64 {
    let Some(ids) = options.ids else {
        let done = time.as_millis() * u128::from(ALL) / options.seconds.as_millis();
        return u64::try_from(done).unwrap_or(ALL);
    };
    if kin.all_at(Stage::Done) && kin.members.iter().any(Member::is_killed) {
        return ALL;
    }
    let taken: u64 = kin
        .members
        .iter()
        .map(|member| member.counts.taken.min(ids))
        .sum();
    let wanted = ids.saturating_mul(kin.members.len() as u64);
    // All of it is done only when the members say so.
    (taken.saturating_mul(ALL) / wanted).min(ALL - 1)
}

/// Kills the member and waits until the leader has taken back what it had.
fn kill(kin: &mut Kin, leader: &FamilyNode, victim: Vmid, account: &Account) -> Result<()> {
    kin.kill(victim)?;
    let since = Instant::now();
    let log = kin
        .member(victim)
        .map(|member| member.log.clone())
        .context("no such member")?;
    // It may be long, and the others wait to hear of what was handed to them.
    let reading =
        thread::spawn(move || holds::read(&log).map(|records| holds::held_at_end(&records)));
    kin.listen_until(
        "reading its log",
        STEP_LIMIT,
        |_| (),
        |_| reading.is_finished(),
    )?;
    let held = reading
        .join()
        .map_err(|_| anyhow!("reading a log has panicked"))??;
    account.say(&format!(
        "killed member {victim}, which held {} IDs",
        held.len()
    ));
    let came_back = |kin: &Kin| {
        let given = kin
            .gifts
            .iter()
            .filter(|gift| gift.to == victim)
            .map(|gift| gift.id);
        let its = |id| leader.owner_of(id, WAIT) == Ok(Some(victim));
        kin.member(victim).is_some_and(|member| member.silent)
            && !held.iter().copied().chain(given).any(its)
    };
    let what = format!("taking back what member {victim} had");
    kin.listen_until(&what, NOTICE_LIMIT, |_| (), came_back)?;
    account.say(&format!(
        "what it had came back, {:.1?} after its death at the latest",
        since.elapsed()
    ));
    Ok(())
}
