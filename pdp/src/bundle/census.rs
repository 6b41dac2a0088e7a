//! How much is in an encoded message, counted before anything is allocated for it.
//!
//! Two bytes on the wire can be a message of a hundred in memory, so a file within its limit
//! could take gigabytes before a signature is looked at.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::statement::SIGNATURES_MAX;
use crate::author::{FILES_MAX, POLICIES_MAX};

/// Numbers of repeated fields, with how many there may be; fields of messages in them after it.
struct Limit {
    field: u32,
    max: usize,
    inside: &'static [Limit],
}

const fn limit(field: u32, max: usize) -> Limit {
    Limit {
        field,
        max,
        inside: &[],
    }
}

/// More of anything than a repository can have.
const MANY: usize = FILES_MAX + POLICIES_MAX;

/// `palisade.policy.v1.Bundle`
const BUNDLE: &[Limit] = &[
    limit(2, MANY),
    limit(5, 64),
    Limit {
        field: 6,
        max: MANY,
        inside: &[limit(4, MANY)],
    },
    limit(20, 1_024),
    limit(26, MANY),
];
/// `palisade.policy.v1.SignedBundle`
const SIGNED: &[Limit] = &[
    limit(2, SIGNATURES_MAX),
    Limit {
        field: 3,
        max: 1,
        inside: &[
            limit(3, SIGNATURES_MAX),
            Limit {
                field: 4,
                max: 1,
                inside: &[limit(4, SIGNATURES_MAX)],
            },
        ],
    },
    Limit {
        field: 4,
        max: 1,
        inside: &[limit(3, SIGNATURES_MAX)],
    },
    Limit {
        field: 5,
        max: 1,
        inside: &[limit(1, POLICIES_MAX), limit(2, SIGNATURES_MAX)],
    },
];

/// Whether an encoded bundle can be decoded within the limits of a repository.
///
/// # Errors
/// What is wrong with it.
pub(super) fn bundle(bytes: &[u8]) -> Result<(), String> {
    count(bytes, BUNDLE)
}

/// The same of a bundle file's message.
///
/// # Errors
/// What is wrong with it.
pub(super) fn signed(bytes: &[u8]) -> Result<(), String> {
    count(bytes, SIGNED)
}

fn count(mut bytes: &[u8], limits: &[Limit]) -> Result<(), String> {
    let malformed = |e: prost::DecodeError| e.to_string();
    let mut counts: Vec<(&Limit, usize)> = limits.iter().map(|limit| (limit, 0)).collect();
    while !bytes.is_empty() {
        let (field, wire) = decode_key(&mut bytes).map_err(malformed)?;
        let counted = counts.iter_mut().find(|(limit, _)| limit.field == field);
        let (Some((limit, count)), WireType::LengthDelimited) = (counted, wire) else {
            skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(malformed)?;
            continue;
        };
        let len = decode_varint(&mut bytes).map_err(malformed)?;
        let inside = usize::try_from(len)
            .ok()
            .and_then(|len| bytes.split_at_checked(len));
        let (inside, rest) = inside.ok_or("it is cut short")?;
        *count += 1;
        if *count > limit.max {
            return Err(format!(
                "it has more than {} of its field {field}",
                limit.max
            ));
        }
        if !limit.inside.is_empty() {
            self::count(inside, limit.inside)?;
        }
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_bounded_on_both_sides() {
        for (field, max) in [(2_u8, MANY), (6, MANY), (5, 64)] {
            let of = |n: usize| [field << 3 | 2, 0].repeat(n);
            assert_eq!(bundle(&of(max)), Ok(()));
            assert!(bundle(&of(max + 1)).is_err(), "{field}");
        }
        let group = |n: usize| {
            let policies = [4 << 3 | 2, 0].repeat(n);
            let mut bytes = vec![6 << 3 | 2];
            prost::encoding::encode_varint(policies.len() as u64, &mut bytes);
            [bytes, policies].concat()
        };
        assert_eq!(bundle(&group(MANY)), Ok(()));
        assert!(bundle(&group(MANY + 1)).is_err());
        assert!(signed(&[2 << 3 | 2, 0].repeat(SIGNATURES_MAX + 1)).is_err());
        assert!(bundle(&[0x12, 0x7f]).is_err());
    }
}
