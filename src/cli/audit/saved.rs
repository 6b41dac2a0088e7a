//! `palisade audit saved`: queries under a name, asked as `palisade audit search @NAME`.
//!
//! One file of this user's: a line `NAME QUERY` for each, everything else in it stays as it
//! is. What it says is a query like any other, with the rights of whoever asks it.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use palisade_audit::query::Query;
use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use serde_json::json;

use crate::{
    cli::{Context, Exit},
    render::{
        self, Output,
        snippet::clean,
        table::{self, col},
    },
    run::audit,
};

/// Longest file, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What to do with saved queries.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Save a query under a name: audit saved add denied 'decision:deny last:1h'.
    Add {
        /// The name; letters, digits and `-_.`.
        name: String,
        /// The query; several words are one query.
        #[arg(required = true)]
        query: Vec<String>,
        /// Replace the one that has the name already.
        #[arg(long)]
        overwrite: bool,
    },
    /// List the saved queries.
    List,
    /// Forget a saved query.
    Remove {
        /// Its name.
        name: String,
    },
}

pub(super) fn main(command: Command, context: &Context) -> Exit {
    let done = Saved::read().and_then(|saved| match command {
        Command::Add {
            name,
            query,
            overwrite,
        } => saved.add(&name, &query.join(" "), overwrite),
        Command::List => {
            list(&saved, context);
            Ok(())
        }
        Command::Remove { name } => saved.remove(&name),
    });
    match done {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// The query that `words` make. Where the first is `@NAME`, the saved one; further words
/// narrow it.
///
/// # Errors
/// `PLS7920` when there is none of that name, `PLS7921` when the file cannot be read,
/// `PLS7923` when it ends in a summary and further words follow.
pub(super) fn query(words: &[String]) -> Result<String, Diagnostic> {
    let whole = words.join(" ");
    let Some(named) = whole.trim_start().strip_prefix('@') else {
        return Ok(whole);
    };
    let (name, rest) = named.split_once(char::is_whitespace).unwrap_or((named, ""));
    let saved = Saved::read()?;
    audit::narrowed(name, saved.find(name)?, rest)
}

fn list(saved: &Saved, context: &Context) {
    let all: Vec<(&str, &str)> = saved.all().collect();
    match context.output {
        Output::Json => {
            let queries = all
                .iter()
                .map(|(name, query)| json!({ "name": name, "query": query }));
            let file = saved.path.display().to_string();
            render::json(&json!({ "file": file, "saved": queries.collect::<Vec<_>>() }));
        }
        Output::Human if all.is_empty() => {
            render::line("no query is saved: palisade audit saved add NAME QUERY");
        }
        Output::Human => {
            let mut out = table::Table::new(&[col("NAME"), col("QUERY")]);
            for (name, query) in all {
                out.row([clean(name).into(), clean(query).into()]);
            }
            out.print();
        }
    }
}

/// The file.
struct Saved {
    path: PathBuf,
    text: String,
}

impl Saved {
    fn read() -> Result<Self, Diagnostic> {
        Self::read_at(path()?)
    }

    fn read_at(path: PathBuf) -> Result<Self, Diagnostic> {
        let read = fs::metadata(&path).and_then(|meta| match meta.len() {
            len if len > FILE_LEN_MAX => Err(std::io::Error::other("it is larger than 1 MiB")),
            _ => fs::read_to_string(&path),
        });
        match read {
            Ok(text) => Ok(Self { path, text }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self {
                path,
                text: String::new(),
            }),
            Err(error) => Err(unusable(&path, &error)),
        }
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text.lines().filter_map(entry)
    }

    fn find(&self, name: &str) -> Result<&str, Diagnostic> {
        let found = self.all().find(|(other, _)| *other == name);
        found.map(|(_, query)| query).ok_or_else(|| {
            let none = Diagnostic::error(7920, format!("no query is saved as `{name}`"));
            match did_you_mean(name, self.all().map(|(name, _)| name)) {
                Some(near) => none.help(format!("did you mean `@{near}`?")),
                None => none.help("see which there are: palisade audit saved list"),
            }
        })
    }

    fn add(&self, name: &str, query: &str, overwrite: bool) -> Result<(), Diagnostic> {
        if !audit::is_name(name) {
            return Err(
                Diagnostic::error(7922, format!("`{name}` cannot be the name of a query"))
                    .cause("a name has letters, digits and `-_.`, at most 64 of them")
                    .help("as in `palisade audit saved add denied 'decision:deny last:1h'`"),
            );
        }
        Query::parse(query)?;
        // A line holds no line break, and between words it is as good as a space.
        let line = format!("{name} {}", query.trim().replace(['\r', '\n'], " "));
        if self.find(name).is_ok() && !overwrite {
            return Err(
                Diagnostic::error(7922, format!("a query is saved as `{name}` already"))
                    .help("choose another name, or --overwrite"),
            );
        }
        let others = self.without(name);
        self.write(others.chain([line.as_str()]))
    }

    fn remove(&self, name: &str) -> Result<(), Diagnostic> {
        self.find(name)?;
        self.write(self.without(name))
    }

    /// Every line but those of `name`.
    fn without(&self, name: &str) -> impl Iterator<Item = &str> {
        let is_other = move |line: &&str| entry(line).is_none_or(|(other, _)| other != name);
        self.text.lines().filter(is_other)
    }

    /// Replaces the file in one step.
    fn write<'l>(&self, lines: impl Iterator<Item = &'l str>) -> Result<(), Diagnostic> {
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        let draft = self.path.with_extension(format!("{}", std::process::id()));
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &self.path));
        written.map_err(|error| unusable(&self.path, &error))
    }
}

