//! From the policies of a bundle back to their files, each at its line.

use palisade_mesh::wire::policy::{Bundle, File, PolicyText};

use crate::author::{FILE_LEN_MAX, REPOSITORY_LEN_MAX};

/// The Cedar files of a bundle. Of a whole one they are what the repository had, byte
/// for byte; in those of a slice, empty lines stand where policies are left out.
///
/// # Errors
/// When policies lie over each other or beyond the limits of a file.
pub(crate) fn of_policies(bundle: &Bundle) -> Result<Vec<File>, String> {
    let mut policies: Vec<_> = bundle.groups.iter().flat_map(|g| &g.policies).collect();
    policies.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    let mut files = Vec::new();
    let mut total = 0;
    for of_file in policies.chunk_by(|a, b| a.file == b.file) {
        let mut rebuilt = Rebuilt::default();
        for policy in of_file {
            rebuilt
                .add(policy, REPOSITORY_LEN_MAX - total)
                .ok_or_else(|| {
                    format!(
                        "policy `{}` is not at a place of `{}`",
                        policy.policy_id, policy.file
                    )
                })?;
        }
        total += rebuilt.text.len();
        files.extend(of_file.first().map(|first| File {
            path: first.file.clone(),
            text: rebuilt.text,
        }));
    }
    Ok(files)
}

/// A file as far as it is rebuilt.
#[derive(Default)]
struct Rebuilt {
    text: String,
    /// Line breaks in `text`.
    breaks: usize,
    /// Where the next policy may begin in the original.
    end: usize,
}

impl Rebuilt {
    /// Adds the next policy; `None` when it cannot stand there.
    fn add(&mut self, policy: &PolicyText, room: usize) -> Option<()> {
        let offset = usize::try_from(policy.offset).ok()?;
        let before = usize::try_from(policy.line).ok()?.checked_sub(1)?;
        let gap = before.checked_sub(self.breaks)?;
        let end = offset.checked_add(policy.text.len())?;
        // A line break is a byte, so no honest gap is longer than what was left out.
        let fits = offset >= self.end
            && before <= offset
            && end <= FILE_LEN_MAX
            && self.text.len() + gap + policy.text.len() <= room;
        if !fits {
            return None;
        }
        self.text.extend(std::iter::repeat_n('\n', gap));
        self.text.push_str(&policy.text);
        self.breaks = before + policy.text.matches('\n').count();
        self.end = end;
        Some(())
    }
}
