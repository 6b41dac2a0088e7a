//! Drafts of permits for what was denied: the narrowest that would have allowed it, as
//! a patch to the repository, and the repository as it would then be.
//!
//! A draft is for one service (or workload) and one operation, under the actions that
//! were asked for. It never touches what a `forbid` says.

use std::{collections::BTreeSet, fmt::Write};

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::File, yaml::Source};
use serde::Serialize;

use super::{Loaded, Texts, files, fmt, policies::ID_LEN_MAX};
use crate::{bundle, compiled::Compiled};

/// Who owns a draft until somebody does.
const OWNER: &str = "unassigned";

/// Something that is to be allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Wish {
    /// Id of the service that asks.
    pub from: String,
    /// Id of the service that is asked.
    pub to: String,
    /// Id of the operation.
    pub operation: String,
    /// Cedar actions.
    pub actions: BTreeSet<String>,
}

/// Permits that allow what was wished.
#[derive(Debug)]
pub struct Drafts {
    /// Their ids, in the order of the wishes.
    pub ids: Vec<String>,
    /// The change as a unified diff, for `git apply` in the repository's folder.
    pub patch: String,
    /// The repository as it would be, compiled, with what is to say about it.
    pub loaded: Loaded,
}

/// Drafts a permit for each wish.
///
/// # Errors
/// When the repository's bundle cannot be read, or a draft not be laid out.
pub fn drafts(
    compiled: &Compiled,
    wishes: &[Wish],
    prefix: &str,
) -> Result<Drafts, Vec<Diagnostic>> {
    let mut texts = Texts::of_compiled(compiled)
        .ok_or_else(|| vec![bundle::broken("what was compiled is not in order")])?;
    let mut all = std::mem::take(&mut texts.files);
    let mut taken: BTreeSet<String> = compiled.info.keys().map(ToString::to_string).collect();
    let mut ids = Vec::new();
    let mut added: Vec<(String, String)> = Vec::new();
    for wish in wishes {
        let id = id_of(wish, &mut taken);
        let path = path_of(wish, &all);
        let text = laid_out(&id, wish, owner_in(compiled, &path), &path)?;
        match added.iter_mut().find(|(file, _)| *file == path) {
            Some((_, texts)) => {
                texts.push('\n');
                texts.push_str(&text);
            }
            None => added.push((path, text)),
        }
        ids.push(id);
    }
    added.sort();
    let mut patch = String::new();
    for (path, text) in added {
        let old = all.iter_mut().find(|file| file.path == path);
        let name = format!("{prefix}{path}");
        patch.push_str(&appended(
            &name,
            old.as_ref().map(|f| f.text.as_str()),
            &text,
        ));
        match old {
            Some(file) => {
                let new = joined(&file.text, &text);
                file.text = new;
            }
            None => all.push(File { path, text }),
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    let loaded = Texts {
        files: all,
        ..texts
    }
    .compile();
    Ok(Drafts { ids, patch, loaded })
}

/// `OPERATION-from-CALLER`, made longer until nothing has it.
fn id_of(wish: &Wish, taken: &mut BTreeSet<String>) -> String {
    let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
    let (to, operation, from) = (last(&wish.to), last(&wish.operation), last(&wish.from));
    let whole = format!("{to}-{operation}-from-{from}");
    let id: String = whole.chars().take(ID_LEN_MAX.saturating_sub(8)).collect();
    let numbered = (2_u32..).map(|n| format!("{id}-{n}"));
    let free = std::iter::once(id.clone())
        .chain(numbered)
        .find(|id| !taken.contains(id))
        .unwrap_or(id);
    taken.insert(free.clone());
    free
}

/// Where policies about the service stand, by the name of the file; else a new one.
fn path_of(wish: &Wish, all: &[File]) -> String {
    let service = wish.to.rsplit('/').next().unwrap_or_default();
    let name = format!("{service}.cedar");
    let known = all.iter().map(|file| &file.path);
    let mut known = known.filter(|path| files::is_policy(path));
    let fits = |path: &&String| path.rsplit('/').next() == Some(name.as_str());
    known
        .find(fits)
        .cloned()
        .unwrap_or_else(|| format!("policies/{name}"))
}

/// The owner of the policies that stand there, if they have one and the same.
fn owner_in<'c>(compiled: &'c Compiled, path: &str) -> &'c str {
    let there = compiled.info.values().filter(|info| &*info.file == path);
    let owners: BTreeSet<&str> = there.filter_map(|info| info.owner.as_deref()).collect();
    match owners.len() {
        1 => owners.first().copied().unwrap_or(OWNER),
        _ => OWNER,
    }
}