/// The name and the query of a line; none for an empty one and a comment.
fn entry(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (name, query) = line.split_once(char::is_whitespace)?;
    Some((name, query.trim()))
}

/// `palisade/queries` among the user's configuration.
fn path() -> Result<PathBuf, Diagnostic> {
    let absolute = |name: &str| {
        let path = PathBuf::from(env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let home = || Some(absolute("HOME")?.join(".config"));
    let config = absolute("XDG_CONFIG_HOME").or_else(home).ok_or_else(|| {
        Diagnostic::error(7921, "there is no place for saved queries")
            .cause("neither `XDG_CONFIG_HOME` nor `HOME` is an absolute path")
            .help("set one of them")
    })?;
    Ok(config.join("palisade/queries"))
}

fn unusable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let what = format!("saved queries in `{}` cannot be used", path.display());
    Diagnostic::error(7921, what)
        .cause(error.to_string())
        .help("it is a text file with a line `NAME QUERY` for each")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_is_not_ours_and_what_is_saved_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("palisade/queries");
        let read = || Saved::read_at(path.clone()).unwrap();
        read()
            .add("denied", "decision:deny last:1h", false)
            .unwrap();
        fs::write(&path, format!("# mine\n\n{}", read().text)).unwrap();
        read()
            .add("slow", "path:\"/a  b\" latency:>1s", false)
            .unwrap();
        read()
            .add("denied", "decision:deny\nlast:2h", true)
            .unwrap();
        assert_eq!(
            read().text,
            "# mine\n\nslow path:\"/a  b\" latency:>1s\ndenied decision:deny last:2h\n"
        );
        let code = |done: Result<(), Diagnostic>| done.unwrap_err().code.0;
        assert_eq!(code(read().add("slow", "last:1h", false)), 7922);
        assert_eq!(code(read().add("a b", "last:1h", false)), 7922);
        assert_eq!(code(read().add(&"n".repeat(65), "last:1h", false)), 7922);
        assert_eq!(code(read().add("bad", "servce:a", false)), 7102);
        read().add(&"n".repeat(64), "last:1h", false).unwrap();
        read().remove("slow").unwrap();
        assert_eq!(code(read().remove("slow")), 7920);
        assert!(
            read()
                .find("denid")
                .unwrap_err()
                .help
                .unwrap()
                .contains("`@denied`")
        );
        fs::write(&path, " ".repeat(1 << 20)).unwrap();
        assert!(Saved::read_at(path.clone()).is_ok());
        fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
        assert!(Saved::read_at(path.clone()).is_err());
    }
}
