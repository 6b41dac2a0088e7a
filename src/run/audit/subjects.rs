//! Persons in the log: what is sealed of them is shown to whoever may see it, and erased
//! for good when that is ordered.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::ConnectInfo, routing::post};
use palisade_audit::{
    holds::Held,
    index::{Cursor, StoreError},
    item::LATE_MAX_US,
    log::{Log, LogError},
    privacy::{Fate, Known, Pseudonym, Vault},
    query::{Limits, Query, RowFilter, Window},
    row::Row,
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::record::{self, record::Body},
};
use serde::{Deserialize, Serialize};

use super::{AuditRole, Reader, blocking, broken};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

/// Longest name of a person, in bytes.
const NAME_LEN_MAX: usize = 1024;
/// Longest reason, in bytes.
const REASON_LEN_MAX: usize = 500;
/// Exports that are looked at for what they had of a person, newest first.
const EXPORTS_MAX: usize = 10_000;
/// Exports that one answer names.
const RECALLS_MAX: usize = 1000;
/// Length of time of one question about all times: less than a query may ask about.
const SPAN_US: i64 = 399 * 86_400 * 1_000_000;
/// How far records may be ahead of the clock.
const AHEAD_US: i64 = 3600 * 1_000_000;

/// What `audit show --reveal` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reveal {
    /// The id, or its first characters.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What is under the covers of the records of an id.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revelation {
    /// Every record of the id.
    pub records: Vec<RevealedRecord>,
}

/// One of these records.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevealedRecord {
    /// Its index in the log.
    pub entry: u64,
    /// What it covers.
    pub values: Vec<RevealedValue>,
}

/// Something that was taken out of a record.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevealedValue {
    /// The field.
    pub field: String,
    /// `value`, `erased`, `pseudonym` or `masked`.
    pub state: String,
    /// Its pseudonym.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The value, where it can be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What `audit erase` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Erase {
    /// The name, or the pseudonym.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Tell what would be done, and do nothing.
    pub dry_run: bool,
}

/// What an erasure did, or would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Erased {
    /// The person's pseudonym.
    pub subject: String,
    /// `erased`, `erased_before`, `would_erase`, or `nothing_sealed` where there is no key.
    pub state: String,
    /// When the key was destroyed, where it was.
    pub at: Option<String>,
    /// Records about the person.
    pub records: u64,
    /// Ids of the legal holds that cover some of them; then nothing is erased.
    pub held_by: Vec<String>,
    /// Who was given some of them before, and where they went.
    pub recall: Vec<Recall>,
    /// Whether there are more than these.
    pub recall_more: bool,
}

/// Records of a person that somebody was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// When, RFC 3339.
    pub time: String,
    /// To whom.
    pub actor: String,
    /// `export`, or `reveal` where the person was named.
    pub verb: String,
    /// What was asked.
    pub query: String,
    /// The file, as far as it is known.
    pub to: String,
    /// Records that were given, of this person and of others.
    pub rows: u64,
    /// Index of the record of it.
    pub entry: u64,
}

