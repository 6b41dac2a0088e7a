//! What people ask of the rules: what is open, to answer for it, and what a rule would meet.

use axum::{
    Json, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use palisade_audit::{
    alert::{Book, Firing, Open, Rule},
    item::Item,
    log::LogError,
};
use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    wire::record::{Alert, record::Body},
};
use serde::{Deserialize, Serialize};

use super::{Alerts, Inner, lock};
use crate::{
    control::{api::Answer, server::PeerUid},
    run::audit::reads::Reader,
};

/// Newest records of the log that a test of a rule goes through.
const TEST_RECORDS: u64 = 200_000;
/// Firings of a test that are told.
const TEST_FIRINGS: usize = 20;
/// Shortest beginning of an id.
const ID_LEN_MIN: usize = 6;
/// Longest reason of an acknowledgement, bytes.
const REASON_LEN_MAX: usize = 1024;

impl Alerts {
    fn listed(&self) -> Listed {
        let inner = &*self.0;
        let kept = lock(&inner.kept).clone();
        let rule = |rule: &Rule| {
            let (threshold, window_us) = rule.bounds();
            RuleStatus {
                forgotten: kept.book.forgotten(&rule.name),
                name: rule.name.clone(),
                query: rule.query().to_owned(),
                threshold,
                window_us,
                by: rule.by().unwrap_or_default().to_owned(),
                severity: rule.severity.as_str().to_owned(),
                deliver: match inner.targets.get(&rule.name) {
                    Some(to) => to.clone(),
                    None => inner.outbox.names(),
                },
            }
        };
        let waiting = inner.outbox.waiting().into_iter();
        Listed {
            rules: inner.rules.iter().map(rule).collect(),
            open: kept.book.open().cloned().collect(),
            waiting: waiting
                .map(|(target, (messages, fault))| Waiting {
                    target,
                    messages,
                    fault,
                })
                .collect(),
        }
    }

    pub(in crate::run::audit) async fn list(self, reader: Reader) -> Answer<Listed> {
        self.catch_up().await?;
        let listed = self.listed();
        let n = listed.open.len();
        self.0.reads.note(&reader, "alerts", "", n).await?;
        Ok(Json(listed))
    }

    async fn acknowledge(self, actor: &str, asked: Acknowledge) -> Answer<Open> {
        let reason = asked.reason.trim();
        if reason.is_empty() || reason.len() > REASON_LEN_MAX {
            return Err(Diagnostic::error(7938, "an acknowledgement needs a reason")
                .cause(format!("of 1 to {REASON_LEN_MAX} bytes"))
                .help("say what was found, and what was done: --reason TEXT")
                .into());
        }
        self.catch_up().await?;
        let open = lock(&self.0.kept).book.open().cloned().collect::<Vec<_>>();
        let open = chosen(&open, &asked.id)?;
        let firing = open.id.parse::<ulid::Ulid>().unwrap_or_default();
        let record = palisade_mesh::wire::record::Record {
            body: Some(Body::Alert(Alert {
                verb: "acknowledged".to_owned(),
                rule: open.rule.clone(),
                severity: open.severity.clone(),
                group: open.group.clone(),
                actor: actor.to_owned(),
                detail: reason.to_owned(),
                firing: firing.to_bytes().to_vec(),
                ..Alert::default()
            })),
            ..Default::default()
        };
        self.0.reads.stated(record).await?;
        self.catch_up().await?;
        Ok(Json(open))
    }

    async fn test(self, reader: Reader, asked: Test) -> Answer<Tested> {
        let name = asked.name.clone();
        let mut tested = self.blocking(move |inner| inner.tried(&name)).await?;
        let Some(rule) = self.0.rules.iter().find(|rule| rule.name == asked.name) else {
            return Err(unknown(&asked.name, &self.0.rules).into());
        };
        let reads = &self.0.reads;
        reads
            .note(&reader, "alert_test", rule.query(), tested.firings.len())
            .await?;
        if asked.deliver {
            let now_us = self.0.clock.now_us();
            let firing = Firing::of_state(&rule.name, rule.severity, "", now_us, rule.query());
            let message = self.0.message(&firing, true);
            for to in self
                .0
                .targets
                .get(&rule.name)
                .cloned()
                .unwrap_or_else(|| self.0.outbox.names())
            {
                let answer = self.0.outbox.bring(&firing.id, &to, &message).await;
                tested.delivered.push(Delivered {
                    target: to,
                    fault: answer.err(),
                });
            }
        }
        Ok(Json(tested))
    }

