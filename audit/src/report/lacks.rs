//! What a report lacks, in words, and what it lacked when it was made held against what it
//! lacks when it is made again.
//!
//! Some of it makes numbers other ones: records that were dropped since, or that the index had
//! not read then. A report of fewer records says nothing of one of more, so nothing is compared.
//! Some changes no number: records that had not arrived have their place behind the checkpoint
//! when they do, and those of which it was noticed behind it that they are missing are no matter
//! of the report; nor is what an archive does not give at this moment, of which only the state of
//! the whole log is told. And what the log lacks now and did not lack then has to be told.

use palisade_mesh::diagnostic::Diagnostic;

use crate::{
    index::{Coverage, DroppedRecords, Gap, LostRecords, StoreError},
    watch::Silent,
};

const WAITS: &str = "the index waits: ";
const REMADE: (&str, &str) = ("the index of ", " is being made again");
const DROPPED: (&str, &str) = (
    "records of the class ",
    " were dropped, because their time was over",
);
const GAP: (&str, &str) = ("records ", " have not arrived");
const SILENT: (&str, &str) = ("nothing was heard of ", " since ");
const MORE_SILENT: &str = " more reporters are silent";
const MORE_GAPS: &str = " gaps more";
const LOST: &str = " records were lost by ";
const MORE_LOST: &str = " declared losses more";
/// What earlier versions said of losses, of whichever time and however many.
const LOST_EARLIER: &str = " times of records that found no room";
/// What is in an archive that cannot be asked: at another moment it can.
pub(super) const AWAY: &str = " records could not be read in the archive, see log integrity";
const UNREADABLE: &str = "records cannot be read";
const NOT_INDEXED: &str = "records are not indexed yet";

/// What an answer lacks, under a checkpoint of `size` records of which `unindexed` were not looked
/// at. Losses that were declared behind it are no matter of the report; those that are only counted
/// may be such.
pub(super) fn of(coverage: &Coverage, size: u64, unindexed: u64) -> Vec<String> {
    let mut lacks = Vec::new();
    // What it waits for may be what was dropped, which is counted until then.
    if let Some(why) = &coverage.stalled {
        lacks.push(format!("{WAITS}{why}"));
    }
    if coverage.complete {
        return lacks;
    }
    if coverage.unreadable > 0 {
        lacks.push(format!("{} {UNREADABLE}", coverage.unreadable));
    }
    let buckets = coverage.skipped_buckets.iter();
    lacks.extend(buckets.map(|bucket| format!("{}{bucket}{}", REMADE.0, REMADE.1)));
    lacks.extend(coverage.gaps.iter().map(gap));
    if coverage.gaps_more > 0 {
        lacks.push(format!("{}{MORE_GAPS}", coverage.gaps_more));
    }
    lacks.extend(coverage.silent.iter().map(silent));
    if coverage.silent_more > 0 {
        lacks.push(format!("{}{MORE_SILENT}", coverage.silent_more));
    }
    let declared = coverage.lost.iter().filter(|lost| lost.entry < size);
    lacks.extend(declared.map(lost));
    if coverage.lost_more > 0 {
        lacks.push(format!("{}{MORE_LOST}", coverage.lost_more));
    }
    lacks.extend(coverage.dropped.iter().map(dropped));
    if unindexed > 0 {
        lacks.push(format!("{unindexed} {NOT_INDEXED}"));
    }
    lacks
}

fn gap(gap: &Gap) -> String {
    let Gap {
        first,
        last,
        reporter,
        ..
    } = gap;
    format!("{}{first} to {last} of {reporter}{}", GAP.0, GAP.1)
}

fn silent(silent: &Silent) -> String {
    let since = jiff::Timestamp::from_microsecond(silent.heard_us).unwrap_or_default();
    let Silent { reporter, boot, .. } = silent;
    format!("{}{reporter} (boot {boot}){}{since:.0}", SILENT.0, SILENT.1)
}

fn lost(lost: &LostRecords) -> String {
    let LostRecords {
        reporter,
        records,
        from,
        until,
        ..
    } = lost;
    format!("{records}{LOST}{reporter} from {from} until {until}")
}