fn laid_out(id: &str, wish: &Wish, owner: &str, path: &str) -> Result<String, Vec<Diagnostic>> {
    let named = |kind: &str, id: &str| format!("{kind}::{id:?}");
    let actions: Vec<String> = wish.actions.iter().map(|a| named("Action", a)).collect();
    let action = match actions.as_slice() {
        [one] => format!("action == {one}"),
        several => format!("action in [{}]", several.join(", ")),
    };
    let text = format!(
        "@id({id:?})\n@owner({owner:?})\npermit (principal in {}, {action}, resource == {});",
        named("Service", &wish.from),
        named("Operation", &wish.operation),
    );
    fmt::format(&Source::new(path, text.as_str()))
}

/// `old` with `text` behind an empty line.
fn joined(old: &str, text: &str) -> String {
    let end = if old.is_empty() || old.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let gap = if old.is_empty() { "" } else { "\n" };
    format!("{old}{end}{gap}{text}")
}

/// A unified diff that appends `text`, with the last lines there as context.
fn appended(path: &str, old: Option<&str>, text: &str) -> String {
    let new_lines = text.lines().count();
    let old = old.filter(|old| !old.is_empty());
    let Some(old) = old else {
        let mut patch = format!("--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{new_lines} @@\n");
        add(&mut patch, '+', text.lines());
        return patch;
    };
    let lines: Vec<&str> = old.lines().collect();
    let from = lines.len().saturating_sub(fmt::CONTEXT);
    let context = lines.get(from..).unwrap_or_default();
    let kept = context.len();
    // A line more: the empty one between.
    let mut patch = format!(
        "--- a/{path}\n+++ b/{path}\n@@ -{},{kept} +{},{} @@\n",
        from + 1,
        from + 1,
        kept + new_lines + 1
    );
    match (old.ends_with('\n'), context.split_last()) {
        (false, Some((last, before))) => {
            add(&mut patch, ' ', before.iter().copied());
            let _ = writeln!(patch, "-{last}\n\\ No newline at end of file\n+{last}");
        }
        _ => add(&mut patch, ' ', context.iter().copied()),
    }
    patch.push_str("+\n");
    add(&mut patch, '+', text.lines());
    patch
}

fn add<'l>(patch: &mut String, mark: char, lines: impl Iterator<Item = &'l str>) {
    for line in lines {
        patch.push(mark);
        patch.push_str(line);
        patch.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: Option<&str>, expected: &str) {
        assert_eq!(appended("policies/a.cedar", old, "x\ny\n"), expected);
    }

    #[test]
    fn a_patch_appends_with_what_stands_before_as_context() {
        check(
            Some("1\n2\n3\n4\n"),
            "--- a/policies/a.cedar\n+++ b/policies/a.cedar\n@@ -2,3 +2,6 @@\n 2\n 3\n 4\n+\n+x\n+y\n",
        );
        check(
            Some("1\n2"),
            "--- a/policies/a.cedar\n+++ b/policies/a.cedar\n@@ -1,2 +1,5 @@\n 1\n-2\n\\ No newline at end of file\n+2\n+\n+x\n+y\n",
        );
        check(
            None,
            "--- /dev/null\n+++ b/policies/a.cedar\n@@ -0,0 +1,2 @@\n+x\n+y\n",
        );
    }

    #[test]
    fn what_is_appended_is_what_the_patch_says() {
        assert_eq!(joined("1\n", "x\n"), "1\n\nx\n");
        assert_eq!(joined("1", "x\n"), "1\n\nx\n");
        assert_eq!(joined("", "x\n"), "x\n");
    }
}
