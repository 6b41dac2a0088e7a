//! The tree that a pass builds: leaf by leaf, or from the tiles where a leaf is lost, against each
//! root that was signed.

use palisade_mesh::diagnostic::Severity;

use super::{
    super::{Finding, FindingKind, stored::about},
    Awaited, Pass,
};
use crate::{
    checkpoint::Checkpoint,
    merkle::{self, Hash, TILE_WIDTH, TilePath},
};

impl Pass<'_> {
    /// Awaits these, by size: the log's own before those that are compared with it.
    pub(super) fn await_all(&mut self, own: Vec<Checkpoint>, earlier: Vec<(usize, Checkpoint)>) {
        let own = own.into_iter().map(|checkpoint| Awaited {
            checkpoint,
            earlier: None,
        });
        let earlier = earlier.into_iter().map(|(n, checkpoint)| Awaited {
            checkpoint,
            earlier: Some(n),
        });
        let mut all: Vec<Awaited> = earlier.chain(own).collect();
        all.sort_by_key(|awaited| awaited.checkpoint.size);
        self.ahead = all.into();
    }

    /// Takes in a leaf, with the root of the tile that it fills, where that is known.
    pub(super) fn push(&mut self, hash: Hash, root: Option<Hash>) {
        self.tree.push_last(hash, root);
        self.tree.forget_full_tiles();
        self.roots();
    }

    /// Goes on over leaves that cannot be read, with the hashes their tiles keep.
    pub(super) fn lose(&mut self, from: u64, to: u64) {
        self.damaged = true;
        for leaf in from..to.min(self.signed) {
            match self.tile_hash(leaf) {
                Some(hash) if self.tree.size() == leaf => self.push(hash, None),
                _ => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.broken |= to < from;
    }

    /// Compares the tree with the checkpoints that are of its size.
    pub(super) fn roots(&mut self) {
        while let Some(Awaited {
            checkpoint,
            earlier,
        }) = self.ahead.front()
            && checkpoint.size <= self.tree.size()
        {
            let (size, root, earlier) = (checkpoint.size, checkpoint.root, *earlier);
            self.ahead.pop_front();
            if self.broken || size != self.tree.size() {
                continue;
            }
            let computed = self.tree.root();
            if let Some(n) = earlier {
                self.earlier.met(n, computed);
                continue;
            }
            self.report.checkpoints += 1;
            if root == computed {
                let split = self.earlier.settle();
                split.into_iter().for_each(|finding| self.find(finding));
                self.good = size;
                self.damaged = false;
                if let Some(suspect) = self.suspect.take() {
                    self.find(Finding {
                        severity: Severity::Warning,
                        kind: FindingKind::Tile,
                        what: "its tile contradicts the log, which agrees with its signatures: it is the tile that is wrong".into(),
                        ..suspect
                    });
                }
                continue;
            }
            self.broken = true;
            if let Some(suspect) = self.suspect.take() {
                self.find(suspect);
            } else if !self.damaged {
                let good = self.good;
                let what =
                    format!("a record between {good} and {size} is not the one that was signed");
                self.find(Finding {
                    leaf: Some(good),
                    stored: Some(merkle::hex(&root)),
                    computed: Some(merkle::hex(&computed)),
                    ..about(FindingKind::Root, "checkpoint", what)
                });
            }
        }
    }

    /// The hash that the tiles keep for a leaf.
    pub(super) fn tile_hash(&mut self, leaf: u64) -> Option<Hash> {
        let number = leaf / TILE_WIDTH as u64;
        if self.tile.as_ref().is_none_or(|(held, _)| *held != number) {
            let hashes = TilePath::at(0, number, self.signed)
                .and_then(|path| self.tiles.read(path).ok())
                .unwrap_or_default();
            self.tile = Some((number, hashes));
        }
        let (_, hashes) = self.tile.as_ref()?;
        hashes.get((leaf % TILE_WIDTH as u64) as usize).copied()
    }
}