    pub(in crate::run::audit) fn routes(&self) -> Router {
        let (of_list, of_ack, of_test) = (self.clone(), self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/alerts",
                get(move |ConnectInfo(uid): ConnectInfo<PeerUid>| async move {
                    of_list.list(Reader::local(uid)).await
                }),
            )
            .route(
                "/v1/audit/alerts/ack",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Acknowledge>| async move {
                        of_ack.acknowledge(&uid.to_string(), q).await
                    },
                ),
            )
            .route(
                "/v1/audit/alerts/test",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Test>| async move {
                        of_test.test(Reader::local(uid), q).await
                    },
                ),
            )
    }
}

impl Inner {
    /// What a rule would have met among the newest records.
    fn tried(&self, name: &str) -> Result<Tested, LogError> {
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .filter(|r| r.name == name)
            .cloned()
            .collect();
        let end = self.log.len();
        let mut book = Book::at(end.saturating_sub(TEST_RECORDS));
        let mut tested = Tested::default();
        for read in self.log.scan(book.position) {
            let read = match read {
                Ok(read) => read,
                Err(LogError::Undecodable { .. }) => continue,
                Err(error) => return Err(error),
            };
            let item = Item::new(read);
            tested.from_us.get_or_insert(item.received_us);
            tested.records += 1;
            tested.firings.extend(book.take(&rules, &item));
        }
        tested.met = tested.firings.len();
        let old = tested.firings.len().saturating_sub(TEST_FIRINGS);
        tested.firings.drain(..old);
        Ok(tested)
    }
}

/// The open firing whose id begins with `id`.
fn chosen(open: &[Open], id: &str) -> Result<Open, Diagnostic> {
    let id = id.to_ascii_uppercase();
    let mut fits = open.iter().filter(|open| open.id.starts_with(&id));
    match (fits.next(), fits.next()) {
        (Some(one), None) if id.len() >= ID_LEN_MIN => Ok(one.clone()),
        _ => Err(
            Diagnostic::error(7937, format!("no one open alert has the id `{id}`"))
                .help("write the whole id; palisade audit alerts list has them"),
        ),
    }
}

fn unknown(name: &str, rules: &[Rule]) -> Diagnostic {
    let near = did_you_mean(name, rules.iter().map(|rule| rule.name.as_str()));
    Diagnostic::error(7937, format!("there is no alert rule `{name}`")).help(near.map_or_else(
        || "palisade audit alerts list has all; write some: `audit.alerts`".to_owned(),
        |near| format!("did you mean `{near}`?"),
    ))
}

/// The rules, and what is open.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The rules.
    pub rules: Vec<RuleStatus>,
    /// Firings that nobody has answered for, oldest first.
    pub open: Vec<Open>,
    /// What waits for delivery.
    pub waiting: Vec<Waiting>,
}

/// A rule.
#[derive(Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// What it asks for.
    pub query: String,
    /// From how many records on it is met.
    pub threshold: u64,
    /// Within how long, microseconds.
    pub window_us: i64,
    /// The field whose values are counted apart; empty without one.
    pub by: String,
    /// Values that had to be forgotten while they were being counted.
    pub forgotten: u64,
    /// How bad it is.
    pub severity: String,
    /// Targets.
    pub deliver: Vec<String>,
}

/// What waits for a target.
#[derive(Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// The target.
    pub target: String,
    /// How many messages.
    pub messages: usize,
    /// Why the first was not taken yet.
    pub fault: Option<String>,
}

/// What `audit alerts ack` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The id, or its first six or more characters.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What `audit alerts test` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Test {
    /// The rule.
    pub name: String,
    /// Whether to bring a message to its targets, marked as a test.
    pub deliver: bool,
}

/// What a rule would have met.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tested {
    /// Records that were gone through.
    pub records: u64,
    /// When the first of them was received, microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// How often it would have been met.
    pub met: usize,
    /// The last of these.
    pub firings: Vec<Firing>,
    /// What became of messages that were sent as a test.
    pub delivered: Vec<Delivered>,
}

/// What became of a message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Delivered {
    /// The target.
    pub target: String,
    /// Why it was not taken.
    pub fault: Option<String>,
}
