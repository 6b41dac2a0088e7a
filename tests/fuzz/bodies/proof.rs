//! A proof that a record is in the log, and the record: the text of the proof, a zero byte,
//! the record. The key is fixed, as an auditor has it: that of the log which the first
//! inputs of the corpus are from. What proves anything is what that log has signed.

use palisade_audit::{
    note::Verifier,
    proof::{Proof, ProofFault},
};

/// The log that made the genuine ones of the corpus.
const KEY: &str = include_str!("../proof.pub");

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let _ = verified(bytes);
}

/// Whether the record is proven; the index and the size that it is proven for.
pub fn verified(bytes: &[u8]) -> Option<(u64, u64)> {
    let end = bytes.iter().position(|b| *b == 0)?;
    let (text, record) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let text = std::str::from_utf8(text).ok()?;
    let proof = Proof::parse(text).ok()?;
    // What is read is printed so that it reads the same.
    let again = Proof::parse(&proof.to_string()).expect("what is printed is a proof");
    assert_eq!(again, proof);
    let key = Verifier::parse(KEY).expect("it is a key");
    let outcome = proof.verify(record, &key);
    assert_eq!(again.verify(record, &key), outcome);
    let checkpoint = match outcome {
        Ok(checkpoint) => checkpoint,
        Err(ProofFault::Malformed { .. }) => panic!("it was read"),
        Err(_) => return None,
    };
    refuses_others(&proof, record, checkpoint.size, &key);
    Some((proof.index, checkpoint.size))
}

/// Of what is proven, nothing can be changed: neither record, place, way nor signature.
fn refuses_others(proof: &Proof, record: &[u8], size: u64, key: &Verifier) {
    assert!(proof.index < size);
    let longer = [record, &[0]].concat();
    assert!(proof.verify(&longer, key).is_err());
    if let Some((_, shorter)) = record.split_last() {
        assert!(proof.verify(shorter, key).is_err());
    }
    let mut moved = proof.clone();
    for index in [proof.index ^ 1, proof.index + 1, size, u64::MAX] {
        moved.index = index;
        assert!(moved.verify(record, key).is_err(), "{index}");
    }
    let mut way = proof.clone();
    way.hashes.push([0; 32]);
    assert!(way.verify(record, key).is_err());
    for at in 0..proof.hashes.len() {
        let mut way = proof.clone();
        way.hashes[at][at % 32] ^= 1;
        assert!(way.verify(record, key).is_err(), "hash {at}");
        way = proof.clone();
        way.hashes.remove(at);
        assert!(way.verify(record, key).is_err(), "without hash {at}");
    }
    let larger = proof
        .checkpoint
        .replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
    let mut signed = proof.clone();
    signed.checkpoint = larger;
    assert!(signed.verify(record, key).is_err());
}
