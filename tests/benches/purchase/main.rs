//! How fast purchases are taken and fulfilled, side by side with handlers in Express: `make bench`.
//!
//! Grantsmith is the real program, compiled for release, with its default settings; so are Node and SQLite. All write to one
//! disk, and take turns. Nothing here fails for being slow: whoever reads the table decides.
//!
//! - `events`: distinct events, signed beforehand. `load`: sends them, in a closed and in an open loop.
//! - `server`: the sides, started and killed, and their records counted. `keys`: from a purchase to its key.
//! - `renewals`: a backlog against AuthForge's limit, with purchases in between.
//! - `machine`: processor time and memory, and what else was running. `report`: tables and ratios.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a benchmark prints, and may give up"
)]

mod events;
mod keys;
mod load;
mod machine;
mod renewals;
mod report;
mod server;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{Fake, Settings, Switches};
use grantsmith_tests::measure::{median, percent, short, table};

use crate::events::{Events, Kind};
use crate::load::{Connection, Round, Schedule};
use crate::machine::{CALM, said};
use crate::report::{Ratio, Series, ratios};
use crate::server::{Parts, Server, Side};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    rounds: usize,
    warm_up: Duration,
    closed: Duration,
    open: Duration,
    keys: Duration,
    /// Disturbed rounds that are run again, in all.
    again: usize,
}

const DEFAULT: Lengths = Lengths {
    rounds: 3,
    warm_up: Duration::from_millis(1_500),
    closed: Duration::from_millis(4_500),
    open: Duration::from_secs(6),
    keys: Duration::from_secs(18),
    again: 12,
};
const QUICK: Lengths = Lengths {
    rounds: 1,
    warm_up: Duration::from_secs(1),
    closed: Duration::from_secs(2),
    open: Duration::from_secs(2),
    keys: Duration::from_secs(5),
    again: 2,
};

/// Events of the open loop a second: on the disk as it is, and on the slow one, where the Express handler's own limit is
/// below 500.
const RATE: u32 = 500;
const RATE_SLOW: u32 = 250;
/// Purchases a second on their way to a key.
const KEY_RATE: u32 = 20;
/// More than any side answers in a second; if not, a round ends when they are used up.
const MOST_A_SECOND: usize = 32_000;

struct Bench {
    parts: Parts,
    lengths: Lengths,
    again: usize,
}

fn main() -> anyhow::Result<()> {
    let mut lengths = DEFAULT;
    let mut only = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => lengths = QUICK,
            // From cargo.
            "--bench" => {}
            part @ ("acknowledge" | "keys" | "renewals" | "footprint") => only = Some(part.to_owned()),
            other => {
                bail!("'{other}' is unknown; there are --quick, acknowledge, keys, renewals and footprint")
            }
        }
    }
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let begun = Instant::now();
    // AuthForge has a thread of its own, so that it does not wait for the load.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (authforge, slow_authforge) = runtime.block_on(fakes())?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let parts = Parts::new(folder.path().to_owned(), authforge.url())?;
    print_setting(&parts);
    let mut bench = Bench { parts, lengths, again: lengths.again };
    if wanted("acknowledge") {
        for slow in [false, true] {
            bench.acknowledge(slow)?;
        }
    }
    if wanted("keys") {
        bench.parts.authforge = slow_authforge.url();
        bench.keys()?;
    }
    if wanted("renewals") {
        let many = if lengths.rounds == QUICK.rounds { 1_000 } else { 10_000 };
        renewals::run(&mut bench.parts, &runtime, many)?;
    }
    if wanted("footprint") {
        bench.footprint()?;
    }
    println!("\nTook {:.0} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn fakes() -> anyhow::Result<(Fake, Fake)> {
    let latency_ms = u64::try_from(keys::AUTHFORGE.as_millis())?;
    let slow = Switches { latency_ms, ..Switches::default() };
    let fast = Fake::start(Settings::new(Arc::new(SystemClock))).await?;
    Ok((fast, Fake::start(Settings::new(Arc::new(SystemClock)).with(slow)).await?))
}

