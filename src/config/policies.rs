//! `pdp.policies`: where the policy repository is.

use std::{fmt, path::PathBuf};

use palisade_mesh::place::{At, POLL_DEFAULT, POLL_MAX, POLL_MIN, Place, Written};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// The policy repository of a PDP: a text, or a map of what a text has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoliciesSection {
    /// Where it is.
    pub place: Place,
    /// File with those who may sign it (`ALLOWED SIGNERS` in ssh-keygen(1)).
    pub require_signed: Option<PathBuf>,
}

/// The map.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    folder: Option<String>,
    file: Option<String>,
    git: Option<String>,
    https: Option<String>,
    oci: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    subdir: Option<String>,
    #[serde(default, deserialize_with = "super::optional_lifetime")]
    poll: Option<std::time::Duration>,
    require_signed: Option<PathBuf>,
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl PoliciesSection {
    /// Makes every path start at `base`.
    pub(super) fn resolve(&mut self, base: &std::path::Path) {
        self.place.resolve(base);
        self.require_signed
            .iter_mut()
            .for_each(|path| *path = base.join(&*path));
    }
}

impl Map {
    fn read<E: Error>(self) -> Result<PoliciesSection, E> {
        let written = Written {
            folder: self.folder.as_deref(),
            file: self.file.as_deref(),
            git: self.git.as_deref(),
            https: self.https.as_deref(),
            oci: self.oci.as_deref(),
            reference: self.reference.as_deref(),
            subdir: self.subdir.as_deref(),
        };
        let at = At::written(&written).map_err(E::custom)?;
        let poll = self.poll.unwrap_or(POLL_DEFAULT);
        if !(POLL_MIN..=POLL_MAX).contains(&poll) {
            return Err(E::custom("`poll` is a time from 1s to 24h"));
        }
        let git = matches!(at, At::Git(_));
        if !git && self.require_signed.is_some() {
            return Err(E::custom(
                "`require_signed` is about commits of a git repository: bundles are held to `policy_trust`, and a folder cannot be signed",
            ));
        }
        Ok(PoliciesSection {
            place: Place {
                at,
                poll,
                credentials: self.credentials,
                ca: self.ca,
            },
            require_signed: self.require_signed,
        })
    }
}

impl<'de> Deserialize<'de> for PoliciesSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = PoliciesSection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, an address or a map of keys")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PoliciesSection, E> {
                let at = At::parse(text).map_err(E::custom)?;
                Ok(PoliciesSection {
                    place: Place::new(at),
                    require_signed: None,
                })
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PoliciesSection, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PoliciesSection, A::Error> {
                Map::deserialize(MapAccessDeserializer::new(map))?.read()
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn check(policies: &str) -> Result<String, Vec<String>> {
        let text = format!(
            "trust_domain: acme.test\npdp:\n  policies: {policies}\n  listen: 127.0.0.1:1\n"
        );
        let config = Config::parse("mesh.yaml", &text)
            .map_err(|found| found.into_iter().map(|d| d.message).collect::<Vec<_>>())?;
        let policies = config.pdp.unwrap().policies;
        Ok(format!("{} {:?}", policies.place, policies.place.poll))
    }

    #[test]
    fn a_place_is_a_text_or_a_map() {
        assert_eq!(check("policies").unwrap(), "policies 3s");
        assert_eq!(check("42").unwrap(), "42 3s");
        let whole = "{git: \"https://git.acme.test/p.git\", ref: main, subdir: prod, poll: 30s, require_signed: s, credentials: c, ca: r.pem}";
        assert_eq!(
            check(whole).unwrap(),
            "git+https://git.acme.test/p.git#main in prod 30s"
        );
        for (written, shown) in [
            ("release.palisade", "release.palisade 3s"),
            ("{file: release}", "release 3s"),
            (
                "\"oci://r.acme.test/p:prod\"",
                "oci://r.acme.test/p:prod 3s",
            ),
            (
                "{https: \"https://cdn.acme.test/p.palisade\", poll: 1m}",
                "https://cdn.acme.test/p.palisade 60s",
            ),
        ] {
            assert_eq!(check(written).unwrap(), shown);
        }
        let short = "\"git+file:///srv/p.git#v1\"";
        assert_eq!(check(short).unwrap(), "git+file:///srv/p.git#v1 3s");
    }

    #[test]
    fn what_is_no_place_is_told_with_its_key() {
        for (bad, word) in [
            ("{}", "exactly one"),
            ("{folder: a, git: \"https://x/y\"}", "exactly one"),
            ("{folder: a, ref: main}", "`ref` and `subdir`"),
            ("{folder: a, require_signed: s}", "cannot be signed"),
            (
                "{oci: \"r.acme.test/p:x\", require_signed: s}",
                "`policy_trust`",
            ),
            ("{oci: \"r.acme.test/p\"}", "no place in a registry"),
            ("{https: \"http://x/y\"}", "no `https://"),
            ("{git: \"https://x/y\", poll: 999ms}", "`poll`"),
            ("{git: \"https://x/y\", poll: 25h}", "`poll`"),
            ("{git: \"https://u:p@x/y\"}", "password"),
            ("\"ssh://x/y\"", "no kind of source"),
            ("{gti: x}", "unknown key `gti`"),
        ] {
            let found = check(bad).unwrap_err();
            assert!(found.iter().any(|m| m.contains(word)), "{bad}: {found:?}");
        }
    }
}
