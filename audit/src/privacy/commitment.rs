//! Commitments: a record says which value it had without telling it.

use aws_lc_rs::{
    digest::{Context, SHA256},
    rand,
};
use palisade_mesh::wire::record::{Cover, Disclosure, cover::Handling};

use super::Personal;

/// What the hashed bytes begin with.
const PREFIX: &[u8] = b"palisade cover v1\n";
/// Bytes of a salt.
pub(super) const SALT_LEN: usize = 16;

/// A cover and what is under it; `None` when there is no randomness for the salt.
pub(super) fn commit(
    field: &Personal,
    handling: Handling,
    value: &str,
) -> Option<(Cover, Disclosure)> {
    let mut salt = vec![0; SALT_LEN];
    rand::fill(&mut salt).ok()?;
    let field = field.to_string();
    let disclosure = Disclosure {
        salt,
        value: value.to_owned(),
    };
    let cover = Cover {
        commitment: digest(&field, &disclosure),
        field,
        handling: handling.into(),
    };
    Some((cover, disclosure))
}

/// Whether `disclosure` is what `cover` commits to.
pub(super) fn opens(cover: &Cover, disclosure: &Disclosure) -> bool {
    disclosure.salt.len() == SALT_LEN && digest(&cover.field, disclosure) == cover.commitment
}

fn digest(field: &str, disclosure: &Disclosure) -> Vec<u8> {
    let mut digest = Context::new(&SHA256);
    digest.update(PREFIX);
    digest.update(&disclosure.salt);
    digest.update(&(field.len() as u32).to_le_bytes());
    digest.update(field.as_bytes());
    digest.update(disclosure.value.as_bytes());
    digest.finish().as_ref().to_vec()
}
