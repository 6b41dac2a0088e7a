//! Queries that readers of the API have saved under a name: each reader its own.
//!
//! What is saved is a query like any other, asked as `@NAME`, with the rights of whoever
//! asks it. It names no person, because whoever keeps it may not be whoever may reveal.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palisade_audit::query::{PSEUDONYM, Query};
use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use serde::Serialize;

use super::{
    AuditRole, broken,
    reads::Reader,
    state::{Lost, keep, read},
};
use crate::control::api::Problem;

/// Longest name.
const NAME_LEN_MAX: usize = 64;
/// Most queries of one reader.
const QUERIES_MAX: usize = 200;
/// Most readers that have saved some.
const READERS_MAX: usize = 1000;

/// Queries by name, by reader.
type Book = BTreeMap<String, BTreeMap<String, String>>;

/// The saved queries of all readers. Clones are one.
#[derive(Clone)]
pub(super) struct Saved(Arc<Inner>);

struct Inner {
    file: PathBuf,
    book: Mutex<Book>,
    /// Held while the file is written; who asks does not wait for the disk.
    writing: Mutex<()>,
}

/// A saved query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct SavedQuery {
    /// Its name.
    pub(super) name: String,
    /// What it asks.
    pub(super) query: String,
}

/// The saved queries of one reader.
#[derive(Debug, Serialize)]
pub(super) struct SavedList {
    saved: Vec<SavedQuery>,
}

/// Whether a query can be saved under `name`: letters, digits and `-_.`, at most 64.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(fits)
}

/// The saved `query` of `name`, narrowed by the words `rest`.
///
/// # Errors
/// `PLS7923` when it ends in a summary and words follow.
pub(crate) fn narrowed(name: &str, query: &str, rest: &str) -> Result<String, Diagnostic> {
    let rest = rest.trim();
    if rest.is_empty() {
        return Ok(query.to_owned());
    }
    if Query::parse(query)?.stage().is_some() && !rest.starts_with('|') {
        return Err(Diagnostic::error(
            7923,
            format!("`@{name}` ends in a summary, and `{rest}` cannot follow"),
        )
        .cause(format!("it is `{query}`"))
        .help("save it without what stands after `|`, and write that when you ask"));
    }
    Ok(match rest.starts_with('|') {
        true => format!("{query} {rest}"),
        false => format!("({query}) {rest}"),
    })
}

impl Saved {
    /// Those that are in `file`.
    pub(super) fn open(file: PathBuf, lost: &mut Vec<Lost>) -> Self {
        let book = read(&file, lost).unwrap_or_default();
        Self(Arc::new(Inner {
            file,
            book: Mutex::new(book),
            writing: Mutex::default(),
        }))
    }

    /// `text` with the saved query of `reader` in the place of `@NAME` at its beginning.
    ///
    /// # Errors
    /// `PLS7920` when it has none of that name, `PLS7923` as [`narrowed`].
    pub(super) fn expanded(&self, reader: &str, text: &str) -> Result<String, Diagnostic> {
        let Some(named) = text.trim_start().strip_prefix('@') else {
            return Ok(text.to_owned());
        };
        let (name, rest) = named.split_once(char::is_whitespace).unwrap_or((named, ""));
        narrowed(name, &self.find(reader, name)?, rest)
    }

    fn find(&self, reader: &str, name: &str) -> Result<String, Diagnostic> {
        let book = self.book();
        let own = book.get(reader);
        let found = own.and_then(|own| own.get(name)).cloned();
        found.ok_or_else(|| unknown(name, own.into_iter().flat_map(BTreeMap::keys)))
    }

    fn all(&self, reader: &str) -> Vec<SavedQuery> {
        let of = |(name, query): (&String, &String)| SavedQuery {
            name: name.clone(),
            query: query.clone(),
        };
        let book = self.book();
        book.get(reader).into_iter().flatten().map(of).collect()
    }

