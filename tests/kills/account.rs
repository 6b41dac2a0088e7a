//! What was acknowledged, and whether the log has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex},
};

use palisade_audit::log::{Entry, Log, LogOptions, whose};
use palisade_mesh::{clock::Clock, wire::record::record::Body};
use serde_json::Value;
use ulid::Ulid;

use crate::reporter;

/// Acknowledged records, in a file of the test's own.
#[derive(Clone)]
pub struct Account(Arc<Mutex<Book>>);

struct Book {
    file: File,
    acknowledged: Vec<Range>,
    count: u64,
}

/// Records that were acknowledged together.
#[derive(Debug, Clone)]
pub struct Range {
    pub first: u64,
    pub last: u64,
    pub boot: String,
    /// Number of the first in its stream, were there no heads of that stream before it.
    pub sequence: u64,
}

/// Numbers of a stream that the log says are missing.
#[derive(Debug)]
pub struct Told {
    boot: String,
    worker: u64,
    first: u64,
    last: u64,
}

impl Account {
    pub fn new(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        let book = Book {
            file: options.create(true).append(true).open(path).unwrap(),
            acknowledged: Vec::new(),
            count: 0,
        };
        Self(Arc::new(Mutex::new(book)))
    }

    /// Takes in what a reporter printed: on disk first, then it counts.
    pub fn note(&self, told: &str) {
        let words: Vec<&str> = told.split(' ').collect();
        let [first, last, boot, sequence] = words[..] else {
            // The end of a line that a kill cut off is no acknowledgement.
            return;
        };
        let (Ok(first), Ok(last), Ok(sequence)) = (first.parse(), last.parse(), sequence.parse())
        else {
            return;
        };
        let mut book = self.0.lock().unwrap();
        writeln!(book.file, "{told}").unwrap();
        book.file.sync_data().unwrap();
        book.count += last - first + 1;
        book.acknowledged.push(Range {
            first,
            last,
            boot: boot.to_owned(),
            sequence,
        });
    }

    /// How many records were acknowledged.
    pub fn count(&self) -> u64 {
        self.0.lock().unwrap().count
    }

    /// Compares with the log in `dir`, which nobody writes now, and with the gaps that
    /// were told; gives how many acknowledged records are within these.
    pub fn check(&self, dir: &Path, gaps: &[Told]) -> u64 {
        let Found {
            numbers: kept,
            places,
            heads,
        } = Found::of(dir);
        let of_records = || {
            gaps.iter()
                .filter(|gap| gap.worker == u64::from(reporter::WORKER))
        };
        for gap in of_records() {
            let told = (gap.boot.clone(), gap.first)..=(gap.boot.clone(), gap.last);
            let there = places.range(told).next();
            assert_eq!(there, None, "told as missing, and in the log");
        }
        let doubled: Vec<_> = kept.iter().filter(|(_, n)| **n > 1).take(5).collect();
        assert!(doubled.is_empty(), "in the log more than once: {doubled:?}");
        let book = self.0.lock().unwrap();
        let mut lost = 0;
        for range in &book.acknowledged {
            for n in range.first..=range.last {
                if kept.contains_key(&n) {
                    continue;
                }
                let sequence = range.sequence + n - range.first;
                // A spool adds a head to a stream now and then, which has a number, too.
                let of_gap = |gap: &Told| {
                    let before = (range.boot.clone(), 0)..(range.boot.clone(), gap.first);
                    let sequence = sequence + heads.range(before).count() as u64;
                    gap.boot == range.boot && (gap.first..=gap.last).contains(&sequence)
                };
                assert!(
                    of_records().any(of_gap),
                    "record {n} was acknowledged, is not there and nobody says so: {range:?}, {gaps:?}"
                );
                lost += 1;
            }
        }
        lost
    }
}

/// The gaps of an answer of `audit gaps`.
pub fn told(answer: &Value) -> Vec<Told> {
    let text = |gap: &Value, name: &str| gap[name].as_str().unwrap().to_owned();
    let open = answer["open"].as_array().unwrap().iter();
    open.filter(|gap| text(gap, "reporter") == reporter::id().to_string())
        .map(|gap| Told {
            boot: text(gap, "boot"),
            worker: gap["worker"].as_u64().unwrap(),
            first: gap["first"].as_u64().unwrap(),
            last: gap["last"].as_u64().unwrap(),
        })
        .collect()
}

/// How many numbers they hold.
pub fn missing(gaps: &[Told]) -> u64 {
    gaps.iter().map(|gap| gap.last - gap.first + 1).sum()
}

/// What the log has of the reporters.
#[derive(Default)]
struct Found {
    /// How often each of their numbers is there.
    numbers: BTreeMap<u64, u32>,
    /// Where these are in their streams: boot and sequence.
    places: BTreeSet<(String, u64)>,
    /// Where heads of these streams are.
    heads: BTreeSet<(String, u64)>,
}

impl Found {
    fn of(dir: &Path) -> Self {
        let options = LogOptions {
            read_only: true,
            ..LogOptions::new(whose(dir).unwrap())
        };
        let log = Log::open(dir, options, Clock::system()).unwrap();
        let mut found = Self::default();
        for entry in log.scan(0) {
            let Entry {
                envelope, record, ..
            } = entry.unwrap();
            let stream = envelope.stream.unwrap();
            let boot = Ulid::from_bytes(stream.boot.try_into().unwrap()).to_string();
            match record.body {
                Some(Body::Decision(decision)) => {
                    if let Some(n) = decision.path.strip_prefix("/n/") {
                        *found.numbers.entry(n.parse().unwrap()).or_default() += 1;
                        found.places.insert((boot, envelope.sequence));
                    }
                }
                Some(Body::StreamHead(_)) if stream.worker == reporter::WORKER => {
                    found.heads.insert((boot, envelope.sequence));
                }
                _ => {}
            }
        }
        found
    }
}

impl Told {
    /// Whether it is of this stream of a report of `audit verify`.
    pub fn is_of(&self, stream: &Value) -> bool {
        stream["reporter"] == reporter::id().to_string()
            && stream["boot"] == self.boot.as_str()
            && stream["worker"] == self.worker
    }
}
