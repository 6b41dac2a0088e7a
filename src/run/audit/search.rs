//! Rows of the log for whoever asks: by query, page after page, or by id.

use axum::Json;
use palisade_audit::{
    index::{self, Cursor, StoreError},
    item::Item,
    query::Limits,
    row::Row,
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{AuditRole, SETTLE_FOR_FILES, blocking, broken, reads::Reader, subjects, unnamed};
use crate::control::api::{Answer, Problem};

/// Rows of a search that does not say how many.
pub(super) const ROWS_DEFAULT: usize = 50;

impl AuditRole {
    pub(super) async fn reasoned(
        self,
        reader: Reader,
        asked: Reasoned,
    ) -> Answer<serde_json::Value> {
        let reader = match &asked.reason {
            Some(text) => reader.because(unnamed::reason(text)?),
            None => reader,
        };
        self.search(reader, asked.asked).await
    }

    pub(super) async fn search(self, reader: Reader, asked: Search) -> Answer<serde_json::Value> {
        self.page(reader, asked, "search").await
    }

    pub(super) async fn page(
        self,
        reader: Reader,
        asked: Search,
        verb: &'static str,
    ) -> Answer<serde_json::Value> {
        self.unnamed(&reader, &asked.query)?;
        let query = reader.sees(&self.asked(&asked.query).map_err(Problem::from)?);
        let cursor = match &asked.cursor {
            None => None,
            Some(text) => Some(Cursor::parse(text).ok_or_else(|| not_a_cursor(text))?),
        };
        let told = match (&cursor, verb) {
            // Its time is that of the first page, whatever the text says.
            (Some(cursor), _) => query.told_within(cursor.window()),
            // An erasure looks later for what was given.
            (None, "export") => {
                query.told_within(query.window(self.clock.now_us(), &Limits::default())?)
            }
            (None, _) => query.text().to_owned(),
        };
        let limit = asked.limit.unwrap_or(ROWS_DEFAULT);
        match verb {
            "export" => self.settled_within(SETTLE_FOR_FILES).await,
            _ => self.settled().await,
        }
        let store = self.store.clone();
        let ask = move || store.answer(&query, limit, cursor);
        let answer = self.answered((&reader, verb, &told), ask).await?;
        self.reads
            .note(&reader, verb, &told, given(&answer))
            .await?;
        serde_json::to_value(answer)
            .map(Json)
            .map_err(|e| Problem::from(broken(&e.to_string())))
    }

    /// What is found for a question of a reader. Whoever gave up waiting for it has asked, too.
    pub(super) async fn answered<T: Send + 'static>(
        &self,
        (reader, verb, told): (&Reader, &'static str, &str),
        ask: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let answer = blocking(ask).await;
        if answer.is_err() && self.store.going().has_ended() {
            self.reads.note(reader, verb, told, 0).await?;
        }
        answer
    }

    pub(super) async fn record(self, reader: Reader, id: String) -> Answer<Found> {
        let (store, log) = (self.store.clone(), self.log.clone());
        let (of, asked) = (id.clone(), subjects::by_id(&id));
        self.settled().await;
        let found = blocking(move || store.by_id(&of)).await;
        if found.is_err() {
            // Who looks for what is not there has asked, too.
            self.reads.note(&reader, "show", &asked, 0).await?;
        }
        let entries = found?;
        let checkpointed = log.checkpoint().size;
        let rows = entries
            .into_iter()
            .map(|entry| (entry.index < checkpointed, Item::new(entry)))
            .filter(|(_, item)| reader.rows().matches(item))
            .map(|(under, item)| (under, Row::new(&item)))
            .collect::<Vec<_>>();
        self.reads.note(&reader, "show", &asked, rows.len()).await?;
        Ok(Json(Found {
            checkpointed: rows.iter().all(|(under, _)| *under),
            rows: rows
                .into_iter()
                .map(|(_, row)| serde_json::to_value(row).unwrap_or_default())
                .collect(),
        }))
    }
}

/// What `audit search` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Search {
    /// The query.
    pub query: String,
    /// Most rows.
    pub limit: Option<usize>,
    /// Where an earlier page ended.
    pub cursor: Option<String>,
}

/// What `audit search --reason` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reasoned {
    /// The search.
    #[serde(flatten)]
    pub asked: Search,
    /// Why, for the record of the read.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What `audit export` asks for each page.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportPage {
    /// The page.
    #[serde(flatten)]
    pub asked: Search,
    /// Name of the file that it goes to.
    pub to: String,
}

/// Everything recorded under one id.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// Whether all of it is under a signed checkpoint.
    pub checkpointed: bool,
    /// The records, in log order.
    pub rows: Vec<serde_json::Value>,
}

/// Rows, groups or steps of an answer.
fn given(answer: &index::Answer) -> usize {
    match answer {
        index::Answer::Rows(found) => found.rows.len(),
        index::Answer::Counted(counted) => counted.groups.len(),
        index::Answer::ByTime(counted) => counted.steps.len(),
    }
}

fn not_a_cursor(text: &str) -> Diagnostic {
    Diagnostic::error(7207, format!("`{text}` is not where a page ended"))
        .help("take the cursor from the end of the page before")
}
