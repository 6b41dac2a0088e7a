//! The tail: matching records as they become durable, straight from the log.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};

use crate::{
    item::{Item, JoinKey},
    query::Query,
    row::Row,
    source::Source,
};

/// Events that wait for a slow reader.
const EVENTS_MAX: usize = 256;
/// Entries read at once.
const BATCH_MAX: usize = 512;
/// Decisions that wait for their outcome when a query asks about outcomes. Some never
/// have one: the oldest make room.
const OPEN_MAX: usize = 8192;

/// Entries a reader may be behind before the tail jumps to the newest.
pub const LAG_MAX: u64 = 20_000;

/// Something the tail tells.
#[derive(Debug)]
pub enum TailEvent {
    /// A record that matches. A decision comes when it first matches: at once,
    /// or with its outcome when the query asks about that and no more than 8,192 later
    /// ones wait for theirs.
    Row(Box<Row>),
    /// The reader was too slow: so many entries were not looked at.
    Skipped(u64),
    /// Entry with this index cannot be read; nor can what follows it in its segment, if that
    /// cannot be had from an archive.
    Unreadable(u64),
}

/// Follows the log from its present end. Ends when the log does; dropping it
/// ends the work. Needs a tokio runtime.
pub(super) fn follow(
    source: Arc<dyn Source>,
    query: &Query,
) -> impl Stream<Item = TailEvent> + use<> {
    let (events, stream) = mpsc::channel(EVENTS_MAX);
    let mut follower = Follower {
        next: source.len(),
        source,
        filter: query.filter(),
        open: FxHashMap::default(),
        waiting: VecDeque::new(),
    };
    tokio::spawn(async move {
        let mut length = follower.source.subscribe();
        loop {
            if follower.next >= *length.borrow_and_update() {
                tokio::select! {
                    changed = length.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
                continue;
            }
            let (back, batch) = match tokio::task::spawn_blocking(move || follower.read()).await {
                Ok(read) => read,
                Err(_) => return,
            };
            follower = back;
            for event in batch {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(stream)
}

struct Follower {
    source: Arc<dyn Source>,
    next: u64,
    filter: crate::query::Expr,
    /// Decisions that did not match without their outcome.
    open: FxHashMap<JoinKey, Item>,
    /// Keys of these and of some that have their outcome, oldest first.
    waiting: VecDeque<JoinKey>,
}

impl Follower {
    /// Reads a batch; hands itself back, so that it can go to another thread.
    fn read(mut self) -> (Self, Vec<TailEvent>) {
        let mut events = Vec::new();
        let behind = self.source.len().saturating_sub(self.next);
        if behind > LAG_MAX {
            events.push(TailEvent::Skipped(behind));
            self.next += behind;
            self.open.clear();
            self.waiting.clear();
            return (self, events);
        }
        let source = Arc::clone(&self.source);
        let end = source.len();
        let mut read = 0;
        for entry in source.scan(self.next).take(BATCH_MAX) {
            read += 1;
            match entry {
                Ok(entry) => {
                    self.next = entry.index + 1;
                    self.take(Item::new(entry), &mut events);
                }
                Err(error) => {
                    events.push(TailEvent::Unreadable(error.index));
                    // Of a segment that cannot be had, no record can be read.
                    let behind = error.lost().map(|lost| lost.end);
                    self.next = behind.unwrap_or_default().max(error.index + 1);
                    return (self, events);
                }
            }
        }
        if read < BATCH_MAX {
            // What follows to the end as it was has been dropped.
            self.next = self.next.max(end);
        }
        (self, events)
    }

    fn take(&mut self, item: Item, events: &mut Vec<TailEvent>) {
        if let Some((key, outcome)) = item.joins()
            && let Some(mut decision) = self.open.remove(&key)
        {
            decision.outcome = Some((item.at, outcome.clone()));
            if self.filter.matches(&decision) {
                events.push(TailEvent::Row(Box::new(Row::new(&decision))));
            }
        }
        if self.filter.matches(&item) {
            events.push(TailEvent::Row(Box::new(Row::new(&item))));
        } else if let Some(key) = item.joinable() {
            self.wait(key, item);
        }
    }

    fn wait(&mut self, key: JoinKey, item: Item) {
        while self.open.len() >= OPEN_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.open.remove(&oldest);
        }
        if self.waiting.len() >= 2 * OPEN_MAX {
            self.waiting.retain(|key| self.open.contains_key(key));
        }
        self.waiting.push_back(key.clone());
        self.open.insert(key, item);
    }
}
