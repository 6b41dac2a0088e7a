//! Forwards records to a syslog receiver as they come into the log: a thread of its own,
//! which reads the log as anybody does and holds nothing up.
//!
//! Its position is on disk and moves over what the receiver's host has for certain. After a
//! lost connection or a restart it goes on there, so that nothing is left out, and what was
//! in between can come twice: at most what fits the send buffer.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use palisade_audit::{
    export::Syslog,
    item::Item,
    log::{Log, LogError},
    query::Query,
    row::Row,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    reads::Reads,
    state::{Lost, keep, read},
};
use crate::{
    config::syslog::SyslogSection,
    control::{
        api::{Fact, FactState},
        status::{SyslogStatus, ago},
    },
    net::syslog::{Line, Receiver, address},
    render::thousands,
};

/// Records that are read between two looks at whether to stop.
const BATCH: usize = 2000;
/// Bytes that are sent at once, about.
const BATCH_BYTES: usize = 64 << 10;
/// Time between two looks at the log, and at whether to stop.
const EVERY: Duration = Duration::from_millis(100);
/// Time between two notes of the position.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// First and longest time between two tries to connect.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the end of the forwarder is waited for; then what it sent last comes twice.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a receiver may be away before that is worth a warning.
const LATE_US: i64 = 60 * 1_000_000;

/// How the log says that records go to a receiver: a record of the service itself, about the
/// receiver's address.
pub(super) const BEGUN: &str = "syslog_begun";

/// Since which entry which records go there.
fn begun(since: u64, query: &str) -> String {
    format!("since entry {since}: {query}")
}

/// Reads what [`begun`] says.
pub(super) fn read_begun(told: &str) -> Option<(u64, &str)> {
    let (since, query) = told.strip_prefix("since entry ")?.split_once(": ")?;
    Some((since.parse().ok()?, query))
}

/// The forwarder. Clones are one.
#[derive(Clone)]
pub(super) struct Forward(Arc<Inner>);

struct Inner {
    section: SyslogSection,
    query: Query,
    syslog: Syslog,
    log: Log,
    clock: Clock,
    file: PathBuf,
    /// The first entry that this receiver can have had, if it is a new one.
    since: u64,
    state: Mutex<State>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

#[derive(Debug, Clone)]
struct State {
    /// What is noted of it on disk, now and then.
    kept: Kept,
    /// Messages sent since the start.
    messages: u64,
    /// Since when it is as it is, microseconds since the Unix epoch.
    since_us: i64,
    /// Why it is not connected.
    fault: Option<String>,
    connected: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// Everything before it is at the receiver.
    position: u64,
    /// What the log says of it; nothing yet where that is not there.
    #[serde(default)]
    told: Option<Told>,
}

/// What goes where, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    address: String,
    query: String,
}

impl Forward {
    /// Where it stopped, or at the end of the log the first time.
    pub(super) fn open(
        section: &SyslogSection,
        host: &str,
        dir: &Path,
        log: &Log,
        clock: &Clock,
        lost: &mut Vec<Lost>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let one = |d: Diagnostic| vec![d];
        let (query, syslog) = section.parsed(host).map_err(one)?;
        address(&section.address).map_err(one)?;
        let file = dir.join("syslog.json");
        let kept: Option<Kept> = read(&file, lost);
        // One that nothing was recorded of may have had anything.
        let since = kept.as_ref().map_or(log.len(), |kept| match kept.told {
            Some(_) => kept.position.min(log.len()),
            None => 0,
        });
        let (position, told) = kept.map_or((log.len(), None), |kept| {
            (kept.position.min(log.len()), kept.told)
        });
        let kept = Kept { position, told };
        if let Err(error) = keep(&file, &kept) {
            tracing::error!(%error, "the position of the syslog receiver cannot be kept");
        }
        Ok(Self(Arc::new(Inner {
            section: section.clone(),
            query,
            syslog,
            log: log.clone(),
            clock: clock.clone(),
            file,
            since,
            state: Mutex::new(State {
                kept,
                messages: 0,
                since_us: clock.now_us(),
                fault: None,
                connected: false,
            }),
            thread: Mutex::default(),
        })))
    }