fn dropped(dropped: &DroppedRecords) -> String {
    let DroppedRecords {
        class,
        records,
        until,
    } = dropped;
    format!(
        "{}{class} until {until}{}: {records} at most",
        DROPPED.0, DROPPED.1
    )
}

/// What a report lacked against what it lacks now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// What it lacked and the log has now.
    pub(super) over: Vec<String>,
    /// What the log lacks now and the report does not say.
    pub(super) new: Vec<String>,
    /// What the log lacks now, and is no matter of the records that the report is of.
    pub(super) aside: Vec<String>,
}

/// Holds what a report lacks, as the program `made_by` said, against what it lacks when it is made
/// again. `noticed` says of each of some gaps whether the log has noticed under the checkpoint of the report that its records
/// are missing.
pub(super) fn compared(
    said: &[String],
    made_by: &str,
    found: &[String],
    noticed: impl Fn(&[Missing<'_>]) -> Result<Vec<bool>, StoreError>,
) -> Result<Compared, StoreError> {
    let mut compared = Compared::default();
    let over = said.iter().filter(|lack| !found.contains(lack));
    compared.over.extend(over.cloned());
    // Gaps that it counted and did not name: each of them may have a name now.
    let mut unnamed = said.iter().filter_map(|lack| more_gaps(lack)).max();
    let mut losses = Losses::of(said, made_by, found);
    let mut unsaid = Vec::new();
    for lack in found {
        let is_of = |then: &String| is_within(lack, then);
        if !losses.tell(lack).unwrap_or_else(|| said.iter().any(is_of)) {
            unsaid.push((lack, Missing::of(lack)));
        }
    }
    let gaps: Vec<Missing<'_>> = unsaid.iter().filter_map(|(_, gap)| *gap).collect();
    // All at once: for each the log would be asked from its beginning.
    let mut noticed = match gaps.is_empty() {
        true => Vec::new().into_iter(),
        false => noticed(&gaps)?.into_iter(),
    };
    for (lack, gap) in unsaid {
        let is_aside = match gap.map(|_| noticed.next() == Some(true)) {
            None => more_gaps(lack).is_some() || lack.ends_with(MORE_LOST) || is_of_moment(lack),
            Some(true) => {
                let left = unnamed.and_then(|n: u64| n.checked_sub(1));
                if left.is_some() {
                    unnamed = left;
                    continue;
                }
                false
            }
            Some(false) => true,
        };
        match is_aside {
            true => compared.aside.push(lack.clone()),
            false => compared.new.push(lack.clone()),
        }
    }
    Ok(compared)
}

/// How many gaps a lack counts and does not name. Whoever says so has named many.
fn more_gaps(lack: &str) -> Option<u64> {
    lack.strip_suffix(MORE_GAPS)?.parse().ok()
}

/// Refuses to compare where the report was made from other records than the log has now.
///
/// # Errors
/// `PLS7817`.
pub(super) fn of_these_records(said: &[String], found: &[String]) -> Result<(), Diagnostic> {
    let gone = found
        .iter()
        .find(|lack| is_dropped(lack) && !said.iter().any(|then| is_within(lack, then)));
    if let Some(gone) = gone {
        return Err(unlike(&format!("since it was made: {gone}")));
    }
    // Where more is damaged by now than was then, that is damage, and not another report.
    let most = |lacks: &[String]| lacks.iter().filter_map(|lack| unreadable(lack)).max();
    let here = said.iter().find(|lack| match unreadable(lack) {
        Some(_) => most(found) < most(said),
        None => is_of_index(lack) && !found.contains(lack),
    });
    if let Some(here) = here {
        return Err(unlike(&format!("when it was made, and no more: {here}")));
    }
    let away = found
        .iter()
        .find(|lack| is_of_index(lack) && !said.contains(lack));
    if let Some(away) = away {
        return Err(unlike(&format!("at this moment: {away}")));
    }
    Ok(())
}

/// Whether it is only of the moment: what an archive does not give, and who is not heard.
fn is_of_moment(lack: &str) -> bool {
    lack.ends_with(AWAY) || lack.starts_with(SILENT.0) || lack.ends_with(MORE_SILENT)
}

/// How many records a lack says that cannot be read.
fn unreadable(lack: &str) -> Option<u64> {
    lack.strip_suffix(UNREADABLE)?.trim_end().parse().ok()
}

fn is_dropped(lack: &str) -> bool {
    lack.starts_with(DROPPED.0) && lack.contains(DROPPED.1)
}

/// Whether it is of an index that had not read everything.
fn is_of_index(lack: &str) -> bool {
    let remade = lack.starts_with(REMADE.0) && lack.ends_with(REMADE.1);
    lack.starts_with(WAITS) || lack.ends_with(NOT_INDEXED) || remade
}

/// Whether what is lacking now is a part of what was lacking then.
fn is_within(now: &str, then: &str) -> bool {
    // How many were dropped, a review of an earlier version does not say.
    if now == then || is_dropped(then) && then.ends_with(DROPPED.1) && now.starts_with(then) {
        return true;
    }
    if let (Some(now), Some(then)) = (Missing::of(now), Missing::of(then)) {
        return now.reporter == then.reporter && then.first <= now.first && now.last <= then.last;
    }
    // So many of something, of which there were more.
    let count = |lack: &str| -> Option<(u64, String)> {
        let (count, what) = lack.split_once(' ')?;
        Some((count.parse().ok()?, what.to_owned()))
    };
    matches!((count(now), count(then)), (Some(now), Some(then)) if now.1 == then.1 && now.0 <= then.0)
}

/// Records that have not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing<'l> {
    /// Number of the first.
    pub(super) first: u64,
    /// Number of the last.
    pub(super) last: u64,
    /// Who has numbered them.
    pub(super) reporter: &'l str,
}

impl<'l> Missing<'l> {
    /// Those that a lack is about; nothing of another lack.
    fn of(lack: &'l str) -> Option<Self> {
        let gap = lack.strip_prefix(GAP.0)?.strip_suffix(GAP.1)?;
        let (numbers, reporter) = gap.split_once(" of ")?;
        let (first, last) = numbers.split_once(" to ")?;
        Some(Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            reporter,
        })
    }
}

