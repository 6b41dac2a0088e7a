//! Heads that say nothing yet: their certificate is not known, or the mesh does not stand for it
//! so far. They wait here for either, and are compared then.

use rustc_hash::FxHashMap;
use ulid::Ulid;

use crate::{heads::Statement, merkle::Hash, stream::StreamKey};

/// Bytes of heads of one reporter that wait, some hours of a proxy's, and of all; more are
/// counted, and left to `audit verify`.
pub(super) const HELD_BYTES_EACH_MAX: usize = 1 << 20;
const HELD_BYTES_MAX: usize = 16 << 20;

/// Heads that wait, by the certificate that they name.
#[derive(Default)]
pub(super) struct Held {
    waiting: FxHashMap<Hash, Vec<Said>>,
    /// Bytes by reporter.
    of: FxHashMap<String, usize>,
    all: usize,
}

/// Heads, and where they are.
pub(super) struct Said {
    pub(super) statement: Statement,
    pub(super) stream: StreamKey,
    pub(super) sequence: u64,
    /// When the log received them.
    pub(super) at_us: i64,
    /// Whether they count where they are not compared.
    pub(super) counts: bool,
}

impl Said {
    fn is_of(&self, reporter: &str, boot: Ulid) -> bool {
        self.stream.boot == boot && self.stream.reporter.as_str() == reporter
    }

    /// Of how many stretches they are that count.
    pub(super) fn stretches(&self) -> u64 {
        let streams = self.statement.heads.streams.iter();
        let new = streams.filter(|head| head.first_sequence <= head.last_sequence);
        match self.counts {
            true => new.count() as u64,
            false => 0,
        }
    }
}

impl Held {
    /// Keeps heads; gives of how many stretches they are where there is no room for them, or
    /// they name no certificate.
    pub(super) fn keep(&mut self, said: Said) -> u64 {
        let reporter = said.stream.reporter.as_str();
        let of = self.of.get(reporter).copied().unwrap_or_default();
        let bytes = said.statement.len();
        let fits = of + bytes <= HELD_BYTES_EACH_MAX && self.all + bytes <= HELD_BYTES_MAX;
        let Some(certificate) = said.statement.named().filter(|_| fits) else {
            return said.stretches();
        };
        self.of.insert(reporter.to_owned(), of + bytes);
        self.all += bytes;
        self.waiting.entry(certificate).or_default().push(said);
        0
    }

    /// Gives those that name a certificate.
    pub(super) fn take(&mut self, certificate: &Hash) -> Vec<Said> {
        let taken = self.waiting.remove(certificate).unwrap_or_default();
        taken.iter().for_each(|said| self.release(said));
        taken
    }

    /// Gives those of a start that name a certificate.
    pub(super) fn take_of(&mut self, certificate: &Hash, of: &StreamKey) -> Vec<Said> {
        let Some(waiting) = self.waiting.get_mut(certificate) else {
            return Vec::new();
        };
        let of_it = |said: &mut Said| said.is_of(of.reporter.as_str(), of.boot);
        let taken: Vec<Said> = waiting.extract_if(.., of_it).collect();
        if waiting.is_empty() {
            self.waiting.remove(certificate);
        }
        taken.iter().for_each(|said| self.release(said));
        taken
    }

    /// Lets go of those of a start; gives of how many stretches they are.
    pub(super) fn end(&mut self, reporter: &str, boot: Ulid) -> u64 {
        if !self.of.contains_key(reporter) {
            return 0;
        }
        let mut gone = Vec::new();
        self.waiting.retain(|_, all| {
            let of_it = |said: &mut Said| said.is_of(reporter, boot);
            gone.extend(all.extract_if(.., of_it));
            !all.is_empty()
        });
        gone.iter().for_each(|said| self.release(said));
        gone.iter().map(Said::stretches).sum()
    }

    fn release(&mut self, said: &Said) {
        let bytes = said.statement.len();
        self.all -= bytes;
        if let Some(of) = self.of.get_mut(said.stream.reporter.as_str()) {
            *of -= bytes;
            if *of == 0 {
                self.of.remove(said.stream.reporter.as_str());
            }
        }
    }
}
