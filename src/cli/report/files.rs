//! A report as files: each gets its name when it is whole.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use palisade_audit::report::{self, Report};
use palisade_mesh::diagnostic::Diagnostic;
use ulid::Ulid;

use crate::render::snippet::clean;

/// Section whose listing is a patch.
const PATCH: &str = "proposed-change";

/// A form that a report takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Csv,
    Html,
    Json,
    Oscal,
    Package,
    Patch,
    Pdf,
    Xlsx,
}

/// The format that a name ends in.
///
/// # Errors
/// `PLS7805` when it ends in none.
pub(crate) fn format_of(to: &Path) -> Result<Format, Diagnostic> {
    let ending = to.extension().and_then(|ending| ending.to_str());
    let name = to.file_name().and_then(|name| name.to_str());
    let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
    if name.ends_with(".tar.zst") {
        return Ok(Format::Package);
    }
    if name.ends_with(".oscal.json") {
        return Ok(Format::Oscal);
    }
    ending
        .and_then(|ending| Format::from_str(ending, true).ok())
        .filter(|format| !matches!(format, Format::Oscal | Format::Package))
        .ok_or_else(|| {
            let name = clean(&to.display().to_string());
            Diagnostic::error(7805, format!("`{name}` does not say which format")).help(
                "end it in .html, .pdf, .xlsx, .csv, .json, .oscal.json or .tar.zst; of `unused` also in .patch",
            )
        })
}

/// Refuses a name that is taken.
///
/// # Errors
/// `PLS7703`.
pub(crate) fn free(to: &Path) -> Result<(), Diagnostic> {
    // A link counts, wherever it leads.
    match to.symlink_metadata().is_ok() {
        false => Ok(()),
        true => Err(
            Diagnostic::error(7703, format!("there is a file `{}` already", to.display()))
                .help("choose another name, or replace it: --overwrite"),
        ),
    }
}

/// Where a file will be, by whatever way its folder is named.
fn place(path: &Path) -> PathBuf {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn taken(twice: &Path) -> Diagnostic {
    let twice = twice.display();
    Diagnostic::error(7703, format!("two files would be called `{twice}`"))
        .cause("the second would take the place of the first")
        .help("give each --to a name of its own")
}

/// Writes a report to the files of a format.
///
/// # Errors
/// `PLS7806` when it cannot be written.
pub(crate) fn written(
    report: &Report,
    to: &Path,
    format: Format,
    overwrite: bool,
) -> Result<Vec<PathBuf>, Diagnostic> {
    put_all(contents(report, to, format)?, overwrite)
}

/// Writes files, if all of their names are free or may be taken.
///
/// # Errors
/// `PLS7703` for a name that is taken, or that two of them have, `PLS7806` when one cannot be written.
pub(crate) fn put_all(
    files: Vec<(PathBuf, Vec<u8>)>,
    overwrite: bool,
) -> Result<Vec<PathBuf>, Diagnostic> {
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = files.iter().find(|(path, _)| !names.insert(place(path))) {
        return Err(taken(twice));
    }
    if !overwrite {
        files.iter().try_for_each(|(path, _)| free(path))?;
    }
    files
        .iter()
        .try_for_each(|(path, bytes)| put(path, bytes))?;
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Writes a file as a whole, under a new name of its own until then: nothing that is there
/// is written through.
///
/// # Errors
/// `PLS7806` when it cannot be written.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", Ulid::generate()));
    // It has what the log has: who else may read it, its owner says.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .map_err(|e| failed(path, &e))?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&part, path))
        .and_then(|()| settled(path));
    done.map_err(|e| {
        let _ = fs::remove_file(&part);
        failed(path, &e)
    })
}

/// Has the name of a file on disk, as its content is.
fn settled(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The files of a report in a format: names, as `to` has them, and contents.
///
/// # Errors
/// `PLS7805` for a format that it does not have, `PLS7806` when it cannot be made.
pub(crate) fn contents(
    report: &Report,
    to: &Path,
    format: Format,
) -> Result<Vec<(PathBuf, Vec<u8>)>, Diagnostic> {
    let bytes = match format {
        Format::Html => report::to_html(report)
            .map_err(|e| failed(to, &e))?
            .into_bytes(),
        Format::Json => {
            let mut text = serde_json::to_vec_pretty(report).map_err(|e| failed(to, &e))?;
            text.push(b'\n');
            text
        }
        Format::Oscal => report::to_oscal(report).map_err(|e| failed(to, &e))?,
        Format::Pdf => report::to_pdf(report).map_err(|e| failed(to, &e))?,
        Format::Xlsx => report::to_xlsx(report).map_err(|e| failed(to, &e))?,
        Format::Package => return Err(no_package(to)),
        Format::Patch => patch(report)?.into_bytes(),
        Format::Csv => {
            let stem = to.file_stem().and_then(|s| s.to_str()).unwrap_or("report");
            let tables = report::to_csv(report).map_err(|e| failed(to, &e))?;
            let named = tables
                .into_iter()
                .map(|(name, bytes)| (to.with_file_name(format!("{stem}-{name}")), bytes));
            return Ok(named.collect());
        }
    };
    Ok(vec![(to.to_owned(), bytes)])
}

/// The patch that a report proposes.
fn patch(report: &Report) -> Result<String, Diagnostic> {
    let mut sections = report.sections.iter();
    let section = sections.find(|section| section.id == PATCH);
    let patch = section.and_then(|section| section.listing.clone());
    patch.ok_or_else(|| {
        Diagnostic::error(
            7805,
            format!("the report `{}` proposes no patch", report.name),
        )
        .help("palisade report run unused --to unused.patch")
    })
}

fn no_package(to: &Path) -> Diagnostic {
    let name = clean(&to.display().to_string());
    Diagnostic::error(7805, format!("`{name}` cannot be a package of evidence"))
        .cause("a review rests on policies, and has no records of its own")
        .help("sign it: palisade report review sign FILE --by NAME; and write it as .html, .pdf or .json")
}

fn failed(to: &Path, why: &dyn std::fmt::Display) -> Diagnostic {
    Diagnostic::error(7806, format!("`{}` cannot be written", to.display()))
        .cause(why.to_string())
        .help("check the folder, its rights and the room on the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_says_the_format_in_whatever_case() {
        for (name, format) in [
            ("a.json", Format::Json),
            ("a.JSON", Format::Json),
            ("a.oscal.json", Format::Oscal),
            ("a.OSCAL.Json", Format::Oscal),
            ("a.tar.zst", Format::Package),
            ("a.TAR.ZST", Format::Package),
            ("a.PDF", Format::Pdf),
        ] {
            assert_eq!(format_of(Path::new(name)).unwrap(), format, "{name}");
        }
        for name in ["a", "a.oscal", "a.package", "a.zst"] {
            assert!(format_of(Path::new(name)).is_err(), "{name}");
        }
    }

    /// Nothing is written where a second file would take the place of the first.
    #[test]
    fn no_file_takes_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a.json");
        let same = dir.path().join(".").join("a.json");
        let files = vec![(to.clone(), b"1".to_vec()), (same, b"2".to_vec())];
        for overwrite in [false, true] {
            let told = put_all(files.clone(), overwrite).unwrap_err();
            assert_eq!((told.code.0, to.exists()), (7703, false));
        }
        put_all(files[..1].to_vec(), false).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"1");
    }
}
