//! The log as C2SP tlog-tiles has it: `tile/L/N`, `tile/entries/N`, each partial ones, too.

use std::io::ErrorKind;

use palisade_audit::{
    log::LogError,
    merkle::{TILE_WIDTH, TilePath, Tiles},
};
use palisade_mesh::diagnostic::Diagnostic;

use super::{AuditRole, broken, reads::Reader};
use crate::control::api::Problem;

/// How often a tile is looked for that the log replaces meanwhile.
const TRIES: usize = 3;

/// A tile or a bundle of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileAsked {
    /// Level of hashes; none for the entries themselves.
    pub(super) level: Option<u8>,
    /// Which of the level.
    pub(super) index: u64,
    /// How many of them.
    pub(super) width: usize,
}

impl TileAsked {
    /// Reads what stands behind `tile/`: `0/x001/234.p/5`, `entries/000`. Each tile has one
    /// address.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(number(digits)?),
        };
        let (whole, width) = match rest.split_once(".p/") {
            Some((whole, width)) => (whole, number(width).filter(|width| *width > 0)?),
            None => (rest, TILE_WIDTH),
        };
        let mut index = 0_u64;
        for part in whole.split('/') {
            let digits = part.trim_start_matches('x');
            let next = digits.parse::<u64>().ok().filter(|_| digits.len() == 3)?;
            index = index.checked_mul(1000)?.checked_add(next)?;
        }
        let asked = Self {
            level,
            index,
            width,
        };
        (asked.to_string() == format!("tile/{path}")).then_some(asked)
    }
}

/// A number as it is written without zeros before it.
fn number<T: std::str::FromStr + ToString>(digits: &str) -> Option<T> {
    let read: T = digits.parse().ok()?;
    (read.to_string() == digits).then_some(read)
}

impl std::fmt::Display for TileAsked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of_level = TilePath {
            level: 0,
            index: self.index,
            width: self.width,
        };
        let path = of_level.relative().display().to_string();
        let path = path.strip_prefix("tile/0/").unwrap_or_default();
        match self.level {
            Some(level) => write!(f, "tile/{level}/{path}"),
            None => write!(f, "tile/entries/{path}"),
        }
    }
}

impl AuditRole {
    /// The bytes of a tile under the latest checkpoint.
    ///
    /// # Errors
    /// `PLS7915` where the log has none there.
    pub(super) async fn tile(self, reader: Reader, asked: TileAsked) -> Result<Vec<u8>, Problem> {
        let role = self.clone();
        let read = tokio::task::spawn_blocking(move || match asked.level {
            Some(level) => role.hashes(level, &asked),
            None => role.entries(&asked),
        });
        let bytes = read.await.map_err(|e| broken(&e.to_string()))?;
        let given = match (&bytes, asked.level) {
            (Ok(_), None) => asked.width,
            _ => 0,
        };
        // Who looks for what is not there has asked, too.
        self.reads
            .note(&reader, "tiles", &asked.to_string(), given)
            .await?;
        Ok(bytes?)
    }

    /// So many hashes of a tile. Those of a tile that is not full are the first of it
    /// whenever it is fuller, so that who knows an earlier checkpoint finds its tiles.
    fn hashes(&self, level: u8, asked: &TileAsked) -> Result<Vec<u8>, Diagnostic> {
        let tiles = Tiles::new(&self.dir.join("log"));
        for _ in 0..TRIES {
            let size = self.log.checkpoint().size;
            let now = TilePath::at(level, asked.index, size).filter(|now| now.width >= asked.width);
            let Some(now) = now else {
                return Err(absent(asked));
            };
            match tiles.read(now) {
                Ok(hashes) => return Ok(hashes.concat().drain(..32 * asked.width).collect()),
                // The log has put a fuller one in its place.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(broken(&error.to_string())),
            }
        }
        Err(absent(asked))
    }

    /// So many records as they are hashed, each after its length in two bytes.
    fn entries(&self, asked: &TileAsked) -> Result<Vec<u8>, Diagnostic> {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let first = asked.index.checked_mul(wide(TILE_WIDTH));
        let end = first.and_then(|first| first.checked_add(wide(asked.width)));
        let (Some(first), Some(end)) = (first, end) else {
            return Err(absent(asked));
        };
        if end > self.log.checkpoint().size {
            return Err(absent(asked));
        }
        let mut bytes = Vec::new();
        for entry in first..end {
            let leaf = self.log.leaf(entry).map_err(|error| match error {
                LogError::Away(away) => away.diagnostic(),
                // One whose time was over was dropped: its hash is in the tile.
                _ => absent(asked),
            })?;
            let len = u16::try_from(leaf.len()).map_err(|e| broken(&e.to_string()))?;
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&leaf);
        }
        Ok(bytes)
    }
}

fn absent(asked: &TileAsked) -> Diagnostic {
    Diagnostic::error(7915, format!("the log has no `{asked}`"))
        .cause("its latest checkpoint does not reach so far, or records of it were dropped")
        .help("begin with GET /checkpoint; a tile that is not full ends in `.p/WIDTH`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tile_has_one_address() {
        let of = |path: &str| TileAsked::parse(path);
        let tile = |level, index, width| {
            Some(TileAsked {
                level,
                index,
                width,
            })
        };
        assert_eq!(of("0/000"), tile(Some(0), 0, 256));
        assert_eq!(of("3/x001/234.p/5"), tile(Some(3), 1234, 5));
        assert_eq!(of("entries/x001/x002/003"), tile(None, 1_002_003, 256));
        assert_eq!(of("entries/007.p/255"), tile(None, 7, 255));
        for none in [
            "",
            "0",
            "0/",
            "0/0",
            "0/0000",
            "00/000",
            "0/x000/001",
            "0/001/002",
            "0/x001",
            "0/000.p/",
            "0/000.p/0256",
            "0/000.p/256",
            "-1/000",
            "256/000",
            "0/000.p/1/2",
            "0/../../key",
            "entries/x018/x446/x744/x073/x709/x551/616",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