/// The declared losses that a report tells.
struct Losses<'l> {
    told: Vec<Told<'l>>,
    /// Whether it only says that there are some, as earlier versions did.
    only_that: bool,
}

/// One of them.
struct Told<'l> {
    lack: &'l str,
    lost: Lost<'l>,
    /// How many of its records are not found yet.
    left: u64,
}

impl<'l> Losses<'l> {
    /// Those that are `said` in a report of the program `made_by`. What is `found` just so has all
    /// that they say.
    fn of(said: &'l [String], made_by: &str, found: &[String]) -> Self {
        let told = said.iter().filter_map(|lack| {
            let lost = Lost::of(lack)?;
            let left = match found.contains(lack) {
                true => 0,
                false => lost.records,
            };
            Some(Told { lack, lost, left })
        });
        Self {
            told: told.collect(),
            only_that: is_earlier(made_by) && said.iter().any(|lack| lack.ends_with(LOST_EARLIER)),
        }
    }

    /// Whether they tell of a loss that is found; nothing of another lack.
    fn tell(&mut self, found: &str) -> Option<bool> {
        let now = Lost::of(found)?;
        let is_said = self.only_that || self.told.iter().any(|then| then.lack == found);
        Some(is_said || self.told.iter_mut().any(|then| then.has(&now)))
    }
}

impl Told<'_> {
    /// Whether both are of one loss: where there are many, those that lie close together are told
    /// as one, which has the records of all of them. Of those that it has, all are found in it.
    fn has(&mut self, now: &Lost<'_>) -> bool {
        let then = &self.lost;
        let is_same = (then.from, then.until) == (now.from, now.until);
        if then.reporter != now.reporter || is_same {
            return false;
        }
        if then.is_around(now) {
            let left = self.left.checked_sub(now.records);
            self.left = left.unwrap_or(self.left);
            return left.is_some();
        }
        now.is_around(then) && then.records < now.records
    }
}

