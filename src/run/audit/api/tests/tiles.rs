//! The routes of the tile log.

use super::*;

/// What the routes of the tile log give is enough to prove a record to whoever has nothing
/// else but the log's key.
#[tokio::test]
async fn tiles_checkpoint_and_entries_prove_each_other() {
    use palisade_audit::merkle;
    let service = Service::ready().await;
    let office = service.office();
    let note = service.get(&office, AUDITOR, "/checkpoint").await;
    let key = service.role.log.verifier();
    let signed = palisade_audit::checkpoint::Checkpoint::open(key, note.text()).unwrap();
    let size = usize::try_from(signed.size).unwrap();
    assert!((1..256).contains(&size), "one tile: {size}");
    let of = |kind: &str| format!("/tile/{kind}/000.p/{size}");
    let hashes = service.get(&office, AUDITOR, &of("0")).await.body.unwrap();
    let (hashes, rest) = hashes.as_chunks::<32>();
    assert!(rest.is_empty());
    assert_eq!(palisade_mesh::merkle::root(hashes), signed.root);
    let entries = service
        .get(&office, AUDITOR, &of("entries"))
        .await
        .body
        .unwrap();
    let mut left = &entries[..];
    for hash in hashes {
        let (len, rest) = left.split_at(2);
        let (leaf, rest) = rest.split_at(usize::from(u16::from_be_bytes([len[0], len[1]])));
        assert_eq!(merkle::leaf(leaf), *hash);
        left = rest;
    }
    assert!(left.is_empty());
    let beyond = service.role.log.len() + 50;
    for none in [
        "/tile/1/000",
        "/tile/0/001",
        "/tile/entries/001",
        &format!("/tile/0/000.p/{beyond}"),
    ] {
        let reply = service.ask(&office, Some(AUDITOR), "GET", none).await;
        reply.is_problem(404, "PLS7915");
    }
    for none in ["/tile/0/0", "/tile/0/000.p/0", "/tile/entries/000.p/0"] {
        let reply = service.ask(&office, Some(READER), "GET", none).await;
        reply.is_problem(400, "PLS7908");
    }
    // A proof stands for itself.
    let at = format!("/v1/audit/records/{}/proof", service.ids[0]);
    let proven = service.get(&office, ORDERS, &at).await.json();
    let proof = palisade_audit::proof::Proof::parse(proven["proof"].as_str().unwrap()).unwrap();
    use base64::Engine as _;
    let record = proven["record"].as_str().unwrap();
    let mut record = base64::engine::general_purpose::STANDARD
        .decode(record)
        .unwrap();
    proof.verify(&record, key).unwrap();
    record[20] ^= 1;
    proof.verify(&record, key).unwrap_err();
}
