//! Pages of a search: where the next one begins, sealed so that nobody makes it up.
//!
//! A token holds nothing but a position and a page's length. What it was issued for (who
//! asked, what, under which policy revision) is not in it but must be the same.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, hmac, rand::SystemRandom};
use serde::{Deserialize, Serialize};

use super::Fault;
use crate::apis::codes::PAGE;

/// Results of a page where nothing is said.
pub const PAGE_DEFAULT: u32 = 100;
/// Most results of a page, whatever is asked for.
pub const PAGE_MAX: u32 = 1000;
/// Bytes of the seal that a token carries.
const SEAL_LEN: usize = 16;

/// Which page is wanted.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    token: Option<String>,
    limit: Option<u32>,
}

/// Which page was given.
#[derive(Debug, Serialize)]
pub(super) struct Given {
    next_token: String,
    count: usize,
    total: usize,
}

/// Issues and checks tokens; they end with the process.
#[derive(Clone)]
pub(super) struct Pages(Arc<hmac::Key>);

impl Default for Pages {
    fn default() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(Arc::new(key.expect("the system's generator does not fail")))
    }
}

impl Pages {
    /// The part of `all` that is wanted; `bound` is what a token is good for.
    pub(super) fn cut<T>(
        &self,
        mut all: Vec<T>,
        wanted: &Wanted,
        bound: &[u8],
    ) -> Result<(Given, Vec<T>), Fault> {
        let (from, limit) = match wanted.token.as_deref().filter(|t| !t.is_empty()) {
            Some(token) => {
                let (from, limit) = self.open(token, bound).ok_or_else(|| {
                    Fault::bad(format!(
                        "PLS{PAGE}: this page token is of another search, another policy revision \
                         or another process; search anew"
                    ))
                })?;
                if wanted
                    .limit
                    .is_some_and(|asked| asked.min(PAGE_MAX) != limit)
                {
                    let began = "is not the one that the search began with";
                    let wrong = format!("PLS{PAGE}: `page.limit` {began}");
                    return Err(Fault::bad(wrong));
                }
                (from, limit)
            }
            None => (0, wanted.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX)),
        };
        let total = all.len();
        let begin = usize::try_from(from).map_or(total, |from| from.min(total));
        let end = begin.saturating_add(usize::try_from(limit).unwrap_or(total));
        all.truncate(end);
        let page = all.split_off(begin.min(all.len()));
        let next_token = match end < total {
            true => self.seal(from + u64::from(limit), limit, bound),
            false => String::new(),
        };
        let given = Given {
            next_token,
            count: page.len(),
            total,
        };
        Ok((given, page))
    }

    fn seal(&self, from: u64, limit: u32, bound: &[u8]) -> String {
        let mut token = position(from, limit);
        let tag = self.tag(&token, bound);
        token.extend(tag.as_ref().iter().take(SEAL_LEN));
        token.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn open(&self, token: &str, bound: &[u8]) -> Option<(u64, u32)> {
        let bytes: Vec<u8> = (0..token.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok())
            .collect::<Option<_>>()?;
        let (place, seal) = bytes.split_at_checked(12)?;
        let tag = self.tag(place, bound);
        let expected = tag.as_ref().get(..SEAL_LEN)?;
        constant_time::verify_slices_are_equal(seal, expected).ok()?;
        let (from, limit) = place.split_at_checked(8)?;
        Some((
            u64::from_be_bytes(from.try_into().ok()?),
            u32::from_be_bytes(limit.try_into().ok()?),
        ))
    }

    fn tag(&self, place: &[u8], bound: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(place);
        context.update(digest::digest(&digest::SHA256, bound).as_ref());
        context.sign()
    }
}

fn position(from: u64, limit: u32) -> Vec<u8> {
    let mut bytes = from.to_be_bytes().to_vec();
    bytes.extend(limit.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(limit: u32) -> Wanted {
        Wanted {
            token: None,
            limit: Some(limit),
        }
    }

    fn then(given: &Given) -> Wanted {
        Wanted {
            token: Some(given.next_token.clone()),
            limit: None,
        }
    }

    #[test]
    fn pages_follow_each_other_and_end_with_an_empty_token() {
        let (pages, all) = (Pages::default(), vec![1, 2, 3]);
        let (given, page) = pages.cut(all.clone(), &first(2), b"q").unwrap();
        assert_eq!((page, given.count, given.total), (vec![1, 2], 2, 3));
        let (given, page) = pages.cut(all.clone(), &then(&given), b"q").unwrap();
        assert_eq!((page, given.next_token.as_str()), (vec![3], ""));
        let (given, page) = pages.cut(all, &first(3), b"q").unwrap();
        assert_eq!((page.len(), given.next_token.as_str()), (3, ""));
    }

    #[test]
    fn a_token_is_good_for_the_search_it_was_issued_for_and_no_other() {
        let (pages, all) = (Pages::default(), vec![1, 2, 3]);
        let (given, _) = pages.cut(all.clone(), &first(2), b"q").unwrap();
        let refused = |pages: &Pages, wanted: Wanted, bound: &[u8]| {
            pages.cut(vec![1, 2, 3], &wanted, bound).is_err()
        };
        assert!(refused(&pages, then(&given), b"r"));
        assert!(refused(&Pages::default(), then(&given), b"q"));
        let mut longer = then(&given);
        longer.limit = Some(3);
        assert!(refused(&pages, longer, b"q"));
        for token in [
            "00",
            "zz",
            "a",
            "\u{e9}\u{e9}",
            &"0".repeat(56),
            &"0".repeat(4000),
        ] {
            let made_up = Wanted {
                token: Some(token.into()),
                limit: None,
            };
            assert!(refused(&pages, made_up, b"q"), "{token}");
        }
    }

    #[test]
    fn a_page_is_bounded_whatever_is_asked_for() {
        let pages = Pages::default();
        let all: Vec<u32> = (0..PAGE_MAX + 1).collect();
        let (_, page) = pages.cut(all.clone(), &first(u32::MAX), b"q").unwrap();
        assert_eq!(page.len(), PAGE_MAX as usize);
        let (_, page) = pages.cut(all, &Wanted::default(), b"q").unwrap();
        assert_eq!(page.len(), PAGE_DEFAULT as usize);
    }
}