    /// Changes the queries of `reader` on disk and then here, on no thread of the runtime.
    async fn changed<T: Send + 'static>(
        &self,
        reader: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<T, Diagnostic> + Send + 'static,
    ) -> Result<T, Diagnostic> {
        let (saved, reader) = (self.clone(), reader.to_owned());
        let done = tokio::task::spawn_blocking(move || saved.change(&reader, change));
        done.await.map_err(|e| broken(&e.to_string()))?
    }

    fn change<T>(
        &self,
        reader: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        let writing = self.0.writing.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        let mut next = self.book().clone();
        let done = change(next.entry(reader.to_owned()).or_default())?;
        next.retain(|_, own| !own.is_empty());
        if next.len() > READERS_MAX {
            return Err(full(&format!("{READERS_MAX} readers have saved some")));
        }
        keep(&self.0.file, &next).map_err(|e| broken(&e.to_string()))?;
        *self.book() = next;
        Ok(done)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditRole {
    /// The queries that the reader has saved.
    pub(super) async fn saved_list(self, reader: Reader) -> Result<SavedList, Problem> {
        let saved = self.saved.all(reader.actor());
        self.reads.note(&reader, "saved", "", saved.len()).await?;
        Ok(SavedList { saved })
    }

    /// Saves a query of the reader, in the place of one that has its name.
    ///
    /// # Errors
    /// `PLS7922` when it cannot be saved, and what is wrong with the query.
    pub(super) async fn save(
        self,
        reader: Reader,
        asked: SavedQuery,
    ) -> Result<SavedQuery, Problem> {
        let asked = understood(asked)?;
        let (actor, put) = (reader.actor().to_owned(), asked.clone());
        let text = asked.query.as_str();
        // Recorded first: what is saved and left no record is worse than the reverse.
        let object = asked.name.as_str();
        self.reads
            .acted(&actor, "query_saved", object, text)
            .await?;
        let done = self.saved.changed(&actor, move |own| {
            if own.len() >= QUERIES_MAX && !own.contains_key(&put.name) {
                return Err(full(&format!("{QUERIES_MAX} are saved already")));
            }
            own.insert(put.name, put.query);
            Ok(())
        });
        let done = done.await;
        if let Err(told) = done {
            let why = &told.message;
            self.reads
                .acted(&actor, "query_save_failed", object, why)
                .await?;
            return Err(told.into());
        }
        Ok(asked)
    }

    /// Forgets a query of the reader.
    ///
    /// # Errors
    /// `PLS7920` when there is none of that name.
    pub(super) async fn forget(self, reader: Reader, name: String) -> Result<SavedQuery, Problem> {
        let actor = reader.actor().to_owned();
        let query = self.saved.find(&actor, &name)?;
        self.reads
            .acted(&actor, "query_forgotten", &name, &query)
            .await?;
        let named = name.clone();
        let done = self
            .saved
            .changed(&actor, move |own| match own.remove(&named) {
                Some(query) => Ok(query),
                None => Err(unknown(&named, own.keys())),
            });
        let query = match done.await {
            Ok(query) => query,
            Err(told) => {
                let why = &told.message;
                self.reads
                    .acted(&actor, "query_forget_failed", &name, why)
                    .await?;
                return Err(told.into());
            }
        };
        Ok(SavedQuery { name, query })
    }
}

/// What may be saved.
fn understood(asked: SavedQuery) -> Result<SavedQuery, Diagnostic> {
    let cannot = |cause: String| {
        Diagnostic::error(
            7922,
            format!("`{}` cannot be the name of a query", asked.name),
        )
        .cause(cause)
    };
    if !is_name(&asked.name) {
        let told = cannot(format!(
            "a name has letters, digits and `-_.`, at most {NAME_LEN_MAX} of them"
        ));
        return Err(told.help("as in PUT /v1/audit/saved/denied"));
    }
    if !Query::parse(&asked.query)?.names().is_empty() {
        let told = Diagnostic::error(7922, "a query that names a person cannot be saved").cause(
            format!("`{}` would keep the name beside the log", asked.name),
        );
        return Err(told.help(PSEUDONYM));
    }
    Ok(SavedQuery {
        query: asked.query.trim().to_owned(),
        name: asked.name,
    })
}

fn full(cause: &str) -> Diagnostic {
    Diagnostic::error(7922, "there is no room for another saved query")
        .cause(cause.to_owned())
        .help("forget one: DELETE /v1/audit/saved/NAME")
}

fn unknown<'n>(name: &str, known: impl Iterator<Item = &'n String>) -> Diagnostic {
    let none = Diagnostic::error(7920, format!("no query is saved as `{name}`"));
    match did_you_mean(name, known.map(String::as_str)) {
        Some(near) => none.help(format!("did you mean `@{near}`?")),
        None => none.help("see which there are: GET /v1/audit/saved"),
    }
}