impl Bench {
    /// A round on a fresh server, run again if other work disturbed it. Gives the server's memory after it too.
    fn round(
        &mut self,
        side: Side,
        slow: bool,
        run: impl Fn(&Server) -> anyhow::Result<Round>,
    ) -> anyhow::Result<(Round, f64)> {
        loop {
            let server = Server::start(side, &self.parts, slow)?;
            let round = run(&server).with_context(|| format!("{} said:\n{}", side.name(), server.log()))?;
            let resident = server.resident();
            if !matches!(side, Side::Guide | Side::GuideDurable) {
                let (kept, acknowledged) = (server.kill_and_count()?, round.acknowledged);
                ensure!(kept == acknowledged, "{} acknowledged {acknowledged} and kept {kept}", side.name());
            }
            if round.spent.other <= CALM || self.again == 0 {
                return Ok((round, resident));
            }
            self.again -= 1;
            eprintln!("  again: other work used {} of the machine", percent(round.spent.other));
        }
    }

    fn acknowledge(&mut self, slow: bool) -> anyhow::Result<()> {
        let Lengths { rounds, warm_up, closed, open, .. } = self.lengths;
        let seconds = (warm_up + closed).as_secs_f64().ceil();
        let count = MOST_A_SECOND * format!("{seconds:.0}").parse::<usize>()?;
        let rate = if slow { RATE_SLOW } else { RATE };
        let [purchases, others] =
            [Kind::Purchases, Kind::NotOurs].map(|kind| Events::signed(kind, count, rate));
        let sides = [
            (Side::Grantsmith, &purchases, "grantsmith"),
            (Side::Grantsmith, &others, "grantsmith, nothing to fulfil"),
            (Side::Single, &purchases, Side::Single.name()),
            (Side::Grouped, &purchases, Side::Grouped.name()),
        ];
        let disk = if slow { "every sync of every side takes 2 ms" } else { "the disk as it is" };
        println!("\n## Acknowledged durably: {disk}\n");
        println!(
            "Closed loop, {} connections, events of {} bytes, from a shop in which {rate} happen a second, medians of \
             {rounds} rounds of {:.1} s.",
            load::CONNECTIONS,
            purchases.size(),
            closed.as_secs_f64()
        );
        let mut series = sides.map(|(_, _, name)| Series::new(name));
        let mut memory = sides.map(|_| Vec::new());
        for number in 1..=rounds {
            eprintln!("  {disk}: closed loop, round {number} of {rounds}");
            for (place, (side, events, _)) in sides.into_iter().enumerate() {
                let run = |server: &Server| {
                    load::run(load::closed(server.http, server.pid(), events.clone(), warm_up, closed))
                };
                let (round, resident) = self.round(side, slow, run)?;
                series[place].rounds.push(round);
                memory[place].push(resident);
            }
        }
        print_closed(&series, memory.map(median));
        println!("\nOpen loop, {rate} events a second, latency from the time that each was due.");
        let sides = [Side::Grantsmith, Side::Single, Side::Grouped];
        let mut series = sides.map(|side| Series::new(side.name()));
        for number in 1..=rounds {
            eprintln!("  {disk}: open loop, round {number} of {rounds}");
            for (place, side) in sides.into_iter().enumerate() {
                let run = |server: &Server| {
                    let schedule = Schedule::new(rate, warm_up, open);
                    load::run(load::open(server.http, server.pid(), purchases.clone(), schedule))
                };
                series[place].rounds.push(self.round(side, slow, run)?.0);
            }
        }
        print_open(&series);
        Ok(())
    }

    fn keys(&mut self) -> anyhow::Result<()> {
        let Lengths { warm_up, keys, .. } = self.lengths;
        let seconds = (warm_up + keys).as_secs_f64().ceil() * f64::from(KEY_RATE);
        let events = Events::signed(Kind::Purchases, format!("{seconds:.0}").parse()?, KEY_RATE);
        println!("\n## From a purchase to its key on the success page\n");
        println!(
            "{KEY_RATE} purchases a second for {} s, AuthForge takes {} ms: the time beyond AuthForge's own.",
            keys.as_secs(),
            keys::AUTHFORGE.as_millis()
        );
        let sides = [Side::Grantsmith, Side::Guide, Side::GuideDurable];
        let mut series = sides.map(|side| Series::new(side.name()));
        for (place, side) in sides.into_iter().enumerate() {
            eprintln!("  keys: {}", side.name());
            let run = |server: &Server| {
                let schedule = Schedule::new(KEY_RATE, warm_up, keys);
                load::run(keys::bought(server.http, server.pid(), events.clone(), schedule))
            };
            series[place].rounds.push(self.round(side, false, run)?.0);
        }
        print_open(&series);
        let [ours, guide, durable] = &series;
        let p99 = |series: &Series| series.median(|round| round.percentile(99.0));
        let faster = if p99(guide) < p99(durable) { guide } else { durable };
        println!("{}", ratios(ours, faster, &[Ratio::less("p99", p99(ours), p99(faster), Some(1.0))]));
        Ok(())
    }