/// Whether a program is of a version before this one; what is none is not.
fn is_earlier(program: &str) -> bool {
    let version = |program: &str| -> Option<Vec<u64>> {
        let (_, version) = program.rsplit_once(' ')?;
        let (numbers, _) = version.split_once(['-', '+']).unwrap_or((version, ""));
        numbers.split('.').map(|part| part.parse().ok()).collect()
    };
    let versions = version(program).zip(version(&super::evidence::program()));
    versions.is_some_and(|(then, now)| then < now)
}

/// Records that were declared as lost.
struct Lost<'l> {
    reporter: &'l str,
    records: u64,
    from: jiff::Timestamp,
    until: jiff::Timestamp,
}

impl<'l> Lost<'l> {
    /// Those that a lack is about; nothing of another lack.
    fn of(lack: &'l str) -> Option<Self> {
        let (records, of) = lack.split_once(LOST)?;
        let (reporter, times) = of.split_once(" from ")?;
        let (from, until) = times.split_once(" until ")?;
        Some(Self {
            reporter,
            records: records.parse().ok()?,
            from: from.parse().ok()?,
            until: until.parse().ok()?,
        })
    }

    fn is_around(&self, other: &Self) -> bool {
        self.from <= other.from && other.until <= self.until
    }
}

/// Whether this is what is said where nothing was compared, because the records are others.
pub fn is_unlike(told: &Diagnostic) -> bool {
    told.code.0 == 7817
}

