//! Legal holds: records that must stay, whatever else would let them go.
//!
//! A hold is a query. What it matches is neither erased nor pruned until the hold is
//! released or its time is over. They are few, kept in one file beside the log, and each
//! change of them is a record.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use palisade_mesh::{diagnostic::Diagnostic, wire::record::Admin};
use serde::{Deserialize, Serialize};

use crate::{
    files,
    item::Item,
    query::{Query, Window, time::rfc3339},
    told::{self, voided},
};

/// The verb under which it is recorded that a hold was added.
pub const HOLD_ADDED: &str = told::HOLD_ADDED;

/// The verb under which it is recorded that one was not, though it was recorded before.
pub const HOLD_ADD_FAILED: &str = told::HOLD_ADD_FAILED;

/// The verb under which it is recorded that a hold was released.
pub const HOLD_RELEASED: &str = told::HOLD_RELEASED;

/// The verb under which it is recorded that one was not, though it was recorded before.
pub const HOLD_RELEASE_FAILED: &str = told::HOLD_RELEASE_FAILED;

/// Most holds at a time.
pub const HOLDS_MAX: usize = 256;

/// Records that must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// ULID.
    pub id: String,
    /// Which records, in the language of queries, persons by pseudonym.
    pub query: String,
    /// Time of the first of these records, microseconds since the Unix epoch; none for all
    /// from the beginning.
    pub from_us: Option<i64>,
    /// Time before which they are; none for all that are still to come.
    pub to_us: Option<i64>,
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub by: String,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: i64,
    /// When it ends by itself, microseconds since the Unix epoch.
    pub until_us: Option<i64>,
}

impl Hold {
    /// What is recorded of it: `why` something is done, which records, and until when.
    pub fn told(&self, why: &str) -> String {
        let bound = |word: &str, us: Option<i64>| us.map(|us| format!("{word}:{}", rfc3339(us)));
        let bounds = [bound("since", self.from_us), bound("until", self.to_us)];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        let bounds = match bounds.is_empty() {
            true => "of all times".to_owned(),
            false => bounds.join(" "),
        };
        format!("{why} ({} {bounds}){}", self.query, self.ends())
    }

    /// The same as it was recorded before it named its bounds.
    fn told_once(&self) -> String {
        format!("{} ({}){}", self.reason, self.query, self.ends())
    }

    fn ends(&self) -> String {
        let until = |us| format!("{UNTIL}{}", rfc3339(us));
        self.until_us.map_or_else(String::new, until)
    }
}

/// What comes before the moment at which a hold ends by itself, after all else of it.
const UNTIL: &str = " until ";

/// A hold, as the log says that it was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// Its id.
    pub id: String,
    /// What was recorded of it.
    pub told: String,
}

impl Ordered {
    /// When it ends by itself, microseconds since the Unix epoch.
    fn until_us(&self) -> Option<i64> {
        // What precedes it ends with a bracket, and nothing follows it.
        let (_, until) = self.told.rsplit_once(&format!("){UNTIL}"))?;
        let until: jiff::Timestamp = until.parse().ok()?;
        Some(until.as_microsecond())
    }

    /// Whether `hold` is the one that was ordered.
    pub(crate) fn is(&self, hold: &Held) -> bool {
        self.id == hold.id && hold.told.contains(&self.told)
    }
}

/// What the log says of holds, in its order.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    orders: Vec<(u64, Admin)>,
    /// From which record on nothing was signed when the log was opened, and where that is told.
    unsigned: Vec<(u64, u64)>,
}

impl Orders {
    /// Takes in the record at `index`.
    pub(crate) fn take(&mut self, index: u64, order: Admin) {
        self.orders.push((index, order));
    }

    /// Notes what the record at `index` says: nothing from `from` on was signed.
    pub(crate) fn unsigned(&mut self, index: u64, from: u64) {
        self.unsigned.push((index, from));
    }

    /// What is in force at `now_us`, by id. What was not signed when the log was opened ends
    /// no hold.
    pub(crate) fn in_force(&self, now_us: i64) -> Vec<Ordered> {
        let mut all: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
        let void = voided(&self.unsigned);
        for (index, order) in &self.orders {
            let id = order.object.as_str();
            match order.verb.as_str() {
                HOLD_ADDED => drop(all.insert(id, (&order.detail, true))),
                HOLD_RELEASE_FAILED => {
                    if let Some(known) = all.get_mut(id) {
                        known.1 = true;
                    }
                }
                _ if void(*index) => {}
                _ => {
                    if let Some(known) = all.get_mut(id) {
                        known.1 = false;
                    }
                }
            }
        }
        let in_force = all.into_iter().filter(|(_, (_, stands))| *stands);
        let ordered = in_force.map(|(id, (told, _))| Ordered {
            id: id.to_owned(),
            told: told.to_owned(),
        });
        ordered
            .filter(|ordered| ordered.until_us().is_none_or(|until| now_us < until))
            .collect()
    }
}

