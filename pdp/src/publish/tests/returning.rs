//! Revisions that their signers let be taken back, on the proxy's side: with a stream.

use palisade_mesh::wire::policy::WayBack;

use super::{
    trust::{
        HOUR_US, Signers,
        streams::{answers, clock, message, play},
    },
    *,
};
use crate::bundle::statement;

/// `from`, which these let be taken back to `to` until a time.
fn with_way_back(
    signers: &Signers,
    by: &[usize],
    from: &Revision,
    to: &Revision,
    until_us: i64,
) -> Revision {
    let mut back = WayBack {
        sha256: to.sha256.clone(),
        sequence: to.sequence,
        until_us,
        signatures: Vec::new(),
    };
    let domain = palisade_mesh::spiffe_id::TrustDomain::parse("demo.test").unwrap();
    let digest = Digest::from_slice(&from.sha256).unwrap();
    let said = statement::way_back(&domain, digest, from.sequence, &back).unwrap();
    back.signatures = by.iter().map(|i| said.sign(&signers.keys[*i])).collect();
    Revision {
        way_back: Some(back),
        ..from.clone()
    }
}

/// What a proxy with nothing on its disk answers to these, one after the other.
async fn told(signers: &Signers, clock: &Clock, script: &[&Revision]) -> Vec<String> {
    let state = tempfile::tempdir().unwrap();
    told_in(signers, clock, script, state.path()).await
}

async fn told_in(
    signers: &Signers,
    clock: &Clock,
    script: &[&Revision],
    state: &Path,
) -> Vec<String> {
    let messages = script.iter().map(|r| message((*r).clone())).collect();
    let (_seen, mut heard, task) = play(messages, signers, state, clock).await;
    let said = answers(&mut heard, script.len()).await;
    task.abort();
    said
}

/// Attack T104: an older revision comes in only after the one that names it, and only it.
#[tokio::test]
async fn a_proxy_goes_back_to_what_its_revision_names_and_to_nothing_else() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let of = |by: &[usize], content: &str, n| signers.revision(by, content, n, now_us);
    let (two, one) = ([0, 1], [0]);
    let old = of(&two, "old", 5);
    let named =
        |by: &[usize], until_us| with_way_back(&signers, by, &of(&two, "new", 6), &old, until_us);
    let new = named(&two, now_us + HOUR_US);
    let check = async |script: &[&Revision], expected: &[&str]| {
        assert_eq!(told(&signers, &clock, script).await, expected);
    };
    // Back once; then neither forth to what was taken back nor further back.
    let older = of(&two, "older", 4);
    let old_with_way = with_way_back(&signers, &two, &old, &older, now_us + HOUR_US);
    let next = of(&two, "new", 7);
    check(
        &[&old, &new, &old, &old, &new, &older, &next],
        &[
            "ack 5",
            "ack 6",
            "ack 5",
            "ack 5",
            "nack 6 PLS3004",
            "nack 4 PLS3004",
            "ack 7",
        ],
    )
    .await;
    check(
        &[&new, &old_with_way, &older, &next],
        &["ack 6", "ack 5", "nack 4 PLS3004", "ack 7"],
    )
    .await;
    // Not named: another number, another content, or nothing at all is.
    let renumbered = of(&two, "old", 4);
    let other = of(&two, "other", 5);
    check(
        &[&new, &renumbered, &other, &old],
        &["ack 6", "nack 4 PLS3117", "nack 5 PLS3117", "ack 5"],
    )
    .await;
    check(&[&of(&two, "new", 6), &old], &["ack 6", "nack 5 PLS3004"]).await;
    // A proxy that never had it, or has gone on since.
    check(&[&next, &old], &["ack 7", "nack 5 PLS3004"]).await;
    check(&[&new, &next, &old], &["ack 6", "ack 7", "nack 5 PLS3004"]).await;
    // What it leads to must be signed itself.
    let unsigned = of(&one, "old", 5);
    check(&[&new, &unsigned], &["ack 6", "nack 5 PLS3102"]).await;
    // Given by too few it leads nowhere, and the revision is as good as without it.
    let mut bare = new.clone();
    bare.way_back.as_mut().unwrap().signatures.clear();
    for weak in [&named(&one, now_us + HOUR_US), &bare] {
        check(&[weak, &old, &next], &["ack 6", "nack 5 PLS3102", "ack 7"]).await;
    }
    // So does one that lasts longer than any may.
    let week_us = 7 * 24 * HOUR_US;
    let too_long = named(&two, now_us + week_us + 1);
    check(&[&too_long, &old], &["ack 6", "nack 5 PLS3117"]).await;
    check(&[&named(&two, now_us + week_us), &old], &["ack 6", "ack 5"]).await;
    // Made up, moved from another number, or stretched.
    let mut moved = of(&two, "new", 7);
    moved.way_back = new.way_back.clone();
    let mut stretched = new.clone();
    stretched.way_back.as_mut().unwrap().until_us += 1;
    check(
        &[&stretched, &moved, &new, &old],
        &["nack 6 PLS3101", "nack 7 PLS3101", "ack 6", "ack 5"],
    )
    .await;
    // Both sides of the time.
    check(&[&named(&two, now_us), &old], &["ack 6", "nack 5 PLS3117"]).await;
    check(&[&named(&two, now_us + 1), &old], &["ack 6", "ack 5"]).await;
}

