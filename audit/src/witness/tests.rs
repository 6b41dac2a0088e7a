//! The witness through its door, against real logs.

use std::sync::Arc;

use super::*;
use crate::{
    log::{Log, Pending},
    note::Signer,
    stream::StreamKey,
    testing::{encoded, open_log, reporter},
};

struct Story {
    dir: tempfile::TempDir,
    log_dir: tempfile::TempDir,
    log: Log,
    appended: u64,
}

impl Story {
    fn new() -> Self {
        let log_dir = tempfile::tempdir().unwrap();
        let log = open_log(&log_dir);
        let mut story = Self {
            dir: tempfile::tempdir().unwrap(),
            log_dir,
            log,
            appended: 0,
        };
        story.grow(5);
        story
    }

    fn grow(&mut self, by: u64) {
        let stream = Arc::new(StreamKey {
            reporter: reporter(),
            boot: ulid::Ulid::from_parts(7, 7),
            worker: 0,
        });
        let numbers = self.appended + 1..=self.appended + by;
        self.appended += by;
        let batch = numbers.map(|sequence| Pending {
            stream: stream.clone(),
            sequence,
            record: encoded(sequence),
        });
        let mut receipt = self.log.append(batch.collect());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(receipt.checkpointed()).unwrap();
    }

    fn witness(&self) -> Witness {
        let cosigner = Cosigner::load(&self.dir.path().join("key"), "b.test/witness", true);
        let logs = vec![self.log.verifier().clone()];
        let state = self.dir.path().join("state");
        Witness::open(&state, cosigner.unwrap(), logs, Clock::system()).unwrap()
    }

    fn request(&self, old: u64) -> AddCheckpoint {
        let (checkpoint, proof) = self.log.prove_prefix(old).unwrap();
        AddCheckpoint {
            old,
            proof,
            checkpoint: checkpoint.note,
        }
    }
}

fn status(answer: Result<String, WitnessRefusal>) -> u16 {
    answer.map_or_else(|refusal| refusal.status(), |_| 200)
}

#[test]
fn a_log_that_grows_is_cosigned_again_and_again() {
    let mut story = Story::new();
    let witness = story.witness();
    let first = story.request(0);
    let lines = witness.add_checkpoint(&first.to_string()).unwrap();
    let cosigned = format!("{}{lines}", first.checkpoint);
    assert!(witness.key().time_on(&cosigned).unwrap().is_some());
    let size = witness.seen()[0].size;
    story.grow(300);
    // It remembers across a restart, and demands what it has seen.
    drop(witness);
    let witness = story.witness();
    let stale = witness.add_checkpoint(&story.request(0).to_string());
    assert!(matches!(stale, Err(WitnessRefusal::Conflict { size: s, forked: false }) if s == size));
    let next = story.request(size);
    assert_eq!(status(witness.add_checkpoint(&next.to_string())), 200);
    assert!(witness.seen()[0].size > size);
    // The same once more is cosigned at the new time.
    let again = story.request(witness.seen()[0].size);
    assert_eq!(status(witness.add_checkpoint(&again.to_string())), 200);
}

#[test]
fn every_refusal_has_the_status_of_the_specification() {
    let mut story = Story::new();
    let witness = story.witness();
    let good = story.request(0);
    assert_eq!(status(witness.add_checkpoint("old 0\n")), 400);
    let larger = AddCheckpoint {
        old: 1_000_000,
        ..good.clone()
    };
    assert_eq!(status(witness.add_checkpoint(&larger.to_string())), 400);
    let unknown = open_log(&tempfile::tempdir().unwrap());
    let foreign = good.checkpoint.replace("palisade/acme.test", "other/log");
    let of_another = AddCheckpoint {
        checkpoint: foreign,
        ..good.clone()
    };
    assert_eq!(status(witness.add_checkpoint(&of_another.to_string())), 404);
    // The right name under a key of somebody else.
    let forged = AddCheckpoint {
        checkpoint: unknown.checkpoint().note,
        ..good.clone()
    };
    assert_eq!(status(witness.add_checkpoint(&forged.to_string())), 403);
    assert_eq!(status(witness.add_checkpoint(&good.to_string())), 200);
    story.grow(20);
    let mut broken = story.request(witness.seen()[0].size);
    broken.proof[0][0] ^= 1;
    assert_eq!(status(witness.add_checkpoint(&broken.to_string())), 422);
    assert_eq!(status(witness.add_checkpoint(&good.to_string())), 409);
}

#[test]
fn two_roots_for_one_size_are_never_both_cosigned_and_the_proof_is_kept() {
    let story = Story::new();
    let witness = story.witness();
    let request = story.request(0);
    assert_eq!(status(witness.add_checkpoint(&request.to_string())), 200);
    let size = witness.seen()[0].size;
    let path = story.log_dir.path().join("checkpoint.key");
    let signer = Signer::load(&path, "palisade/acme.test", false).unwrap();
    let fork =
        crate::checkpoint::Checkpoint::sign(&signer, size, [9; 32], Clock::system().now()).unwrap();
    let seen_forked = |old| {
        let (checkpoint, proof) = (fork.note.clone(), Vec::new());
        let fork = AddCheckpoint {
            old,
            proof,
            checkpoint,
        };
        let refused = witness.add_checkpoint(&fork.to_string());
        matches!(refused, Err(WitnessRefusal::Conflict { size: s, forked: true }) if s == size)
    };
    assert!(!witness.seen()[0].forked);
    // Also where the sender begins elsewhere: the two notes are proof all the same.
    assert!(seen_forked(0));
    assert!(witness.seen()[0].forked);
    assert!(seen_forked(size));
    let seen = &witness.seen()[0];
    assert!(seen.forked && seen.size == size);
}

/// One note alone is no proof of two histories, whatever it says of a tree without records.
#[test]
fn a_first_checkpoint_accuses_nobody() {
    let story = Story::new();
    let witness = story.witness();
    let path = story.log_dir.path().join("checkpoint.key");
    let signer = Signer::load(&path, "palisade/acme.test", false).unwrap();
    let odd =
        crate::checkpoint::Checkpoint::sign(&signer, 0, [9; 32], Clock::system().now()).unwrap();
    let odd = AddCheckpoint {
        old: 0,
        proof: Vec::new(),
        checkpoint: odd.note,
    };
    assert_ne!(status(witness.add_checkpoint(&odd.to_string())), 200);
    assert!(!witness.seen()[0].forked);
}

#[test]
fn a_damaged_memory_cosigns_nothing() {
    let story = Story::new();
    let witness = story.witness();
    let request = story.request(0).to_string();
    assert_eq!(status(witness.add_checkpoint(&request)), 200);
    let file = witness.file("palisade/acme.test", "checkpoint");
    fs::write(&file, "nonsense").unwrap();
    assert_eq!(status(witness.add_checkpoint(&request)), 500);
}