    /// Forwards until `stop`, once the log says that records go there: whoever erases a person
    /// looks for copies by what the log says.
    pub(super) async fn start(self, reads: Reads, stop: CancellationToken) {
        while let Err(error) = self.0.told(&reads).await {
            tracing::error!(%error, "that records are forwarded cannot be recorded, so they wait");
            tokio::time::sleep(PAUSE.1).await;
        }
        let inner = self.0.clone();
        let thread = thread::Builder::new().name("audit-syslog".into());
        match thread.spawn(move || inner.run(&stop)) {
            Ok(thread) => *lock(&self.0.thread) = Some(thread),
            Err(error) => tracing::error!(%error, "records are not forwarded"),
        }
    }

    /// Waits, for a moment, until it has ended in order: so that what the receiver has is
    /// known. `stop` has to be said before.
    pub(super) fn close(&self) {
        let Some(thread) = lock(&self.0.thread).take() else {
            return;
        };
        let until = Instant::now() + CLOSE_TIME_MAX;
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(EVERY / 10);
        }
    }

    pub(super) fn status(&self) -> SyslogStatus {
        let state = self.0.state().clone();
        SyslogStatus {
            address: self.0.section.address.clone(),
            connected: state.connected,
            since_us: state.since_us,
            position: state.kept.position,
            messages: state.messages,
            fault: state.fault,
        }
    }

    /// What is to be told of the receiver.
    pub(super) fn check(&self) -> Fact {
        let status = self.status();
        let address = &status.address;
        let behind = thousands(self.0.log.len().saturating_sub(status.position));
        let away_us = self.0.clock.now_us() - status.since_us;
        match status.fault {
            Some(fault) if away_us > LATE_US => Fact::not_ok(
                "audit",
                FactState::Warning,
                7723,
                format!("syslog receiver {address} takes nothing, {behind} records behind"),
            )
            .cause(format!("{fault}; since {}", ago(&self.0.clock, status.since_us)))
            .fix("see that it runs and its certificate is under `audit.syslog.ca`; it gets what it missed"),
            Some(_) => Fact::unknown("audit", format!("syslog receiver {address} is being connected")),
            None if status.connected => Fact::ok("audit", format!("records go to syslog at {address}")),
            None => Fact::unknown("audit", format!("syslog receiver {address} was not asked yet")),
        }
    }
}

impl Inner {
    /// Records what goes where, unless the log says so already.
    async fn told(&self, reads: &Reads) -> Result<(), Diagnostic> {
        let now = Told {
            address: self.section.address.clone(),
            query: self.query.text().to_owned(),
        };
        if self.state().kept.told.as_ref() == Some(&now) {
            return Ok(());
        }
        let actor = reads.reporter().to_string();
        let detail = begun(self.since, &now.query);
        reads.acted(&actor, BEGUN, &now.address, &detail).await?;
        self.state().kept.told = Some(now);
        let position = self.state().kept.position;
        if let Err(error) = self.confirm(position) {
            tracing::error!(%error, "the position of the syslog receiver cannot be kept");
        }
        Ok(())
    }

    fn run(&self, stop: &CancellationToken) {
        let (first, most) = PAUSE;
        let mut pause = first;
        while !stop.is_cancelled() {
            let begun = self.state().messages;
            let ended = self.receiver().and_then(|r| r.connect()).and_then(|line| {
                self.stands(None);
                self.feed(line, stop)
            });
            let Err(error) = ended else { return };
            if self.state().messages > begun {
                pause = first;
            }
            self.stands(Some(error.to_string()));
            let until = Instant::now() + pause;
            pause = (pause * 2).min(most);
            while Instant::now() < until && !stop.is_cancelled() {
                thread::sleep(EVERY);
            }
        }
    }