/// A hold, understood.
#[derive(Debug)]
pub struct Held {
    /// Its id.
    pub id: String,
    /// What may be recorded of it.
    told: [String; 2],
    /// Why.
    pub reason: String,
    query: Query,
    window: Window,
}

impl Held {
    /// Whether it keeps a record.
    pub fn keeps(&self, item: &Item) -> bool {
        self.window.contains(item.time_us) && self.query.matches(item)
    }

    /// Whether it keeps a record, or would with the outcome that belongs to it.
    pub(crate) fn may_keep(&self, item: &Item) -> bool {
        self.window.contains(item.time_us) && self.query.may_match(item)
    }

    /// What it keeps.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// What of `window` it is about.
    pub fn within(&self, window: Window) -> Option<Window> {
        let both = Window {
            from_us: self.window.from_us.max(window.from_us),
            to_us: self.window.to_us.min(window.to_us),
        };
        (both.from_us < both.to_us).then_some(both)
    }
}

/// The holds of a log.
#[derive(Debug)]
pub struct Holds {
    path: PathBuf,
    all: Mutex<Vec<Hold>>,
}

impl Holds {
    /// Opens those in the file `path`, which is made where the log `begins`, too.
    ///
    /// # Errors
    /// When the file cannot be read: without it nobody knows what must stay.
    pub fn open(path: &Path, begins: bool) -> io::Result<Self> {
        if begins && !path.try_exists()? {
            files::replace(path, b"[]\n", files::Sync::Yes)?;
        }
        let all = serde_json::from_slice(&fs::read(path)?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Self {
            path: path.to_owned(),
            all: Mutex::new(all),
        })
    }

    /// All that have not ended at `now_us`, oldest first.
    pub fn active(&self, now_us: i64) -> Vec<Hold> {
        let active = |hold: &&Hold| hold.until_us.is_none_or(|until| now_us < until);
        self.all().iter().filter(active).cloned().collect()
    }

    /// The same, understood.
    ///
    /// # Errors
    /// `PLS7567` when one of them cannot be read: nothing may go then.
    pub fn held(&self, now_us: i64) -> Result<Vec<Held>, Diagnostic> {
        let read = |hold: Hold| {
            let query = Query::parse(&hold.query).map_err(|wrong| {
                Diagnostic::error(7567, format!("hold `{}` cannot be read", hold.id))
                    .cause(wrong.message)
                    .help(
                        "nothing is erased or pruned meanwhile; release the hold and add it again",
                    )
            })?;
            Ok(Held {
                told: [hold.told(&hold.reason), hold.told_once()],
                query,
                window: Window {
                    from_us: hold.from_us.unwrap_or(i64::MIN),
                    to_us: hold.to_us.unwrap_or(i64::MAX),
                },
                id: hold.id,
                reason: hold.reason,
            })
        };
        self.active(now_us).into_iter().map(read).collect()
    }

    /// Whether one could be added, and would keep what it says.
    ///
    /// # Errors
    /// `PLS7566` when there are too many, when it is over already, or when its query would
    /// not be read again.
    pub fn check(&self, hold: &Hold) -> Result<(), Diagnostic> {
        if self.active(hold.since_us).len() >= HOLDS_MAX {
            let told = format!("there are {HOLDS_MAX} holds already");
            return Err(
                Diagnostic::error(7566, told).help("release one first: palisade audit hold list")
            );
        }
        if hold.until_us.is_some_and(|until| until <= hold.since_us) {
            return Err(Diagnostic::error(7566, "the hold would be over already")
                .help("name a moment that is to come: --until 2027-12-31"));
        }
        if hold
            .from_us
            .zip(hold.to_us)
            .is_some_and(|(from, to)| from >= to)
        {
            return Err(Diagnostic::error(7566, "the hold is about no time")
                .help("`since:` must be before `until:`"));
        }
        match Query::parse(&hold.query) {
            Ok(_) => Ok(()),
            Err(wrong) => Err(
                Diagnostic::error(7566, "the query cannot be kept as a hold")
                    .cause(wrong.message)
                    .help("shorten it: it is kept in its canonical spelling, with pseudonyms"),
            ),
        }
    }

    /// Refuses when one that the log says is in force is not among `held`, or is another there:
    /// the file can be changed, or put back, by whoever can write it.
    ///
    /// # Errors
    /// `PLS7579`, naming it.
    pub(crate) fn compare(ordered: &[Ordered], held: &[Held]) -> Result<(), Diagnostic> {
        let Some(missing) = ordered
            .iter()
            .find(|ordered| !held.iter().any(|held| ordered.is(held)))
        else {
            return Ok(());
        };
        let id = &missing.id;
        Err(
            Diagnostic::error(7579, format!("hold `{id}` is not what was ordered"))
                .cause(format!(
                    "the log says: {}; the file of the holds has another, or none",
                    missing.told
                ))
                .help(format!("nothing is dropped meanwhile; put the file back, or add a hold that keeps the same and: palisade audit hold release {id}")),
        )
    }

