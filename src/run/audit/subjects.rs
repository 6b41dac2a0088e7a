//! Persons in the log: what is sealed of them is shown to whoever may see it, and erased
//! for good when that is ordered.

use std::time::Duration;

use axum::{Json, Router, extract::ConnectInfo, routing::post};
use palisade_audit::{
    holds::Held,
    index::StoreError,
    privacy::{Fate, Known, Pseudonym, Vault, VaultError},
    query::{IdPrefix, Pattern, Query, Window},
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::record::{self, record::Body},
};
use serde::{Deserialize, Serialize};

use super::{
    AuditRole, Reader, Recall, blocking, broken,
    unnamed::{About, nameless, reason},
};
use crate::control::{
    api::{Answer, Problem},
    server::PeerUid,
};

/// Longest name of a person, in bytes.
const NAME_LEN_MAX: usize = 1024;
/// Length of time of one question about all times: less than a query may ask about.
const SPAN_US: i64 = 399 * 86_400 * 1_000_000;
/// How often it is looked whether an erasure is to be finished.
const FINISH_EVERY: Duration = Duration::from_secs(2);
/// What is recorded of a text that is no query: it may name anybody.
const NO_QUERY: &str = "(no query)";

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
    /// `value`, `erased`, `unreadable`, `pseudonym` or `masked`.
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
    /// Records that have the name as it is, from before a rule covered it: these stay.
    pub in_clear: u64,
    /// Whether the index has every record, so that none is missing here.
    pub whole: bool,
    /// Ids of the legal holds that cover some of them; then nothing is erased.
    pub held_by: Vec<String>,
    /// Who was given some of them before, and where they went.
    pub recall: Vec<Recall>,
    /// Whether there are more than these.
    pub recall_more: bool,
}

/// A question whose names are to be pseudonyms.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// The query.
    pub query: String,
}

