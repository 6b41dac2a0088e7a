//! Who was given records of a person, so that copies can be called back: by the records of
//! reads, and of what the service made and sent by itself.

use std::collections::BTreeMap;

use palisade_audit::{
    index::{Cursor, StoreError},
    privacy::Pseudonym,
    query::{Limits, QUERY_LEN_MAX, Query, RowFilter, Window},
    row::Row,
};
use serde::{Deserialize, Serialize};

use super::{AuditRole, forward, schedules};
use crate::net::syslog::SCHEME;

/// Exports that are looked at for what they had of a person, newest first.
const EXPORTS_MAX: usize = 10_000;
/// How it is recorded that somebody got what is not told by a query: an evidence package, a
/// report with its rows, records as they are hashed.
const WHOLE: [&str; 4] = ["report", schedules::MADE, "report_package", TILES];
/// How it is recorded that somebody got records as they are hashed: 256 at a time.
const TILES: &str = "tiles";
/// Reads that gave records to whoever asked, as copies. Tiles are looked at by themselves:
/// there is one for 256 records.
const READS: [&str; 2] = [
    "class:audit_read (verb:export OR verb:report_package OR \
     ((verb:proof OR verb:report OR verb:reveal) rows:>0)) decision:allow",
    "class:audit_read verb:tiles rows:>0 decision:allow",
];
/// Copies of each kind that one answer names: many runs of a schedule hide no export.
const RECALLS_MAX: usize = 1000;
/// Most bytes of a character: where a text was cut, so many can be missing to its limit.
const LONGEST_CHAR: usize = 4;

/// Copies, by who asked, how, for what, into which file, and kept to which rows.
type Given = BTreeMap<(String, String, String, String, String), Recall>;

/// Records of a person that somebody was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// When, RFC 3339.
    pub time: String,
    /// To whom.
    pub actor: String,
    /// `export`, `report_package`, or `reveal` where the person was named; `report_made` by a
    /// schedule, `syslog_begun` for a receiver of syslog.
    pub verb: String,
    /// What was asked.
    pub query: String,
    /// The file or the receiver, as far as it is known.
    pub to: String,
    /// Records that were given, of this person and of others.
    pub rows: u64,
    /// Index of the record of it.
    pub entry: u64,
}

impl AuditRole {
    /// Who was given records of a person.
    pub(super) fn recall(
        &self,
        person: Pseudonym,
        spans: &[Window],
    ) -> Result<(Vec<Recall>, bool), StoreError> {
        let reader = self.reads.reporter();
        // Copies that the service made by itself, by what it says of it: reports of schedules,
        // and what went to a syslog receiver. Nobody asked for them, so no read tells of them.
        let of_itself = [schedules::MADE, forward::BEGUN]
            .map(|verb| format!("class:admin verb:{verb} reporter:\"{reader}\""));
        let kinds = [
            (READS.map(str::to_owned), Recall::read as fn(&Row) -> Recall),
            (of_itself, Recall::made),
        ];
        let mut recall = Vec::new();
        let mut more = false;
        for (queries, told) in kinds {
            let mut given = Given::new();
            for query in queries {
                more |= self.given(&Query::parse(&query)?, told, spans, &mut given)?;
            }
            let mut had = Vec::new();
            for ((_, _, query, _, kept_to), read) in given {
                if self.had(&person, &query, &kept_to, &read, spans)? {
                    had.push(read);
                }
            }
            had.sort_by_key(|read| std::cmp::Reverse(read.entry));
            more |= had.len() > RECALLS_MAX;
            had.truncate(RECALLS_MAX);
            recall.extend(had);
        }
        recall.sort_by_key(|read| std::cmp::Reverse(read.entry));
        Ok((recall, more))
    }

    /// Who was given copies, by what was asked; whether there are more than are looked at.
    fn given(
        &self,
        copies: &Query,
        told: fn(&Row) -> Recall,
        spans: &[Window],
        given: &mut Given,
    ) -> Result<bool, StoreError> {
        let mut looked_at = 0;
        for span in spans.iter().rev() {
            let query = copies.between(*span);
            let mut cursor: Option<Cursor> = None;
            loop {
                let page = self.store.search(&query, 1000, cursor)?;
                for row in &page.rows {
                    let read = told(row);
                    // One reader's tiles are one copy.
                    let asked = match read.verb.as_str() {
                        TILES => TILES.to_owned(),
                        _ => read.query.clone(),
                    };
                    let whole = (
                        read.actor.clone(),
                        read.verb.clone(),
                        asked,
                        read.to.clone(),
                        row.text("kept_to").unwrap_or_default().to_owned(),
                    );
                    given
                        .entry(whole)
                        .and_modify(|known| known.rows = known.rows.saturating_add(read.rows))
                        .or_insert(read);
                }
                looked_at += page.rows.len();
                if looked_at >= EXPORTS_MAX {
                    return Ok(true);
                }
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
        Ok(false)
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
        // A package has every record of its report, and of what is not a query.
        if WHOLE.contains(&read.verb.as_str()) {
            return Ok(true);
        }
        if read.verb == forward::BEGUN {
            return self.forwarded(person, query, spans);
        }
        // Of a longer one only the beginning was recorded.
        let cut = query.len() + LONGEST_CHAR > QUERY_LEN_MAX;
        let Some(mut query) = Query::parse(query).ok().filter(|_| !cut) else {
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
        self.any(&windows, |window| {
            query.about(person, window).before(read.entry)
        })
    }

    /// Whether a receiver of syslog can have had records of a person.
    fn forwarded(
        &self,
        person: &Pseudonym,
        told: &str,
        spans: &[Window],
    ) -> Result<bool, StoreError> {
        let asked = forward::read_begun(told)
            .and_then(|(since, query)| Some((since, Query::parse(query).ok()?)));
        let Some((since, query)) = asked else {
            return Ok(true);
        };
        self.any(spans, |span| query.about(person, span).from(since))
    }

    /// Whether there is a record that is asked for of one of these times.
    fn any(&self, windows: &[Window], asked: impl Fn(Window) -> Query) -> Result<bool, StoreError> {
        for window in windows {
            if self.store.count(&asked(*window))? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Recall {
    /// What somebody asked for and was given.
    fn read(row: &Row) -> Self {
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

    /// What the service made or sent by itself.
    fn made(row: &Row) -> Self {
        let text = |name: &str| row.text(name).unwrap_or_default();
        let (verb, object, detail) = (text("verb"), text("object"), text("detail"));
        let (query, to) = match verb {
            forward::BEGUN => (detail.to_owned(), format!("{SCHEME}{object}")),
            _ => {
                let (what, files) = detail.split_once(": ").unwrap_or((detail, ""));
                (format!("schedule {object}: {what}"), files.to_owned())
            }
        };
        Self {
            time: row.time(),
            actor: text("actor").to_owned(),
            verb: verb.to_owned(),
            query,
            to,
            rows: 0,
            entry: row.entry,
        }
    }
}