    /// Adds one; forgets those that have ended. Durable when it returns.
    ///
    /// # Errors
    /// Those of [`Holds::check`]; `PLS7568` when the file cannot be written.
    pub fn add(&self, hold: Hold) -> Result<(), Diagnostic> {
        self.check(&hold)?;
        let now_us = hold.since_us;
        self.change(|all| {
            all.retain(|h| h.until_us.is_none_or(|until| now_us < until));
            all.push(hold);
            Ok(())
        })
    }

    /// Ends the hold `id`; `None` when there is none.
    ///
    /// # Errors
    /// `PLS7568` when the file cannot be written.
    pub fn release(&self, id: &str) -> Result<Option<Hold>, Diagnostic> {
        self.change(|all| {
            let at = all.iter().position(|hold| hold.id == id);
            Ok(at.map(|at| all.remove(at)))
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Hold>) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        let mut all = self.all();
        let mut changed = all.clone();
        let done = change(&mut changed)?;
        let unwritten = |cause: String| {
            Diagnostic::error(7568, "the holds cannot be written")
                .cause(cause)
                .help("look at free space and permissions of the audit service's folder")
        };
        let bytes = serde_json::to_vec_pretty(&changed).map_err(|e| unwritten(e.to_string()))?;
        files::replace(&self.path, &bytes, files::Sync::Yes)
            .map_err(|e| unwritten(e.to_string()))?;
        *all = changed;
        Ok(done)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Hold>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: &str, id: &str, detail: String) -> Admin {
        Admin {
            verb: verb.into(),
            object: id.into(),
            detail,
            ..Admin::default()
        }
    }

    /// Each way in which the file can say something else than the log.
    #[test]
    fn the_file_is_compared_with_what_was_ordered() {
        let dir = tempfile::tempdir().unwrap();
        let file = |hold: &Hold| {
            let path = dir.path().join("holds.json");
            fs::write(&path, serde_json::to_vec(&[hold]).unwrap()).unwrap();
            Holds::open(&path, false).unwrap().held(100).unwrap()
        };
        let code = |orders: &Orders, now_us: i64, held: &[Held]| {
            let told = Holds::compare(&orders.in_force(now_us), held);
            told.map_err(|told| told.code.0)
        };
        let endless = Hold {
            from_us: None,
            to_us: None,
            ..hold("a", None)
        };
        for hold in [hold("a", None), hold("a", Some(200_000_000)), endless] {
            let mut orders = Orders::default();
            orders.take(1, order(HOLD_ADDED, "a", hold.told(&hold.reason)));
            assert_eq!(code(&orders, 100, &file(&hold)), Ok(()), "{hold:?}");
            assert_eq!(code(&orders, 100, &[]), Err(7579));
            let is_another = |change: &dyn Fn(&mut Hold)| {
                let mut changed = hold.clone();
                change(&mut changed);
                assert_eq!(
                    code(&orders, 100, &file(&changed)),
                    Err(7579),
                    "{changed:?}"
                );
            };
            is_another(&|hold| hold.id = "b".into());
            is_another(&|hold| hold.query = "service:other".into());
            is_another(&|hold| hold.from_us = Some(11));
            is_another(&|hold| hold.to_us = Some(12));
            is_another(&|hold| hold.until_us = Some(150_000_000));
            let ends = hold.until_us.map_or(Err(7579), |_| Ok(()));
            assert_eq!(code(&orders, 199_999_999, &[]), Err(7579));
            assert_eq!(code(&orders, 200_000_000, &[]), ends);
        }
        // As it was recorded once.
        let hold = hold("a", None);
        let mut orders = Orders::default();
        orders.take(1, order(HOLD_ADDED, "a", hold.told_once()));
        assert_eq!(code(&orders, 100, &file(&hold)), Ok(()));
    }

    /// What came to nothing, and what nobody had signed, ends none.
    #[test]
    fn a_hold_is_in_force_until_the_log_says_that_it_was_released() {
        let in_force = |verbs: &[&str], unsigned: &[(u64, u64)]| {
            let mut orders = Orders::default();
            for (index, verb) in (1..).zip(verbs) {
                orders.take(index, order(verb, "a", "case 7 (path:/a)".into()));
            }
            for (index, from) in unsigned {
                orders.unsigned(*index, *from);
            }
            orders.in_force(0).len() == 1
        };
        let (added, released) = (HOLD_ADDED, HOLD_RELEASED);
        assert!(in_force(&[added], &[]));
        assert!(!in_force(&[added, released], &[]));
        assert!(!in_force(&[added, HOLD_ADD_FAILED], &[]));
        assert!(in_force(&[added, released, HOLD_RELEASE_FAILED], &[]));
        assert!(!in_force(&[released], &[]));
        assert!(in_force(&[added, released], &[(3, 2)]));
        assert!(!in_force(&[added, released], &[(4, 3)]));
        assert!(
            in_force(&[added], &[(2, 1)]),
            "it keeps too much, never too little"
        );
    }

    fn hold(id: &str, until_us: Option<i64>) -> Hold {
        Hold {
            id: id.into(),
            query: "class:* service:shop/*".into(),
            from_us: Some(10),
            to_us: Some(20),
            reason: "case 7".into(),
            by: "uid:1000".into(),
            since_us: 100,
            until_us,
        }
    }

    fn ids(holds: &Holds, now_us: i64) -> Vec<String> {
        holds.active(now_us).into_iter().map(|h| h.id).collect()
    }

    #[test]
    fn holds_outlive_the_process_and_end_when_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds.json");
        let holds = Holds::open(&path, true).unwrap();
        holds.add(hold("a", None)).unwrap();
        holds.add(hold("b", Some(200))).unwrap();
        let holds = Holds::open(&path, true).unwrap();
        assert_eq!(ids(&holds, 199), ["a", "b"]);
        assert_eq!(ids(&holds, 200), ["a"]);
        assert_eq!(holds.release("x").unwrap(), None);
        assert_eq!(holds.release("a").unwrap(), Some(hold("a", None)));
        assert_eq!(ids(&Holds::open(&path, false).unwrap(), 199), ["b"]);
    }