impl AuditRole {
    pub(super) fn subjects(&self) -> Router {
        let (of_reveal, of_erase, of_told) = (self.clone(), self.clone(), self.clone());
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
                        let reader = Reader::local(uid);
                        let order = |role: Self| async move { role.erase(reader, q).await };
                        of_erase.in_turn(order).await
                    },
                ),
            )
            .route(
                "/v1/audit/told",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<Told>| async move {
                        of_told.nameless(&Reader::local(uid), &q).await
                    },
                ),
            )
    }

    /// Carries out an order about erasures or holds: one at a time, for a hold that is added
    /// meanwhile must count, and to its end, whether or not somebody still waits for it.
    pub(super) async fn in_turn<T, F>(self, order: impl FnOnce(Self) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let turn = self.orders.clone();
        let work = order(self);
        let done = tokio::spawn(async move {
            let _turn = turn.lock_owned().await;
            work.await
        });
        done.await.map_err(|e| broken(&e.to_string()))?.map(Json)
    }

    /// A query with persons by their pseudonyms.
    pub(super) fn asked(&self, text: &str) -> Result<Query, Diagnostic> {
        let query = Query::parse(text)?;
        Ok(query.naming(&|name| self.vault.pseudonym(name)))
    }

    /// The text of a query as it may be recorded: it names nobody.
    pub(super) fn told(&self, text: &str) -> String {
        let asked = self.asked(text);
        asked.map_or_else(|_| NO_QUERY.to_owned(), |query| query.text().to_owned())
    }

    /// The same for whoever makes a file that says what was asked.
    async fn nameless(self, reader: &Reader, asked: &Told) -> Answer<Told> {
        let query = self.asked(&asked.query)?.text().to_owned();
        self.reads.note(reader, "pseudonym", &query, 1).await?;
        Ok(Json(Told { query }))
    }

    /// Shows what is under the covers of an id's records.
    pub(super) async fn reveal(self, reader: Reader, asked: Reveal) -> Answer<Revelation> {
        let reason = reason(&asked.reason)?;
        let (store, vault, id) = (self.store.clone(), self.vault.clone(), asked.id.clone());
        self.settled().await;
        let rows = reader.rows().clone();
        let found = blocking(move || {
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
        .await;
        // Records of every class are under an id.
        let question = format!("class:* {}", by_id(&asked.id));
        let values = found.iter().flatten().flat_map(|record| &record.values);
        let values: Vec<String> = values.filter_map(|value| value.value.clone()).collect();
        if let Err(told) = nameless(&reason, &values) {
            self.reads.note(&reader, "reveal", &question, 0).await?;
            return Err(told.into());
        }
        // Who looks for what is not there has asked, too.
        let (reader, given) = (reader.because(reason), found.as_ref().map_or(0, Vec::len));
        self.reads.note(&reader, "reveal", &question, given).await?;
        Ok(Json(Revelation { records: found? }))
    }

    /// Destroys the key of a person.
    async fn erase(self, reader: Reader, asked: Erase) -> Result<Erased, Problem> {
        let name = asked.subject.as_str();
        if name.trim().is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Problem::from(
                Diagnostic::error(7563, "nobody is named")
                    .cause(format!("a name has 1 to {NAME_LEN_MAX} bytes"))
                    .help("as it stands in requests: palisade audit erase alice@example.org --reason TEXT"),
            ));
        }
        let pseudonym: Result<Pseudonym, ()> = name.parse();
        let named = pseudonym.is_err().then(|| name.to_owned());
        let person = pseudonym.unwrap_or_else(|()| self.vault.pseudonym(name));
        let about = About {
            names: named.into_iter().collect(),
            persons: vec![person],
        };
        let reason = self.reason(&asked.reason, &about)?;
        self.catch_up().await?;
        let (role, named) = (self.clone(), about.names.into_iter().next());
        let (mut found, known) = blocking(move || {
            let found = role.found(person, named.as_deref())?;
            Ok((found, role.vault.known(&person)?))
        })
        .await?;
        let reader = reader.because(reason.clone());
        if known == Known::Sealed && !asked.dry_run {
            if let Err(held) = may_be_erased(&found) {
                self.previewed(&reader, &found).await?;
                return Err(held.into());
            }
            self.destroy(person, reader.actor(), reason).await?;
            found.state = "erased".into();
            let known = self.keys(move |vault| vault.known(&person)).await?;
            found.at = erased_at(known);
            return Ok(found);
        }
        found.state = match known {
            Known::Erased(_) => "erased_before",
            Known::Nobody => "nothing_sealed",
            Known::Sealed => "would_erase",
        }
        .into();
        found.at = erased_at(known);
        self.previewed(&reader, &found).await?;
        Ok(found)
    }

    /// Records that somebody was told what there is of a person, and nothing was destroyed.
    async fn previewed(&self, reader: &Reader, found: &Erased) -> Result<(), Diagnostic> {
        let question = format!("subject:{}", found.subject);
        let records = usize::try_from(found.records).unwrap_or(usize::MAX);
        let read = self.reads.note(reader, "erase_preview", &question, records);
        read.await
    }

    async fn destroy(
        &self,
        person: Pseudonym,
        actor: &str,
        reason: String,
    ) -> Result<(), Diagnostic> {
        self.keys(move |vault| vault.doom(&person)).await?;
        // From here on it happens, also when this process ends meanwhile.
        if let Err(unrecorded) = self.record_erasure(person, actor, reason).await {
            // Unless nobody would know of it.
            self.spare(person, "it could not be recorded").await?;
            return Err(unrecorded);
        }
        let now_us = self.clock.now_us();
        self.keys(move |vault| vault.destroy(&person, now_us)).await
    }

    async fn record_erasure(
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
        self.reads.keep(Body::Erasure(erasure)).await
    }

    /// Takes an order to erase back, and records why.
    async fn spare(&self, person: Pseudonym, why: &str) -> Result<(), Diagnostic> {
        self.keys(move |vault| vault.spare(&person)).await?;
        let withheld = record::Admin {
            actor: self.reads.reporter().to_string(),
            verb: "erasure_withheld".to_owned(),
            object: person.to_string(),
            detail: why.to_owned(),
        };
        self.reads.keep(Body::Admin(withheld)).await
    }

    /// Finishes erasures that were interrupted, for ever: those of an earlier process, and
    /// those whose key could not be overwritten.
    pub(super) async fn finish_erasures(self) {
        loop {
            let doomed = self.keys(|vault| Ok(vault.doomed())).await;
            for person in doomed.unwrap_or_default() {
                let finished = self.clone().in_turn(|role| role.finish(person)).await;
                if let Err(problem) = finished {
                    let error = Diagnostic::from(problem);
                    tracing::error!(subject = %person, %error, "an erasure is not finished; it is tried again");
                }
            }
            tokio::time::sleep(FINISH_EVERY).await;
        }
    }

    /// Finishes one, unless a hold has come up meanwhile.
    async fn finish(self, person: Pseudonym) -> Result<(), Problem> {
        // Whoever gave the order may have waited for its turn and be done.
        let doomed = self.keys(|vault| Ok(vault.doomed())).await?;
        if !doomed.contains(&person) {
            return Ok(());
        }
        self.catch_up().await?;
        let role = self.clone();
        let found = blocking(move || role.found(person, None)).await?;
        match (found.held_by.first(), may_be_erased(&found)) {
            (Some(hold), _) => {
                let why = format!("hold `{hold}` keeps records of this person");
                self.spare(person, &why).await?;
            }
            (None, may) => {
                may?;
                let actor = self.reads.reporter().to_string();
                let reason = "finished after it was interrupted".to_owned();
                self.record_erasure(person, &actor, reason).await?;
                let now_us = self.clock.now_us();
                self.keys(move |vault| vault.destroy(&person, now_us))
                    .await?;
            }
        }
        Ok(())
    }

    /// Works with the keys of persons, beside the runtime's own threads.
    async fn keys<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Diagnostic> {
        let vault = self.vault.clone();
        let done = tokio::task::spawn_blocking(move || work(&vault)).await;
        done.map_err(|e| broken(&e.to_string()))?
            .map_err(|e| unusable(&e))
    }

    /// What there is of a person, who is called `name` where that is known. Blocks on the
    /// disk.
    fn found(&self, person: Pseudonym, name: Option<&str>) -> Result<Erased, StoreError> {
        let status = self.store.status();
        let mut whole =
            status.searchable >= status.log_len && (status.remaking, status.unreadable) == (0, 0);
        let spans = spans(self.store.times());
        let all = Query::parse("class:* -class:erasure")?;
        let mut records = 0;
        for span in &spans {
            let (counted, of_all) = self.store.count_whole(&all.about(&person, *span))?;
            records += counted;
            whole &= of_all;
        }
        let (recall, recall_more) = self.recall(person, &spans)?;
        Ok(Erased {
            subject: person.to_string(),
            state: String::new(),
            at: None,
            records,
            in_clear: self.in_clear(name, &spans)?,
            whole,
            held_by: self.held_by(person, &spans)?,
            recall,
            recall_more,
        })
    }

    /// Records that have a name as it is, because no rule covered it then: as author of a
    /// change, or as address of a caller. Recorded contexts are not searched.
    fn in_clear(&self, name: Option<&str>, spans: &[Window]) -> Result<u64, StoreError> {
        let Some(name) = name else {
            return Ok(0);
        };
        let whole = Pattern::literal(name);
        // As git writes an author, who may be asked for by the address alone.
        let mail = Pattern::ending_in(format!("<{name}>"));
        let author = format!("class:policy_change (author:{whole} OR author:{mail})");
        let source = name.parse::<std::net::IpAddr>().ok();
        let source = source.map(|ip| format!("class:* source:{ip}"));
        let mut found = 0;
        // What cannot be asked is nowhere.
        let asked = [Some(author), source].into_iter().flatten();
        for query in asked.filter_map(|text| Query::parse(&text).ok()) {
            for span in spans {
                found += self.store.count(&query.between(*span))?;
            }
        }
        Ok(found)
    }

    /// Holds that cover records of a person.
    fn held_by(&self, person: Pseudonym, spans: &[Window]) -> Result<Vec<String>, StoreError> {
        let covers = |held: &Held| -> Result<bool, StoreError> {
            for span in spans.iter().filter_map(|span| held.within(*span)) {
                if self.store.count(&held.query().about(&person, span))? > 0 {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let mut ids = Vec::new();
        for held in self.holds.held(self.clock.now_us())? {
            if covers(&held)? {
                ids.push(held.id);
            }
        }
        Ok(ids)
    }
}

impl From<palisade_audit::privacy::Revealed> for RevealedValue {
    fn from(revealed: palisade_audit::privacy::Revealed) -> Self {
        let (state, value) = match revealed.fate {
            Fate::Erased => ("erased", None),
            Fate::Masked => ("masked", None),
            Fate::Pseudonym => ("pseudonym", None),
            Fate::Unreadable => ("unreadable", None),
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

/// All times of the index, oldest first, in spans that can be asked about.
fn spans(all: Option<Window>) -> Vec<Window> {
    let mut spans = Vec::new();
    let Some(all) = all else {
        return spans;
    };
    let mut from_us = all.from_us;
    while from_us < all.to_us {
        let to_us = from_us.saturating_add(SPAN_US).min(all.to_us);
        spans.push(Window { from_us, to_us });
        from_us = to_us;
    }
    spans
}

/// Refuses an erasure that a hold forbids, or of which that cannot be told.
fn may_be_erased(found: &Erased) -> Result<(), Diagnostic> {
    if let Some(hold) = found.held_by.first() {
        return Err(
            Diagnostic::error(7564, "a legal hold keeps records of this person")
                .cause(match found.held_by.len() {
                    1 => format!("it is `{hold}`"),
                    n => format!("there are {n}; the first is `{hold}`"),
                })
                .help(
                    "see why: palisade audit hold list; what is held is erased once it is released",
                ),
        );
    }
    match found.whole {
        true => Ok(()),
        false => Err(Diagnostic::error(
            7570,
            "whether a legal hold keeps records of this person cannot be told",
        )
        .cause("the index does not have all records, so a held one could be missing")
        .help("see what the index waits for: palisade check; then ask again")),
    }
}

fn erased_at(known: Known) -> Option<String> {
    match known {
        Known::Erased(at_us) => Some(time(at_us)),
        Known::Nobody | Known::Sealed => None,
    }
}

/// A question by an id, as it may be recorded: what is no id could be a name.
pub(super) fn by_id(id: &str) -> String {
    match IdPrefix::is_in(id) {
        true => format!("id:{id}"),
        false => NO_QUERY.to_owned(),
    }
}

/// Opens the keys of persons; begins them where the log `begins`: it holds nothing sealed.
pub(super) fn vault_of(
    dir: &std::path::Path,
    kek: &std::path::Path,
    begins: bool,
) -> Result<Vault, Diagnostic> {
    Vault::open(dir, kek, begins).map_err(|e| {
        let told = Diagnostic::error(7562, "the keys of persons cannot be used").cause(e.to_string());
        told.help(match e {
            VaultError::NoTable(_) => "put the folder `audit.subjects` back; what is sealed in the log opens with nothing else",
            _ => "put back `audit.kek` and the folder `audit.subjects` as they belong together; a new key would open nothing that is sealed",
        })
    })
}

fn unusable(error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(7569, "the keys of persons cannot be read or written")
        .cause(error.to_string())
        .help("look at free space, permissions and the health of the disk: an erasure that began is finished then")
}

/// A moment, RFC 3339.
pub(super) fn time(us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_times_are_asked_about_in_spans() {
        assert!(spans(None).is_empty());
        let window = |from_us, to_us| Window { from_us, to_us };
        let all = window(-5, 2 * SPAN_US);
        let expected = [
            window(-5, SPAN_US - 5),
            window(SPAN_US - 5, 2 * SPAN_US - 5),
            window(2 * SPAN_US - 5, 2 * SPAN_US),
        ];
        assert_eq!(spans(Some(all)), expected);
    }

    #[test]
    fn what_is_no_id_is_not_recorded() {
        assert_eq!(by_id("01jd8k2xq4"), "id:01jd8k2xq4");
        assert_eq!(by_id("alice@example.org"), NO_QUERY);
    }
}
