//! Permits made narrower: what is to end, as a patch to the repository, and the
//! repository as it would then be.
//!
//! A permit of which nothing is left is removed; any other gets an `unless` that names
//! what it grants no more. Both only ever take away, and a `forbid` is never touched: so
//! nothing that was denied is allowed afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use palisade_mesh::{diagnostic::Diagnostic, yaml::Source};
use serde::{Deserialize, Serialize};

use super::{Loaded, Texts, fmt as layout};
use crate::{bundle, compiled::Compiled};

/// One access that is to end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ended {
    /// Who has it.
    pub caller: Holder,
    /// Cedar action.
    pub action: String,
    /// Cedar resource type.
    pub resource_type: String,
    /// Cedar resource id.
    pub resource: String,
}

/// Who has an access, as a policy can name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// Every workload of a service, by the service's id.
    Service(String),
    /// A workload that no service claims, by its SPIFFE ID.
    Unregistered(String),
}

/// What becomes of a permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// It no longer grants these.
    Narrowed(BTreeSet<Ended>),
    /// It grants nothing else, and goes.
    Removed,
}

/// A repository that grants less.
#[derive(Debug)]
pub struct Narrower {
    /// The change as a unified diff, for `git apply` in the repository's folder.
    pub patch: String,
    /// The repository as it would be, compiled, with what is to say about it.
    pub loaded: Loaded,
}

impl fmt::Display for Ended {
    /// As a condition of Cedar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caller {
            Holder::Service(id) => write!(f, "principal in Service::{id:?}")?,
            Holder::Unregistered(id) => write!(f, "principal == Unregistered::{id:?}")?,
        }
        let (kind, id) = (&self.resource_type, &self.resource);
        let action = &self.action;
        write!(
            f,
            " && action == Action::{action:?} && resource == {kind}::{id:?}"
        )
    }
}

/// Cuts permits, by their ids. `prefix` is what paths in the patch begin with.
///
/// # Errors
/// When the repository's bundle cannot be read, or a permit not be laid out.
pub fn narrower(
    compiled: &Compiled,
    cuts: &BTreeMap<String, Cut>,
    prefix: &str,
) -> Result<Narrower, Vec<Diagnostic>> {
    let mut texts = Texts::of_compiled(compiled)
        .ok_or_else(|| vec![bundle::broken("what was compiled is not in order")])?;
    let mut patch = String::new();
    for file in &mut texts.files {
        let policies = compiled.info.values();
        let here = policies.filter(|info| *info.file == *file.path);
        let mut text = file.text.clone();
        for info in here {
            if let Some(cut) = cuts.get(info.id.as_str()) {
                text = cut_in(&text, &info.text, cut, &file.path)?;
            }
        }
        let name = |side: &str| format!("{side}/{prefix}{}", file.path);
        patch.push_str(&layout::diff(&name("a"), &name("b"), &file.text, &text));
        file.text = text;
    }
    Ok(Narrower {
        patch,
        loaded: texts.compile(),
    })
}

/// `text` of a file with one of its policies cut.
fn cut_in(text: &str, policy: &str, cut: &Cut, path: &str) -> Result<String, Vec<Diagnostic>> {
    let Some((before, after)) = text.split_once(policy) else {
        return Err(vec![bundle::broken("a policy is not in its file")]);
    };
    match cut {
        Cut::Removed => Ok(closed_up(before, after)),
        Cut::Narrowed(ended) => {
            let mut narrowed = policy.trim_end().trim_end_matches(';').to_owned();
            for one in ended {
                let _ = write!(narrowed, "\nunless {{ {one} }}");
            }
            narrowed.push(';');
            let laid_out = layout::format(&Source::new(path, narrowed.as_str()))?;
            Ok(format!("{before}{}{after}", laid_out.trim_end()))
        }
    }
}

/// What stood around a policy that is gone, with one blank line at most between.
fn closed_up(before: &str, after: &str) -> String {
    let (before, after) = (before.trim_end(), after.trim_start());
    match (before.is_empty(), after.is_empty()) {
        (true, _) => after.to_owned(),
        (false, true) => format!("{before}\n"),
        (false, false) => format!("{before}\n\n{after}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERMIT: &str = "@id(\"a\")\npermit (principal, action, resource);";

    fn ended() -> Ended {
        Ended {
            caller: Holder::Service("acme.test/shop/web".into()),
            action: "GET".into(),
            resource_type: "Operation".into(),
            resource: "acme.test/shop/orders/list".into(),
        }
    }

    #[test]
    fn a_permit_that_is_gone_leaves_its_neighbours_as_they_were() {
        let check = |text: &str, left: &str| {
            let cut = cut_in(text, PERMIT, &Cut::Removed, "policies/a.cedar").unwrap();
            assert_eq!(cut, left);
        };
        check(&format!("{PERMIT}\n"), "");
        check(&format!("// head\n\n{PERMIT}\n"), "// head\n");
        check(&format!("{PERMIT}\n\n// next\n"), "// next\n");
        check(&format!("x;\n\n\n{PERMIT}\n\n\ny;"), "x;\n\ny;");
    }

    #[test]
    fn a_permit_is_narrowed_by_what_it_grants_no_more() {
        let cut = Cut::Narrowed([ended()].into());
        let text = cut_in(&format!("{PERMIT}\n"), PERMIT, &cut, "policies/a.cedar").unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "@id(\"a\") permit (principal, action, resource) unless { \
             principal in Service::\"acme.test/shop/web\" && action == Action::\"GET\" && \
             resource == Operation::\"acme.test/shop/orders/list\" };"
        );
    }
}