    #[test]
    fn a_hold_is_about_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds::open(&dir.path().join("holds.json"), true).unwrap();
        holds.add(hold("a", None)).unwrap();
        holds
            .add(Hold {
                to_us: None,
                ..hold("open", None)
            })
            .unwrap();
        let mut held = holds.held(100).unwrap();
        let (held, open) = (held.remove(0), held.remove(0));
        let window = |from_us, to_us| Some(Window { from_us, to_us });
        let all = Window {
            from_us: 0,
            to_us: i64::MAX,
        };
        assert_eq!(open.within(all), window(10, i64::MAX), "it stays open");
        let within = |from_us, to_us| held.within(Window { from_us, to_us });
        assert_eq!(within(0, 11), window(10, 11));
        assert_eq!(within(15, 40), window(15, 20));
        assert_eq!(within(0, 10), None);
        assert_eq!(within(20, 30), None);
    }

    /// On both sides of the limit; what has ended does not count.
    #[test]
    fn there_are_so_many_holds_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds::open(&dir.path().join("holds.json"), true).unwrap();
        let ends = Hold {
            since_us: 10,
            ..hold("ends", Some(50))
        };
        holds.add(ends).unwrap();
        for n in 0..HOLDS_MAX {
            holds.add(hold(&n.to_string(), None)).unwrap();
        }
        assert_eq!(holds.add(hold("more", None)).unwrap_err().code.0, 7566);
        holds.release("0").unwrap();
        holds.add(hold("more", None)).unwrap();
    }

    /// What is recorded as a hold is one: on both sides of the time at which it ends.
    #[test]
    fn what_would_hold_nothing_is_no_hold() {
        let dir = tempfile::tempdir().unwrap();
        let holds = Holds::open(&dir.path().join("holds.json"), true).unwrap();
        let code = |hold: Hold| holds.check(&hold).map_err(|told| told.code.0);
        assert_eq!(code(hold("a", Some(101))), Ok(()));
        assert_eq!(code(hold("a", Some(100))), Err(7566));
        let wrong = |change: &dyn Fn(&mut Hold)| {
            let mut hold = hold("a", None);
            change(&mut hold);
            code(hold)
        };
        assert_eq!(wrong(&|hold| hold.to_us = Some(10)), Err(7566));
        assert_eq!(wrong(&|hold| hold.to_us = Some(11)), Ok(()));
        assert_eq!(wrong(&|hold| hold.query = "x".repeat(5000)), Err(7566));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds.json");
        for bytes in [&b"["[..], b"{}", b""] {
            fs::write(&path, bytes).unwrap();
            assert!(Holds::open(&path, true).is_err());
        }
        fs::remove_file(&path).unwrap();
        assert!(Holds::open(&path, false).is_err(), "it was there once");
        let wrong = Hold {
            query: "servce:x".into(),
            ..hold("a", None)
        };
        fs::write(&path, serde_json::to_vec(&[wrong]).unwrap()).unwrap();
        let holds = Holds::open(&path, false).unwrap();
        assert_eq!(holds.held(0).unwrap_err().code.0, 7567);
    }
}