    fn footprint(&mut self) -> anyhow::Result<()> {
        println!("\n## Footprint\n");
        let mut rows = Vec::new();
        for side in [Side::Grantsmith, Side::Single, Side::Guide] {
            let (mut starts, mut idle) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                let begun = Instant::now();
                let mut server = Server::start(side, &self.parts, false)?;
                if side == Side::Grantsmith {
                    let admin = server.address("admin")?;
                    load::run(ready(admin))?;
                }
                starts.push(begun.elapsed().as_secs_f64() * 1_000.0);
                std::thread::sleep(Duration::from_secs(1));
                idle.push(server.resident());
            }
            rows.push(vec![side.name().to_owned(), short(median(starts)), short(median(idle))]);
        }
        print!("{}", table(&["", "start ms", "idle MiB"], &rows));
        let size = std::fs::metadata(&self.parts.program)?.len();
        println!("    the program's file: {:.1} MiB", load::count(size / 1024) / 1024.0);
        Ok(())
    }
}

/// Waits until `/readyz` is green.
async fn ready(admin: std::net::SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(admin).await?;
    loop {
        let (status, _) = connection.ask(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
        if status == 200 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn print_setting(parts: &Parts) {
    let git = |arguments: &[&str]| {
        said(Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")))
    };
    let dirty = if git(&["status", "--porcelain"]).is_empty() { "" } else { ", changed" };
    let node = |script: &str| said(Command::new("node").args(["--print", script]).current_dir(&parts.rivals));
    let package = |name: &str| {
        node(&format!("JSON.parse(fs.readFileSync('node_modules/{name}/package.json')).version"))
    };
    println!(
        "grantsmith {} at {}{dirty}, SQLite {}",
        env!("CARGO_PKG_VERSION"),
        git(&["rev-parse", "--short", "HEAD"]),
        rusqlite::version()
    );
    println!(
        "Node {}, Express {}, stripe {}, better-sqlite3 {} with SQLite {}",
        node("process.versions.node"),
        package("express"),
        package("stripe"),
        package("better-sqlite3"),
        node("new (require('better-sqlite3'))(':memory:').prepare('select sqlite_version()').pluck().get()"),
    );
    let folder: &Path = &parts.folder;
    println!(
        "{} processors, shared by server and load; disk {}, a sync of it takes {} ms",
        short(machine::processors()),
        machine::disk(folder),
        short(machine::sync_ms(folder))
    );
}

fn print_closed(series: &[Series; 4], memory: [f64; 4]) {
    let rows: Vec<_> = series
        .iter()
        .zip(memory)
        .map(|(series, memory)| {
            vec![
                series.name.clone(),
                short(series.median(Round::rate)),
                short(series.median(|round| round.percentile(50.0))),
                short(series.median(|round| round.percentile(99.0))),
                short(series.median(Round::cost)),
                short(series.median(Round::load_cost)),
                short(memory),
                percent(series.other()),
            ]
        })
        .collect();
    let head =
        ["", "events/s", "p50 ms", "p99 ms", "CPU s/1000", "load's CPU s/1000", "MiB after it", "other work"];
    print!("{}", table(&head, &rows));
    let [ours, idle, single, grouped] = series;
    for ours in [ours, idle] {
        for (theirs, faster, sooner) in [(single, 5.0, Some(5.0)), (grouped, 3.0, None)] {
            let pair = |of: &dyn Fn(&Round) -> f64| (ours.median(of), theirs.median(of));
            let (rate, p99, cost) =
                (pair(&Round::rate), pair(&|round| round.percentile(99.0)), pair(&Round::cost));
            let lines = [
                Ratio::more("events/s", rate.0, rate.1, Some(faster)),
                Ratio::less("p99", p99.0, p99.1, sooner),
                Ratio::less("CPU", cost.0, cost.1, Some(3.0)),
            ];
            println!("{}", ratios(ours, theirs, &lines));
        }
    }
}

fn print_open(series: &[Series; 3]) {
    let rows: Vec<_> = series
        .iter()
        .map(|series| {
            vec![
                series.name.clone(),
                short(series.median(|round| round.percentile(50.0))),
                short(series.median(|round| round.percentile(99.0))),
                short(series.median(Round::longest)),
                short(series.median(Round::cost)),
                percent(series.other()),
            ]
        })
        .collect();
    print!("{}", table(&["", "p50 ms", "p99 ms", "longest ms", "CPU s/1000", "other work"], &rows));
}
