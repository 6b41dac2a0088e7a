//! Section `spool`: where records wait until the audit service has them.

use palisade_audit::spool::SPOOL_BYTES;
use palisade_mesh::diagnostic::Diagnostic;
use palisade_proxy::config::units;
use serde::Deserialize;

/// Least `spool.bytes`: some of its files, and what is being written.
pub const BYTES_MIN: u64 = 64 << 20;

/// Largest `spool.bytes`.
pub const BYTES_MAX: u64 = 1 << 40;

/// Section `spool`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolSection {
    /// Bytes that each spool of this process keeps on disk before it is full, from
    /// [`BYTES_MIN`] to [`BYTES_MAX`]. Default: 1 GiB.
    #[serde(
        default = "default_bytes",
        deserialize_with = "units::bytes::deserialize"
    )]
    pub bytes: u64,
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self {
            bytes: default_bytes(),
        }
    }
}

impl SpoolSection {
    /// What is wrong with it: `PLS7609` for a size out of range.
    pub fn check(&self) -> Option<Diagnostic> {
        (!(BYTES_MIN..=BYTES_MAX).contains(&self.bytes)).then(|| {
            let told = format!("`spool.bytes` is {} bytes, out of range", self.bytes);
            Diagnostic::error(7609, told)
                .cause("a spool keeps whole files of 8 MiB, and what it holds back for records that must not be lost")
                .help("allowed: 64MiB to 1024GiB")
        })
    }
}

fn default_bytes() -> u64 {
    SPOOL_BYTES
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_size_is_bounded_on_both_sides() {
        let read = |bytes: &str| {
            let text = format!("trust_domain: acme.test\nca: {{}}\nspool: {{ bytes: {bytes} }}\n");
            Config::parse("m.yaml", &text)
                .map(|config| config.spool_options().spool_bytes)
                .map_err(|found| found.iter().map(|d| d.code.0).collect::<Vec<_>>())
        };
        assert_eq!(read("64MiB"), Ok(64 << 20));
        assert_eq!(read("67108863"), Err(vec![7609]));
        assert_eq!(read("1024GiB"), Ok(1 << 40));
        assert_eq!(read("1099511627777"), Err(vec![7609]));
        assert_eq!(read("many"), Err(vec![8005]));
        let absent = Config::parse("m.yaml", "trust_domain: acme.test\nca: {}\n").unwrap();
        assert_eq!(absent.spool_options().spool_bytes, 1 << 30);
    }
}
