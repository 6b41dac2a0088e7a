//! One source or two, and what becomes of them.

use std::collections::BTreeSet;

use super::{super::parts::Parts, *};

#[tokio::test]
async fn an_edit_becomes_a_revision_and_a_broken_one_keeps_the_good() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let records = Records::default();
    let source = open(dir.path(), state.path(), &records).await;
    let mut seen = source.state();
    assert_eq!(sequence(&seen.borrow()), 1);
    let task = tokio::spawn(source.run());

    sample::write(
        dir.path(),
        "policies/x.cedar",
        &format!("@id(\"x\")\n{PERMIT}"),
    );
    until(&mut seen, "second revision", |s| sequence(s) == 2).await;

    sample::write(dir.path(), "policies/x.cedar", "@id(\"x\")\npermit (");
    let broken = until(&mut seen, "rejection", |s| s.rejected.is_some()).await;
    assert_eq!(sequence(&broken), 2);
    assert!(broken.rejected.unwrap().diagnostics[0].location.is_some());

    // Editors replace files by renaming.
    sample::write(
        dir.path(),
        "policies/draft",
        &format!("@id(\"y\")\n{PERMIT}"),
    );
    fs::rename(
        dir.path().join("policies/draft"),
        dir.path().join("policies/x.cedar"),
    )
    .unwrap();
    let mended = until(&mut seen, "third revision", |s| sequence(s) == 3).await;
    assert!(mended.rejected.is_none());
    task.abort();

    let changes = records.changes();
    let verbs: Vec<_> = changes.iter().map(|c| c.verb.as_str()).collect();
    assert_eq!(verbs, ["activated", "activated", "rejected", "activated"]);
    assert_eq!(changes[0].added.len(), 8);
    assert_eq!(changes[1].added, ["x"]);
    assert!(changes[2].detail.contains("PLS1100"));
    assert_eq!(
        (&changes[3].added, &changes[3].removed),
        (&vec!["y".to_owned()], &vec!["x".to_owned()])
    );
    let after = changes[3].after.as_ref().unwrap();
    assert_eq!(after.policy_sequence, 3);
}

#[tokio::test]
async fn going_back_to_the_content_in_force_takes_no_number() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let records = Records::default();
    let source = open(dir.path(), state.path(), &records).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    sample::write(dir.path(), "policies/x.cedar", "permit (");
    until(&mut seen, "rejection", |s| s.rejected.is_some()).await;
    fs::remove_file(dir.path().join("policies/x.cedar")).unwrap();
    let mended = until(&mut seen, "mended", |s| s.rejected.is_none()).await;
    assert_eq!(sequence(&mended), 1);
    task.abort();
}

#[tokio::test]
async fn numbers_survive_a_restart_and_a_broken_folder_serves_the_last_good() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let records = Records::default();
    let first = open(dir.path(), state.path(), &records).await;
    let digest = first.state().borrow().current.as_ref().unwrap().digest();
    drop(first);

    let same = open(dir.path(), state.path(), &records).await;
    assert_eq!(sequence(&same.state().borrow()), 1);
    drop(same);

    sample::write(dir.path(), "policies/x.cedar", "permit (");
    let broken = open(dir.path(), state.path(), &records).await;
    let seen = broken.state().borrow().clone();
    assert_eq!(seen.current.unwrap().digest(), digest);
    assert!(seen.rejected.is_some());
    drop(broken);

    sample::write(
        dir.path(),
        "policies/x.cedar",
        &format!("@id(\"x\")\n{PERMIT}"),
    );
    let mended = open(dir.path(), state.path(), &records).await;
    assert_eq!(sequence(&mended.state().borrow()), 2);
}

#[tokio::test]
async fn a_broken_folder_without_a_past_serves_nothing_and_says_why() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = open(dir.path(), state.path(), &Records::default()).await;
    let mut seen = source.state();
    assert!(seen.borrow().current.is_none() && seen.borrow().rejected.is_some());
    let task = tokio::spawn(source.run());
    sample::write(dir.path(), "palisade.yaml", "trust_domain: demo.test\n");
    until(&mut seen, "first revision", |s| sequence(s) == 1).await;
    task.abort();
}

