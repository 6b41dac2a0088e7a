//! The digest of a bundle: the root of a tree over everything in it.
//!
//! Leaves are the header, each file, and each group of policies; a group's leaf holds
//! the root of a tree over its policies, so that one without them weighs the same.

use std::collections::HashSet;

use palisade_mesh::{
    merkle::{self, Hash},
    snapshot::Digest,
    wire::policy::{Bundle, PolicyGroup, PolicyText},
};
use prost::Message;

/// What each kind of leaf begins with.
const HEADER: u8 = b'H';
const FILE: u8 = b'F';
const GROUP: u8 = b'G';
const POLICY: u8 = b'P';

/// The group of all policies with this scope, which are not empty.
pub(crate) fn group(scope: String, mut policies: Vec<PolicyText>) -> PolicyGroup {
    policies.sort_by(|a, b| place(a).cmp(&place(b)));
    PolicyGroup {
        scope,
        count: u32::try_from(policies.len()).unwrap_or(u32::MAX),
        root: root(&policies).to_vec(),
        policies,
    }
}

/// The digest of `bundle`, which is left as it is.
///
/// # Errors
/// What is not in order: there is one spelling of each content.
pub fn digest(bundle: &mut Bundle) -> Result<Digest, String> {
    check_order(bundle)?;
    let files = std::mem::take(&mut bundle.files);
    let groups = std::mem::take(&mut bundle.groups);
    let mut leaves = Leaves::with_capacity(1 + files.len() + groups.len());
    leaves.add(HEADER, bundle);
    files.iter().for_each(|file| leaves.add(FILE, file));
    for group in &groups {
        let bare = PolicyGroup {
            scope: group.scope.clone(),
            count: group.count,
            root: group.root.clone(),
            policies: Vec::new(),
        };
        leaves.add(GROUP, &bare);
    }
    bundle.files = files;
    bundle.groups = groups;
    Ok(Digest(merkle::root(&leaves.hashes)))
}

fn check_order(bundle: &Bundle) -> Result<(), String> {
    let is_sorted = |sorted: bool, what: &str| match sorted {
        true => Ok(()),
        false => Err(format!("its {what} are not in order")),
    };
    is_sorted(bundle.files.is_sorted_by(|a, b| a.path < b.path), "files")?;
    is_sorted(
        bundle.groups.is_sorted_by(|a, b| a.scope < b.scope),
        "groups",
    )?;
    let policies = bundle.groups.iter().flat_map(|g| &g.policies);
    let with_policies: HashSet<&str> = policies.map(|p| p.file.as_str()).collect();
    let mut files = bundle.files.iter();
    if let Some(twice) = files.find(|f| with_policies.contains(f.path.as_str())) {
        return Err(format!("`{}` is in it twice", twice.path));
    }
    for group in &bundle.groups {
        if group.policies.is_empty() {
            if group.count == 0 || group.root.len() != size_of::<Hash>() {
                return Err(format!("its group `{}` is empty", group.scope));
            }
            continue;
        }
        let sorted = group.policies.is_sorted_by(|a, b| place(a) < place(b));
        is_sorted(sorted, "policies")?;
        if usize::try_from(group.count) != Ok(group.policies.len())
            || group.root != root(&group.policies)
        {
            return Err(format!(
                "the policies of `{}` are not those that its manifest names",
                group.scope
            ));
        }
    }
    Ok(())
}

fn root(policies: &[PolicyText]) -> Hash {
    let mut leaves = Leaves::with_capacity(policies.len());
    policies
        .iter()
        .for_each(|policy| leaves.add(POLICY, policy));
    merkle::root(&leaves.hashes)
}

fn place(policy: &PolicyText) -> (&str, u32) {
    (&policy.file, policy.offset)
}

/// Hashes of leaves; the encoding is canonical because it is our own.
struct Leaves {
    hashes: Vec<Hash>,
    encoded: Vec<u8>,
}

impl Leaves {
    fn with_capacity(n: usize) -> Self {
        Self {
            hashes: Vec::with_capacity(n),
            encoded: Vec::new(),
        }
    }

    fn add(&mut self, kind: u8, message: &impl Message) {
        self.encoded.clear();
        self.encoded.push(kind);
        let encoded = message.encode(&mut self.encoded);
        encoded.expect("a vector has room");
        self.hashes.push(merkle::leaf(&self.encoded));
    }
}