impl AuditRole {
    pub(super) fn subjects(&self) -> Router {
        let (of_reveal, of_erase) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/reveal",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Reveal>| async move {
                        of_reveal.reveal(Reader::local(uid), q).await
                    },
                ),
            )
            .route(
                "/v1/audit/erase",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Erase>| async move {
                        of_erase.erase(&uid.to_string(), q).await
                    },
                ),
            )
    }

    /// A query with persons by their pseudonyms.
    pub(super) fn asked(&self, text: &str) -> Result<Query, Diagnostic> {
        let query = Query::parse(text)?;
        Ok(query.naming(&|name| self.vault.pseudonym(name)))
    }

    /// The text of a query as it may be recorded: it names nobody.
    pub(super) fn told(&self, text: &str) -> String {
        match self.asked(text) {
            Ok(query) => query.text().to_owned(),
            Err(_) if text.contains("subject:") => "(no query)".to_owned(),
            Err(_) => text.to_owned(),
        }
    }

    /// Shows what is under the covers of an id's records.
    pub(super) async fn reveal(self, reader: Reader, asked: Reveal) -> Answer<Revelation> {
        let reason = reason(&asked.reason, None)?;
        let reader = reader.because(reason);
        let (store, vault, id) = (self.store.clone(), self.vault.clone(), asked.id.clone());
        self.settled().await;
        let rows = reader.rows().clone();
        let records = blocking(move || {
            let mut records = Vec::new();
            for entry in store.by_id(&id)? {
                let item = palisade_audit::item::Item::new(entry);
                if !rows.matches(&item) {
                    continue;
                }
                let values = vault.reveal(&item.record, &item.sealed)?;
                records.push(RevealedRecord {
                    entry: item.at,
                    values: values.into_iter().map(RevealedValue::from).collect(),
                });
            }
            Ok(records)
        })
        .await?;
        let question = format!("id:{}", asked.id);
        self.reads
            .note(&reader, "reveal", &question, records.len())
            .await?;
        Ok(Json(Revelation { records }))
    }

    /// Destroys the key of a person.
    async fn erase(self, actor: &str, asked: Erase) -> Answer<Erased> {
        let name = asked.subject.trim();
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Problem::from(
                Diagnostic::error(7563, "nobody is named")
                    .cause(format!("a name has 1 to {NAME_LEN_MAX} bytes"))
                    .help("as it stands in requests: palisade audit erase alice@example.org --reason TEXT"),
            ));
        }
        let reason = reason(&asked.reason, Some(name))?;
        let pseudonym: Result<Pseudonym, ()> = name.parse();
        let person = pseudonym.unwrap_or_else(|()| self.vault.pseudonym(name));
        self.catch_up().await?;
        let role = self.clone();
        let mut found = blocking(move || role.found(person)).await?;
        let known = self.vault.known(&person).map_err(|e| unusable(&e))?;
        if known == Known::Sealed && asked.dry_run {
            found.state = "would_erase".into();
        } else if known == Known::Sealed {
            self.destroy(person, actor, reason, &found).await?;
            found.state = "erased".into();
        }
        if let Known::Erased(at_us) = self.vault.known(&person).map_err(|e| unusable(&e))? {
            if known == (Known::Erased(at_us)) {
                found.state = "erased_before".into();
            }
            found.at = Some(time(at_us));
        }
        Ok(Json(found))
    }

    async fn destroy(
        &self,
        person: Pseudonym,
        actor: &str,
        reason: String,
        found: &Erased,
    ) -> Result<(), Diagnostic> {
        if let Some(hold) = found.held_by.first() {
            let n = found.held_by.len();
            return Err(
                Diagnostic::error(7564, "a legal hold keeps records of this person")
                    .cause(match n {
                        1 => format!("it is `{hold}`"),
                        n => format!("there are {n}; the first is `{hold}`"),
                    })
                    .help("see why: palisade audit hold list; what is held is erased once it is released"),
            );
        }
        // From here on it happens, also when this process ends meanwhile.
        self.vault.doom(&person).map_err(|e| unusable(&e))?;
        self.finish(person, actor, reason).await
    }

    /// Records an erasure, then lets the key go.
    async fn finish(
        &self,
        person: Pseudonym,
        actor: &str,
        reason: String,
    ) -> Result<(), Diagnostic> {
        let erasure = record::Erasure {
            subject: person.to_string(),
            detail: reason,
            actor: actor.to_owned(),
        };
        self.reads.keep(Body::Erasure(erasure)).await?;
        let (vault, now_us) = (self.vault.clone(), self.clock.now_us());
        let done = tokio::task::spawn_blocking(move || vault.destroy(&person, now_us)).await;
        done.map_err(|e| broken(&e.to_string()))?
            .map_err(|e| unusable(&e))
    }

    /// Finishes erasures that the end of a process interrupted.
    pub(super) async fn finish_erasures(&self) -> Result<(), Diagnostic> {
        for person in self.vault.doomed().map_err(|e| unusable(&e))? {
            let reason = "finished after it was interrupted".to_owned();
            let actor = self.reads.reporter().to_string();
            self.finish(person, &actor, reason).await?;
        }
        Ok(())
    }

    /// What there is of a person. Blocks on the disk.
    fn found(&self, person: Pseudonym) -> Result<Erased, StoreError> {
        let now_us = self.clock.now_us();
        let spans = spans(&self.log, now_us).map_err(|e| Box::new(e.diagnostic()))?;
        let all = Query::parse("class:* -class:erasure")?;
        let mut records = 0;
        for span in &spans {
            records += self.store.count(&all.about(&person, *span))?;
        }
        let (recall, recall_more) = self.recall(person, &spans)?;
        Ok(Erased {
            subject: person.to_string(),
            state: "nothing_sealed".into(),
            at: None,
            records,
            held_by: self.held_by(person, &spans, now_us)?,
            recall,
            recall_more,
        })
    }

    /// Holds that cover records of a person.
    fn held_by(
        &self,
        person: Pseudonym,
        spans: &[Window],
        now_us: i64,
    ) -> Result<Vec<String>, StoreError> {
        let covers = |held: &Held| -> Result<bool, StoreError> {
            for span in spans.iter().filter_map(|span| held.within(*span)) {
                if self.store.count(&held.query().about(&person, span))? > 0 {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let mut ids = Vec::new();
        for held in self.holds.held(now_us)? {
            if covers(&held)? {
                ids.push(held.id);
            }
        }
        Ok(ids)
    }

    /// Who was given records of a person.
    fn recall(
        &self,
        person: Pseudonym,
        spans: &[Window],
    ) -> Result<(Vec<Recall>, bool), StoreError> {
        let exports = "class:audit_read (verb:export OR verb:reveal) decision:allow";
        let mut given: BTreeMap<(String, String, String, String, String), Recall> = BTreeMap::new();
        let mut looked_at = 0;
        let mut more = false;
        for span in spans.iter().rev() {
            let query = Query::parse(exports)?.between(*span);
            let mut cursor: Option<Cursor> = None;
            loop {
                let page = self.store.search(&query, 1000, cursor)?;
                for row in &page.rows {
                    let key = |name: &str| row.text(name).unwrap_or_default().to_owned();
                    let whole = (
                        key("actor"),
                        key("verb"),
                        key("query"),
                        key("exported_to"),
                        key("kept_to"),
                    );
                    let read = Recall::of(row);
                    given
                        .entry(whole)
                        .and_modify(|known| known.rows = known.rows.saturating_add(read.rows))
                        .or_insert(read);
                }
                looked_at += page.rows.len();
                more |= looked_at >= EXPORTS_MAX;
                cursor = page.cursor.filter(|_| !more);
                if cursor.is_none() {
                    break;
                }
            }
        }
        let mut recall = Vec::new();
        for ((_, _, query, _, kept_to), read) in given {
            if self.had(&person, &query, &kept_to, &read, spans)? {
                recall.push(read);
            }
        }
        recall.sort_by_key(|read| std::cmp::Reverse(read.entry));
        more |= recall.len() > RECALLS_MAX;
        recall.truncate(RECALLS_MAX);
        Ok((recall, more))
    }

    /// Whether an export can have had records of a person; what is not known counts.
    fn had(
        &self,
        person: &Pseudonym,
        query: &str,
        kept_to: &str,
        read: &Recall,
        spans: &[Window],
    ) -> Result<bool, StoreError> {
        let Ok(mut query) = Query::parse(query) else {
            return Ok(true);
        };
        if !kept_to.is_empty() {
            let Ok(rows) = RowFilter::parse(kept_to) else {
                return Ok(true);
            };
            query = query.restricted_to(&rows);
        }
        let at = read.time.parse::<jiff::Timestamp>();
        let at_us = at.map_or_else(|_| self.clock.now_us(), |at| at.as_microsecond());
        let windows = match query.names_an_id() {
            true => spans.to_vec(),
            false => match query.window(at_us, &Limits::default()) {
                Ok(window) => vec![window],
                Err(_) => spans.to_vec(),
            },
        };
        for window in windows {
            let before = query.about(person, window).before(read.entry);
            if self.store.count(&before)? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Recall {
    fn of(row: &Row) -> Self {
        let text = |name: &str| row.text(name).unwrap_or_default().to_owned();
        Self {
            time: row.time(),
            actor: text("actor"),
            verb: text("verb"),
            query: text("query"),
            to: text("exported_to"),
            rows: row.number("rows").unwrap_or_default(),
            entry: row.entry,
        }
    }
}

impl From<palisade_audit::privacy::Revealed> for RevealedValue {
    fn from(revealed: palisade_audit::privacy::Revealed) -> Self {
        let (state, value) = match revealed.fate {
            Fate::Erased => ("erased", None),
            Fate::Masked => ("masked", None),
            Fate::Pseudonym => ("pseudonym", None),
            Fate::Value(value) => ("value", Some(value)),
        };
        Self {
            field: revealed.field,
            state: state.to_owned(),
            subject: revealed.pseudonym.map(|p| p.to_string()),
            value,
        }
    }
}

/// All times that the log has records of, oldest first, in spans that can be asked about.
pub(super) fn spans(log: &Log, now_us: i64) -> Result<Vec<Window>, LogError> {
    let first = log.read(0)?;
    let mut from_us = first.envelope.received_us.saturating_sub(LATE_MAX_US);
    let end_us = now_us.saturating_add(AHEAD_US);
    let mut spans = Vec::new();
    while from_us < end_us {
        let to_us = from_us.saturating_add(SPAN_US).min(end_us);
        spans.push(Window { from_us, to_us });
        from_us = to_us;
    }
    Ok(spans)
}

/// A reason as it may be recorded.
pub(super) fn reason(text: &str, name: Option<&str>) -> Result<String, Diagnostic> {
    let text = text.trim();
    let help = "say why, for whoever reads the log later: --reason 'request 4711 of 3 May'";
    if text.is_empty() || text.len() > REASON_LEN_MAX || text.contains(char::is_control) {
        return Err(
            Diagnostic::error(7565, "there is no reason that can be recorded")
                .cause(format!("a reason is a line of 1 to {REASON_LEN_MAX} bytes"))
                .help(help),
        );
    }
    match name.filter(|name| text.contains(name)) {
        None => Ok(text.to_owned()),
        Some(_) => Err(Diagnostic::error(7565, "the reason names the person")
            .cause("the record of the erasure would keep the name for years")
            .help("name the request instead: --reason 'request 4711 of 3 May'")),
    }
}

/// Opens the keys of persons.
pub(super) fn vault_of(dir: &std::path::Path, kek: &std::path::Path) -> Result<Vault, Diagnostic> {
    Vault::open(dir, kek).map_err(|e| {
        Diagnostic::error(7562, "the keys of persons cannot be used")
            .cause(e.to_string())
            .help("put back `audit.kek` and the folder `audit.subjects` as they belong together; a new key would open nothing that is sealed")
    })
}

fn unusable(error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(7569, "the keys of persons cannot be read or written")
        .cause(error.to_string())
        .help("look at free space, permissions and the health of the disk; ask again then: an erasure that began is finished")
}

/// A moment, RFC 3339.
pub(super) fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    format!("{time:.6}")
}