#[tokio::test]
async fn damaged_state_and_an_absent_folder_are_refused_by_name() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let records = Records::default();
    drop(open(dir.path(), state.path(), &records).await);
    let kept = state.path().join("revision.pb");
    let mut bytes = fs::read(&kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let clock = Clock::system();
    let opened = Source::open(
        config(dir.path(), state.path()),
        clock.clone(),
        records.recorder(),
    );
    let error = opened.await.unwrap_err();
    assert!(matches!(
        error.diagnostic().code.0,
        BUNDLE_BROKEN | codes::DIGEST | codes::STATE_DIR
    ));
    let nowhere = dir.path().join("nowhere");
    let state = tempfile::tempdir().unwrap();
    let opened = Source::open(config(&nowhere, state.path()), clock, records.recorder());
    assert_eq!(opened.await.unwrap_err().diagnostic().code.0, codes::WATCH);
}

/// What a source was followed by before is not heard any more, though it spoke in time.
#[tokio::test]
async fn a_word_from_another_place_than_the_one_listed_is_not_heard() {
    let (guard, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let settings = guard.path().join("palisade.yaml");
    let before = fs::read_to_string(&settings).unwrap();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, group) in [(&one, "desk.one"), (&other, "desk.other")] {
        let groups = format!("groups:\n  {group}: {{ services: [shop/web] }}\n");
        sample::write(dir.path(), "entities/groups.yaml", &groups);
    }
    let list = |place: &Path| {
        let desk = format!(
            "desk: {{ namespaces: [desk], folder: {} }}",
            place.display()
        );
        fs::write(
            &settings,
            format!("{}\nsources:\n  {desk}\n", before.trim_end()),
        )
        .unwrap();
    };
    list(one.path());
    let (sender, mut words) = mpsc::channel(8);
    let config = config(guard.path(), state.path());
    let mut parts = Parts::new(config, sender, Clock::system()).unwrap();
    let mut heard_of = async |name: &str| {
        let word = async {
            loop {
                let word = words.recv().await.unwrap();
                if word.name == name && matches!(word.given, Ok(Some(_))) {
                    return word;
                }
            }
        };
        tokio::time::timeout(PATIENCE, word).await.unwrap()
    };
    let wanted = |parts: &Parts| {
        let standings = parts.standings();
        let desk = standings.iter().find(|s| s.name == "desk");
        desk.map(|s| s.wanted.clone()).unwrap()
    };
    parts.hear(heard_of("").await);
    parts.follow();
    let late = heard_of("desk").await;
    list(other.path());
    parts.hear(heard_of("").await);
    parts.take(&parts.pending(), &BTreeSet::new(), 1);
    parts.follow();

    parts.hear(late);
    assert_eq!(wanted(&parts), "");
    let now = heard_of("desk").await;
    let of_now = now.wanted.clone().unwrap();
    parts.hear(now);
    assert_eq!(wanted(&parts), of_now);
}

/// What a source has new of its old place is no part of a revision that lists another.
#[tokio::test]
async fn a_source_that_moves_takes_nothing_new_of_its_old_place_along() {
    let (guard, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let settings = guard.path().join("palisade.yaml");
    let before = fs::read_to_string(&settings).unwrap();
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let groups = |dir: &Path, group: &str| {
        let groups = format!("groups:\n  {group}: {{ services: [shop/web] }}\n");
        sample::write(dir, "entities/groups.yaml", &groups);
    };
    groups(old.path(), "desk.one");
    groups(new.path(), "desk.new");
    let list = |place: &Path, namespaces: &str| {
        let place = place.display();
        let desk = format!("desk: {{ namespaces: {namespaces}, folder: {place} }}");
        let text = format!("{}\nsources:\n  {desk}\n", before.trim_end());
        fs::write(&settings, text).unwrap();
    };
    list(old.path(), "[desk]");
    let source = Source::open(
        config(guard.path(), state.path()),
        Clock::system(),
        Records::default().recorder(),
    )
    .await
    .unwrap();
    let mut seen = source.state();
    let mut standings = source.standings();
    let text_of = |state: &State| {
        let current = state.current.as_ref().unwrap();
        let texts = crate::author::Texts::of_compiled(&current.compiled).unwrap();
        let file = texts.files.iter().find(|f| f.path.starts_with("desk/"));
        file.map(|f| f.text.clone()).unwrap()
    };
    assert!(text_of(&seen.borrow()).contains("desk.one"));
    let task = tokio::spawn(source.run());
    // It says more than it may, until the repository lets it, and lists another place.
    groups(old.path(), "other.two");
    until(&mut standings, "a source that says too much", |s| {
        s.iter().any(|s| s.name == "desk" && s.refused.is_some())
    })
    .await;
    list(&new.path().join("away"), "[desk, other]");
    let moved = |s: &State| sequence(s) > 1;
    let state = until(&mut seen, "the other place", moved).await;
    let text = text_of(&state);
    assert!(
        text.contains("desk.one") && !text.contains("other.two"),
        "{text}"
    );
    task.abort();
}