fn unlike(why: &str) -> Diagnostic {
    Diagnostic::error(7817, "the report rests on other records than there are")
        .cause(format!("{why}; nothing of it was compared"))
        .help("verify the package of evidence that was made with it, which has its records; or make the report again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::evidence::program;

    const NONE: [&str; 0] = [];

    fn held(said: &[&str], found: &[&str]) -> Result<(Vec<String>, Vec<String>), u16> {
        held_of(&program(), said, found)
    }

    fn held_of(
        made_by: &str,
        said: &[&str],
        found: &[&str],
    ) -> Result<(Vec<String>, Vec<String>), u16> {
        let owned = |lacks: &[&str]| -> Vec<String> {
            lacks.iter().map(|lack| (*lack).to_owned()).collect()
        };
        let (said, found) = (owned(said), owned(found));
        of_these_records(&said, &found).map_err(|told| told.code.0)?;
        let all_noticed = |gaps: &[Missing<'_>]| Ok(vec![true; gaps.len()]);
        let compared = compared(&said, made_by, &found, all_noticed).unwrap();
        let Compared { over, new, aside } = compared;
        assert_eq!(aside, NONE);
        Ok((over, new))
    }

    fn missing(first: u64, last: u64) -> String {
        gap(&Gap {
            reporter: "spiffe://acme.test/ns/shop/sa/web".into(),
            first,
            last,
            noticed_us: 0,
        })
    }

    /// Each part of an index that is being made again is named by its time, and is of the index.
    #[test]
    fn a_part_of_the_index_that_is_made_again_is_lacking() {
        let skipping = |skipped: &[&str]| Coverage {
            from: "2026-11-20T00:00:00.000000Z".into(),
            to: "2026-11-21T00:00:00.000000Z".into(),
            default_time: false,
            complete: skipped.is_empty(),
            behind: 0,
            unreadable: 0,
            skipped_buckets: skipped.iter().map(|start| (*start).to_owned()).collect(),
            gaps: Vec::new(),
            gaps_more: 0,
            dropped: Vec::new(),
            silent: Vec::new(),
            silent_more: 0,
            lost: Vec::new(),
            lost_more: 0,
            gaps_withheld: 0,
            restricted_to: None,
            stalled: None,
        };
        let buckets = ["2026-11-20T10:00:00.000000Z", "2026-11-20T12:00:00.000000Z"];
        let lacks = of(&skipping(&buckets), 9, 0);
        let told = buckets.map(|bucket| format!("the index of {bucket} is being made again"));
        assert_eq!(lacks, told);
        assert!(lacks.iter().all(|lack| is_of_index(lack)));
        assert_eq!(of(&skipping(&[]), 9, 0), NONE);
    }

    /// A gap that closed, in whole or in part, is nothing new; one that grew is.
    #[test]
    fn only_what_was_not_lacking_then_is_new() {
        let (whole, end, more) = (missing(10, 20), missing(16, 20), missing(9, 20));
        let (over, new) = held(&[&whole], &[&end]).unwrap();
        assert_eq!((over, new), (vec![whole.clone()], vec![]));
        let both = [missing(10, 11), missing(19, 20)];
        let (_, new) = held(&[&whole], &[&both[0], &both[1]]).unwrap();
        assert_eq!(new, NONE);
        let (_, new) = held(&[&whole], &[&more]).unwrap();
        assert_eq!(new, [more]);
        let (over, new) = held(&[&whole, "a file"], &[&whole]).unwrap();
        assert_eq!((over, new), (vec!["a file".to_owned()], vec![]));
        for fewer in [" gaps more", AWAY] {
            let counted = [3, 2].map(|n| format!("{n}{fewer}"));
            assert_eq!(held(&[&counted[0]], &[&counted[1]]).unwrap().1, NONE);
        }
    }

    fn from_to(reporter: &str, records: u64, from: u32, until: u32) -> String {
        lost(&LostRecords {
            reporter: format!("spiffe://acme.test/{reporter}"),
            records,
            from: format!("2026-11-20T12:{from:02}:00.000000Z"),
            until: format!("2026-11-20T12:{until:02}:00.000000Z"),
            entry: 5,
        })
    }

    /// A loss that the report does not tell is new; one that has become part of a longer one is
    /// not.
    #[test]
    fn a_declared_loss_has_to_be_said() {
        let (short, long) = (from_to("web", 3, 10, 20), from_to("web", 9, 10, 40));
        let new = |said: &[&str], now: &str| held(said, &[now]).unwrap().1.len();
        assert_eq!(new(&[&short], &short), 0);
        assert_eq!(new(&[&short], &long), 0);
        assert_eq!(new(&[&long], &short), 0);
        assert_eq!(new(&[], &short), 1);
        assert_eq!(new(&[&from_to("api", 3, 10, 20)], &short), 1);
        assert_eq!(new(&[&from_to("web", 3, 21, 30)], &short), 1);
    }

    /// Of another number, of a shorter time, or one in place of all of them.
    #[test]
    fn a_declared_loss_that_is_told_otherwise_is_found() {
        let new = |said: &[&str], found: &[&str]| held(said, found).unwrap().1.len();
        let loss = from_to("web", 9, 10, 40);
        for said in [
            from_to("web", 1, 10, 40),
            from_to("web", 10, 10, 40),
            from_to("web", 9, 10, 20),
            from_to("web", 12, 10, 20),
            from_to("web", 8, 0, 50),
            loss.replacen('9', "no", 1),
        ] {
            assert_eq!(new(&[&said], &[&loss]), 1, "{said}");
        }
        let all = [0, 10, 20].map(|from| from_to("web", 3, from, from + 5));
        let all = all.each_ref().map(String::as_str);
        for (records, missing) in [(9, 0), (8, 1), (3, 2), (2, 3)] {
            let one = from_to("web", records, 0, 30);
            assert_eq!(new(&[&one], &all), missing, "{one}");
        }
        // What is told just so has no room for another beside it.
        let beside = from_to("web", 3, 20, 30);
        assert_eq!(new(&[&loss], &[&beside, &loss]), 1);
        assert_eq!(new(&[&loss, &beside], &[&beside, &loss]), 0);
    }

    /// An earlier version only said that there are some; this one does not.
    #[test]
    fn a_report_of_this_version_says_of_which_time_a_loss_is() {
        let loss = from_to("web", 9, 10, 40);
        let earlier = "reporters told 1 times of records that found no room";
        let new = |made_by: &str| {
            let held = held_of(made_by, &[earlier], &[&loss]);
            held.unwrap().1.len()
        };
        assert_eq!(new("palisade 0.0.9"), 0);
        for made_by in [
            program().as_str(),
            "palisade 99999.0.0",
            "palisade",
            "palisade x",
            "",
        ] {
            assert_eq!(new(made_by), 1, "{made_by}");
        }
    }

    /// Of what was noticed later, and of gaps that are only counted, the report need not speak;
    /// one that was counted then has a name when others have closed.
    #[test]
    fn what_was_noticed_later_is_no_matter_of_the_report() {
        let (early, late) = (missing(1, 2), missing(5, 6));
        let found = |said: &[&str], found: &[&str]| {
            let owned = |lacks: &[&str]| -> Vec<String> {
                lacks.iter().map(|lack| (*lack).to_owned()).collect()
            };
            let noticed = |gaps: &[Missing<'_>]| Ok(gaps.iter().map(|gap| gap.last <= 2).collect());
            let (said, found) = (owned(said), owned(found));
            let found = compared(&said, &program(), &found, noticed).unwrap();
            (found.new, found.aside)
        };
        let (new, aside) = found(&[], &[&early, &late, "3 gaps more"]);
        assert_eq!((new, aside.len()), (vec![early.clone()], 2));
        let quiet = silent(&Silent {
            reporter: "spiffe://acme.test/ns/shop/sa/web".into(),
            boot: "1".into(),
            heard_us: 0,
        });
        let counted = format!("4{MORE_LOST}");
        for of_moment in [
            format!("3{AWAY}"),
            quiet,
            format!("2{MORE_SILENT}"),
            counted,
        ] {
            assert_eq!(found(&[], &[&of_moment]), (vec![], vec![of_moment.clone()]));
        }
        let other = missing(2, 2);
        for (counted, new) in [("1 gaps more", 1), ("2 gaps more", 0)] {
            let (said, now) = ([counted], [early.as_str(), other.as_str()]);
            let (said, now) = (&said[..], &now[..]);
            assert_eq!(found(said, now).0.len(), new, "{counted}");
        }
    }

    #[test]
    fn a_report_of_other_records_is_not_compared() {
        let gone = |records, until: &str| {
            dropped(&DroppedRecords {
                class: "decision",
                records,
                until: until.into(),
            })
        };
        let (some, more) = (gone(3, "2026-01-01"), gone(7, "2026-01-01"));
        assert!(is_dropped(&some) && is_dropped(&more));
        assert!(held(&[&some], &[&some]).is_ok());
        assert!(held(&[&some], &[]).is_ok());
        assert_eq!(held(&[], &[&some]), Err(7817));
        assert_eq!(held(&[&some], &[&more]), Err(7817));
        let (earlier, _) = some.split_once(": ").unwrap();
        assert_eq!(held(&[earlier], &[&some]).unwrap().1, NONE);
        for partly in [
            "the index waits: for an archive",
            "the index of 2026-01-01 is being made again",
            "3 records are not indexed yet",
        ] {
            assert_eq!(held(&[partly], &[]), Err(7817), "{partly}");
            assert_eq!(held(&[], &[partly]), Err(7817), "{partly}");
            assert!(held(&[partly], &[partly]).is_ok(), "{partly}");
        }
        let damage = [2, 3, 5].map(|n| format!("{n} {UNREADABLE}"));
        let damage = damage.each_ref().map(String::as_str);
        assert_eq!(held(&damage[1..2], &[]), Err(7817));
        assert_eq!(held(&damage[1..2], &damage[..1]), Err(7817));
        assert_eq!(held(&damage[1..2], &damage[1..2]).unwrap().1, NONE);
        assert_eq!(held(&damage[1..2], &damage[2..]).unwrap().1, damage[2..]);
        // What the log has lost since is no other report: the log does not say it any more.
        let (_, new) = held(&[], &["3 records cannot be read"]).unwrap();
        assert_eq!(new.len(), 1);
    }
}
