//! Fills a log, in groups as full as they get, then one group at a time.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use palisade_audit::{
    log::{GROUP_RECORDS, Log, LogOptions, Pending, Receipt},
    stream::StreamKey,
    verify::{self, VerifyOptions},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use prost::Message as _;
use tokio::runtime::Runtime;

use super::{
    Acknowledged, Figure,
    traffic::{BEGINS_US, SPAN_US, Traffic},
    wrong,
};
use crate::{
    cli::timing::{Span, Whose, cpu, timed},
    render::progress::{Far, Progress},
};

/// Groups that are with the log while the next is made up.
const AHEAD: usize = 3;
/// Most groups that are acknowledged one at a time.
const SINGLE_MAX: u64 = 500;

/// A log that is full.
pub(super) struct Filled {
    pub(super) acknowledged: Acknowledged,
    pub(super) figures: Vec<Figure>,
}

/// Writes `records` records of `traffic` to a new log in `dir`, whose clock follows
/// theirs, closes it, and verifies it as an outsider would.
pub(super) fn log(
    dir: &Path,
    domain: TrustDomain,
    traffic: &Traffic,
    records: u64,
) -> Result<Filled, Diagnostic> {
    let begins = jiff::Timestamp::from_microsecond(BEGINS_US).unwrap_or_default();
    let clock = Clock::manual(begins);
    let log = Log::open(dir, LogOptions::new(domain), clock.clone())
        .map_err(|e| wrong("the log cannot be opened", &e))?;
    let runtime = Runtime::new().map_err(|e| wrong("no runtime", &e))?;
    let mut filler = Filler {
        log,
        clock,
        traffic,
        runtime,
        sequences: HashMap::new(),
        next: 0,
        records,
        making: Duration::ZERO,
        progress: Progress::begin(),
    };
    let group = u64::try_from(GROUP_RECORDS).unwrap_or(u64::MAX);
    let single = (records / 10 / group).clamp(1, SINGLE_MAX);
    let bulk = records.saturating_sub(single * group);
    let mut figures = Vec::new();
    if bulk > 0 {
        figures.push(filler.in_bulk(bulk)?);
    }
    let acknowledged = filler.one_at_a_time()?;
    filler.close();
    let (report, span) = timed(Whose::Process, 1, || {
        verify::verify(dir, VerifyOptions::default())
    });
    if !report.intact() || report.records < records {
        let found = report.findings.first().map(|f| f.what.clone());
        let cause = found.unwrap_or_else(|| format!("{} records", report.records));
        return Err(wrong("the log does not verify", &cause));
    }
    let each = span.part(report.records);
    figures.push(Figure::new(
        "log",
        "verify a record, offline",
        report.records,
        each,
    ));
    Ok(Filled {
        acknowledged,
        figures,
    })
}

struct Filler<'a> {
    log: Log,
    clock: Clock,
    traffic: &'a Traffic,
    runtime: Runtime,
    /// The last number of each stream.
    sequences: HashMap<Arc<StreamKey>, u64>,
    /// The next record.
    next: u64,
    /// How many there will be.
    records: u64,
    /// CPU time that making records up has taken.
    making: Duration,
    progress: Progress,
}

impl Filler<'_> {
    /// Keeps the log busy until `until` records are in it.
    fn in_bulk(&mut self, until: u64) -> Result<Figure, Diagnostic> {
        let (begun, before, made) = (Instant::now(), cpu(Whose::Process), self.making);
        let mut ahead: VecDeque<Receipt> = VecDeque::new();
        let first = self.next;
        while self.next < until {
            let group = self.group(until)?;
            ahead.push_back(self.log.append(group));
            if ahead.len() > AHEAD
                && let Some(receipt) = ahead.pop_front()
            {
                self.durable(receipt)?;
            }
        }
        for receipt in ahead {
            self.durable(receipt)?;
        }
        let spent = cpu(Whose::Process).saturating_sub(before);
        // Making them up is no work of the log's.
        let spent = spent.saturating_sub(self.making.saturating_sub(made));
        let n = self.next - first;
        let each = Span::of_each(spent, begun.elapsed(), n);
        let what = format!("append a record, in groups of {GROUP_RECORDS}");
        Ok(Figure::new("log", what, n, each))
    }

    /// Hands the rest over group by group, each when the one before is durable.
    fn one_at_a_time(&mut self) -> Result<Acknowledged, Diagnostic> {
        let mut waits = Vec::new();
        while self.next < self.records {
            let group = self.group(self.records)?;
            let asked = Instant::now();
            let receipt = self.log.append(group);
            self.durable(receipt)?;
            waits.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        waits.sort_unstable();
        let at = |percent: usize| waits.get(waits.len() * percent / 100).copied();
        let longest_us = waits.last().copied().unwrap_or_default();
        Ok(Acknowledged {
            groups: u64::try_from(waits.len()).unwrap_or(u64::MAX),
            records: u64::try_from(GROUP_RECORDS).unwrap_or(u64::MAX),
            p50_us: at(50).unwrap_or(longest_us),
            p99_us: at(99).unwrap_or(longest_us),
            longest_us,
        })
    }

    /// The next records, at most a group and none from `until` on. The clock of the log
    /// then stands at the time of the last.
    fn group(&mut self, until: u64) -> Result<Vec<Pending>, Diagnostic> {
        let before = cpu(Whose::Thread);
        let mut numbered = Vec::with_capacity(GROUP_RECORDS);
        let mut bytes = Vec::new();
        while numbered.len() < GROUP_RECORDS && self.next < until {
            let (stream, record) = self
                .traffic
                .record(self.next)
                .ok_or_else(|| wrong("a record cannot be made up", &self.next))?;
            let sequence = self.sequences.entry(stream.clone()).or_default();
            *sequence += 1;
            let start = bytes.len();
            // A vector grows.
            let _ = record.encode(&mut bytes);
            numbered.push((stream, *sequence, start..bytes.len()));
            self.next += 1;
        }
        // Off a link they are parts of one message, too.
        let bytes = Bytes::from(bytes);
        let group = numbered.into_iter().map(|(stream, sequence, at)| Pending {
            stream,
            sequence,
            record: bytes.slice(at),
        });
        let group = group.collect();
        let time_us = self.traffic.time_us(self.next.saturating_sub(1));
        self.follow(time_us);
        self.making += cpu(Whose::Thread).saturating_sub(before);
        self.progress.tell(Far {
            records: self.next,
            of: Some(self.records),
            by: None,
        });
        Ok(group)
    }

    /// Moves the clock on to a moment.
    fn follow(&self, time_us: i64) {
        let ahead = time_us.saturating_sub(self.clock.now_us());
        self.clock
            .advance(Duration::from_micros(u64::try_from(ahead).unwrap_or(0)));
    }

    fn durable(&self, mut receipt: Receipt) -> Result<(), Diagnostic> {
        let durable = self.runtime.block_on(receipt.durable());
        durable.map_err(|e| wrong("the log took no records", &e))?;
        Ok(())
    }

    fn close(self) {
        self.follow(BEGINS_US.saturating_add(SPAN_US));
        // Which signs a last checkpoint.
        self.log.close();
    }
}