/// What a proxy knows of the way there and back outlives it.
#[tokio::test]
async fn a_proxy_goes_back_over_restarts_and_stays_there() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let old = signers.revision(&[0, 1], "old", 5, now_us);
    let new = signers.revision(&[0, 1], "new", 6, now_us);
    let new = with_way_back(&signers, &[0, 1], &new, &old, now_us + HOUR_US);
    let next = signers.revision(&[0, 1], "new", 7, now_us);
    let state = tempfile::tempdir().unwrap();
    let word = state.path().join("word.pb");
    let tell = async |script: &[&Revision]| told_in(&signers, &clock, script, state.path()).await;
    assert_eq!(tell(&[&old, &new]).await, ["ack 5", "ack 6"]);
    let before = fs::read(&word).unwrap();
    assert_eq!(tell(&[&old]).await, ["ack 5"]);
    // Killed between the revision and the word about it: it goes back once more.
    let after = fs::read(&word).unwrap();
    fs::write(&word, before).unwrap();
    assert_eq!(tell(&[&old]).await, ["ack 5"]);
    fs::write(&word, after).unwrap();
    // It begins with what it went back to, and remembers what was taken back.
    let (mut seen, _heard, task) = play(Vec::new(), &signers, state.path(), &clock).await;
    until(&mut seen.state, "from disk", |s| s.sequence == 5).await;
    task.abort();
    assert_eq!(
        tell(&[&new, &old, &next]).await,
        ["nack 6 PLS3004", "ack 5", "ack 7"]
    );
}

/// A way back that has ended does not begin again because a clock is set back, also over a
/// restart.
#[tokio::test]
async fn a_clock_that_is_set_back_lets_no_proxy_back() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let old = signers.revision(&[0, 1], "old", 5, now_us);
    let new = signers.revision(&[0, 1], "new", 6, now_us);
    let quarter = Duration::from_secs(900);
    let until_us = now_us + i64::try_from(quarter.as_micros()).unwrap();
    let new = with_way_back(&signers, &[0, 1], &new, &old, until_us);
    for passes in [false, true] {
        let state = tempfile::tempdir().unwrap();
        let tell =
            async |script: &[&Revision]| told_in(&signers, &clock, script, state.path()).await;
        if passes {
            clock.set_ahead(quarter * 2);
        }
        assert_eq!(tell(&[&new]).await, ["ack 6"]);
        if passes {
            clock.set_back(quarter * 2);
        }
        let said = tell(&[&old]).await;
        assert_eq!(said, [["ack 5", "nack 5 PLS3117"][usize::from(passes)]]);
    }
}

/// The way back counts by the keys that are trusted when it is gone.
#[tokio::test]
async fn a_signer_who_was_removed_lets_nobody_back() {
    let (signers, clock) = (Signers::new(), clock());
    let now_us = clock.now_us();
    let old = signers.revision(&[0, 2], "old", 5, now_us);
    let new = signers.revision(&[0, 2], "new", 6, now_us);
    let new = with_way_back(&signers, &[0, 1], &new, &old, now_us + HOUR_US);
    let state = tempfile::tempdir().unwrap();
    assert_eq!(
        told_in(&signers, &clock, &[&new], state.path()).await,
        ["ack 6"]
    );
    signers.trust_without(&[1]);
    // What is on disk has a way back that too few have signed now.
    let said = told_in(&signers, &clock, &[&old], state.path()).await;
    assert_eq!(said, ["nack 5 PLS3102"]);
}