    /// The receiver, with its certificates as they are now: one that cannot be read keeps
    /// nothing but the forwarding from starting, and may be mended meanwhile.
    fn receiver(&self) -> io::Result<Receiver> {
        let SyslogSection {
            address,
            ca,
            cert,
            key,
            ..
        } = &self.section;
        let client = cert.as_deref().zip(key.as_deref());
        let receiver = Receiver::new(address, ca.as_deref(), client);
        receiver.map_err(|d| {
            io::Error::other(format!("{}: {}", d.message, d.cause.unwrap_or_default()))
        })
    }

    /// Sends what there is and what comes, until `stop` or the connection is lost.
    fn feed(&self, mut line: Line, stop: &CancellationToken) -> io::Result<()> {
        let mut position = self.state().kept.position;
        // Ends of batches: bytes sent by then, and the record after it.
        let mut sent: VecDeque<(u64, u64)> = VecDeque::new();
        let mut saved = Instant::now();
        loop {
            if stop.is_cancelled() {
                // Without the receiver's word, what is left in between comes again.
                let confirmed = match line.end()? {
                    true => position,
                    false => self.state().kept.position,
                };
                return self.confirm(confirmed);
            }
            let (frames, next, messages) = self.batch(position).map_err(io::Error::other)?;
            if frames.is_empty() {
                line.look()?;
            } else {
                line.send(&frames)?;
            }
            let moved = next > position;
            position = next;
            if moved {
                self.state().messages += messages;
                sent.push_back((line.sent(), position));
            }
            let taken = line.taken();
            while let Some((_, at)) = sent.pop_front_if(|(bytes, _)| *bytes <= taken) {
                self.state().kept.position = at;
            }
            if saved.elapsed() >= KEEP_EVERY {
                let at = self.state().kept.position;
                self.confirm(at)?;
                saved = Instant::now();
            }
            if !moved {
                thread::sleep(EVERY);
            }
        }
    }

    /// Frames of the next records, the position after them, and how many they are.
    fn batch(&self, from: u64) -> Result<(Vec<u8>, u64, u64), LogError> {
        let (mut frames, mut position, mut messages) = (Vec::new(), from, 0);
        let mut scan = self.log.scan(from);
        for _ in 0..BATCH {
            let Some(read) = scan.next() else {
                // What follows the last one has been dropped.
                position = scan.end().max(position);
                break;
            };
            let read = match read {
                Ok(read) => read,
                // Of a later version: there is nothing of it that could be said.
                Err(LogError::Undecodable { index, .. }) => {
                    position = index + 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            position = read.index + 1;
            let item = Item::new(read);
            if !self.query.matches(&item) {
                continue;
            }
            if let Ok(Value::Object(row)) = serde_json::to_value(Row::new(&item))
                && let Some(frame) = self.syslog.frame(&row)
            {
                frames.extend(frame);
                messages += 1;
            }
            if frames.len() >= BATCH_BYTES {
                break;
            }
        }
        if scan.dropped() > 0 {
            let records = scan.dropped();
            tracing::warn!(
                records,
                "records were dropped before they could be forwarded"
            );
        }
        Ok((frames, position, messages))
    }

    /// Everything before `position` is at the receiver.
    fn confirm(&self, position: u64) -> io::Result<()> {
        let kept = {
            let mut state = self.state();
            state.kept.position = position;
            state.kept.clone()
        };
        keep(&self.file, &kept)
    }

    fn stands(&self, fault: Option<String>) {
        let mut state = self.state();
        let connected = fault.is_none();
        if state.connected != connected || (state.fault.is_none() && fault.is_some()) {
            state.since_us = self.clock.now_us();
            match &fault {
                Some(why) => tracing::warn!(%why, "syslog receiver takes nothing"),
                None => tracing::info!("syslog receiver is connected"),
            }
        }
        state.connected = connected;
        state.fault = fault;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
