//! What the machine was doing meanwhile, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use grantsmith_tests::measure::processor_seconds;
use rustix::time::{ClockId, clock_gettime};

/// Other work may have used this share of the machine; beyond it no ratio is worth printing.
pub(crate) const CALM: f64 = 0.15;

/// The kernel counts in these.
const TICKS_A_SECOND: f64 = 100.0;

/// A moment, to compare a later one with.
#[derive(Debug)]
pub(crate) struct Watch {
    server: u32,
    begun: Instant,
    busy: f64,
    ours: f64,
    spent: f64,
    thread: f64,
}

/// What happened since.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Seconds that passed.
    pub(crate) seconds: f64,
    /// Processor seconds of the server.
    pub(crate) server: f64,
    /// Processor seconds of this thread, which makes the load.
    pub(crate) load: f64,
    /// The share of the whole machine that went to anything else.
    pub(crate) other: f64,
}

impl Watch {
    /// Begins to watch a server, and everything else.
    pub(crate) fn begin(server: u32) -> Self {
        let spent = processor_seconds(server);
        let ours = spent + processor_seconds(std::process::id());
        Self { server, begun: Instant::now(), busy: busy(), ours, spent, thread: thread() }
    }

    /// What was spent so far.
    pub(crate) fn spent(&self) -> Spent {
        let seconds = self.begun.elapsed().as_secs_f64();
        let server = processor_seconds(self.server);
        let ours = server + processor_seconds(std::process::id()) - self.ours;
        let other = (busy() - self.busy - ours).max(0.0) / (seconds * processors());
        Spent { seconds, server: server - self.spent, load: thread() - self.thread, other }
    }
}

/// How many processors there are.
pub(crate) fn processors() -> f64 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

/// Seconds that the machine's processors were busy, or were lent to other machines. Interrupts are left out: most of them
/// carry our own bytes, and none of them can be told to be somebody else's.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).map(number).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    [0, 1, 2, 7].iter().filter_map(|place| fields.get(*place)).sum::<f64>() / TICKS_A_SECOND
}

fn thread() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default()).as_secs_f64()
}

/// The median of a few syncs of a page, in milliseconds: what this disk costs a durable write today.
pub(crate) fn sync_ms(folder: &Path) -> f64 {
    let Ok(mut file) = fs::File::create(folder.join("sync")) else { return f64::NAN };
    let mut times: Vec<f64> = (0..200).filter_map(|_| sync_once(&mut file).ok()).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn sync_once(file: &mut fs::File) -> std::io::Result<f64> {
    use std::io::{Seek, Write};
    file.rewind()?;
    file.write_all(&[7; 4096])?;
    let begun = Instant::now();
    file.sync_data()?;
    Ok(begun.elapsed().as_secs_f64() * 1_000.0)
}

/// The kind of the disk that a folder is on, such as `ext2/ext3`.
pub(crate) fn disk(folder: &Path) -> String {
    said(Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder))
}

/// What a command prints, or a question mark.
pub(crate) fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "?".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
