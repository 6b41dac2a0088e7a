//! What waits and what is taken, and targets that hang, lie or are not there.

use std::{fs, os::unix::fs::PermissionsExt as _};

use aws_lc_rs::hmac;
use palisade_audit::{
    local::LocalSink,
    log::{Log, LogOptions},
};
use palisade_mesh::spiffe_id::TrustDomain;

use super::{
    target::{execute, secret, signature},
    *,
};

/// The example of RFC 4231, section 4.3, through our form of it.
#[test]
fn messages_are_signed_with_their_time() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
    let said = signature(&key, 1, "{}");
    let tag = hmac::sign(&key, b"1.{}");
    assert_eq!(said, format!("t=1,v1={}", render::hex(tag.as_ref())));
    let known = hmac::sign(&key, b"what do ya want for nothing?");
    let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(render::hex(known.as_ref()), expected);
}

fn target(name: &str, argv: &[&str]) -> DeliverSection {
    DeliverSection {
        name: name.into(),
        webhook: None,
        secret: None,
        ca: None,
        exec: Some(argv.iter().map(|a| (*a).to_owned()).collect()),
        timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn what_is_not_taken_waits_across_a_restart_and_is_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
    let open = |argv: &[&str]| {
        let mut lost = Vec::new();
        let outbox = Outbox::open(&[target("a", argv)], file.clone(), &clock, &mut lost);
        assert!(lost.is_empty(), "{lost:?}");
        outbox
    };
    let outbox = open(&["/bin/false"]);
    let body = serde_json::json!({ "kind": "alert" });
    let to = ["a".to_owned(), "gone".to_owned()];
    for _ in 0..2 {
        assert_eq!(outbox.put("1", &to, &body).unwrap(), []);
    }
    assert_eq!(outbox.waiting()["a"].0, 1);
    let answer = outbox.bring("1", "a", &body).await;
    assert!(answer.clone().unwrap_err().contains("exit status: 1"));
    let parcel = outbox.0.state().waiting[0].clone();
    assert_eq!(outbox.settle(&parcel, answer), None);
    drop(outbox);

    let out = dir.path().join("got");
    let script = format!("cat > {}", out.display());
    let outbox = open(&["/bin/sh", "-c", &script]);
    assert!(outbox.waiting()["a"].1.is_some());
    let parcel = outbox.0.state().waiting[0].clone();
    let answer = outbox.bring(&parcel.id, &parcel.to, &parcel.body).await;
    assert_eq!(outbox.settle(&parcel, answer), None);
    assert_eq!(fs::read_to_string(&out).unwrap(), body.to_string());
    assert!(outbox.waiting().is_empty());
    outbox.put("1", &to, &body).unwrap();
    assert!(
        outbox.waiting().is_empty(),
        "the same message a second time"
    );
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_and_what_finds_no_room_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
    let mut slow = target("a", &["/bin/sleep", "60"]);
    slow.timeout = Duration::from_millis(50);
    let outbox = Outbox::open(&[slow], file, &clock, &mut Vec::new());
    let (to, body) = (["a".to_owned()], serde_json::json!({}));
    assert!(
        outbox
            .bring("x", "a", &body)
            .await
            .unwrap_err()
            .contains("longer than")
    );
    {
        let mut state = outbox.0.state();
        let parcel = |n: usize| Parcel {
            id: n.to_string(),
            to: "a".into(),
            body: body.clone(),
            since_us: 0,
            next_us: 0,
            tries: 0,
            fault: None,
        };
        state.waiting = (0..WAITING_MAX - 1).map(parcel).collect();
    }
    assert_eq!(outbox.put("new", &to, &body).unwrap(), []);
    let lost = outbox.put("newer", &to, &body).unwrap();
    assert_eq!(lost, [("a".to_owned(), "0".to_owned())]);
    // After a day it is given up.
    let old = outbox.0.state().waiting[0].clone();
    assert!(outbox.settle(&old, Err("no".into())).is_some());
}

#[test]
fn a_secret_is_long_enough_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let x15 = "x".repeat(15);
    for (text, good) in [
        (x15.clone(), false),
        (x15.clone() + "\n", false),
        (x15.clone() + "x\n", true),
        (x15.clone() + "x\r\n", true),
        // A blank is part of it.
        (x15 + " \n", true),
    ] {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(secret(&file).is_ok(), good);
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let why = secret(&file).unwrap_err().cause.unwrap();
    assert!(why.contains("everybody"), "{why}");
}

/// Neither a file that is damaged nor a secret that is not there keeps the log from
/// starting; both are told.
#[tokio::test]
async fn what_cannot_be_read_is_put_aside_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, file) = (Clock::system(), dir.path().join("outbox.json"));
    fs::write(&file, b"{\"waiting\": [").unwrap();
    let mut hook = target("hook", &[]);
    hook.exec = None;
    hook.webhook = Some("https://hooks.acme.test/".into());
    hook.secret = Some(dir.path().join("nowhere"));
    let mut lost = Vec::new();
    let outbox = Outbox::open(&[hook], file.clone(), &clock, &mut lost);
    assert!(lost[0].fact().is_some() && dir.path().join("outbox.json.bad").exists());
    let facts = outbox.check();
    assert_eq!(facts.len(), 1, "{facts:?}");
    let brought = outbox.bring("1", "hook", &serde_json::json!({})).await;
    assert!(brought.unwrap_err().contains("nowhere"));

    // What waits for a target that is gone is lost, and nothing else is.
    let body = serde_json::json!({});
    outbox.put("1", &["hook".to_owned()], &body).unwrap();
    drop(outbox);
    let mut lost = Vec::new();
    let outbox = Outbox::open(&[], file, &clock, &mut lost);
    assert_eq!(lost[0].verb, UNDELIVERED);
    assert_eq!(lost[0].object, "hook 1");
    assert!(lost[0].fact().is_none() && outbox.waiting().is_empty());
}

/// A clock that was ahead neither holds a message back nor gives it up.
#[tokio::test]
async fn times_of_a_clock_that_was_ahead_hold_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(jiff::Timestamp::from_second(2_000_000_000).unwrap());
    let file = dir.path().join("outbox.json");
    let outbox = Outbox::open(
        &[target("a", &["/bin/false"])],
        file,
        &clock,
        &mut Vec::new(),
    );
    let (to, body) = (["a".to_owned()], serde_json::json!({}));
    outbox.put("1", &to, &body).unwrap();
    clock.set_back(Duration::from_secs(1_000_000));
    let parcel = outbox.due("a").unwrap();
    assert_eq!(outbox.settle(&parcel, Err("no".into())), None);
    assert!(outbox.due("a").is_none(), "a pause as ever");
    clock.advance(Duration::from_secs(2));
    assert_eq!(outbox.due("a").unwrap().since_us, 1_999_000_000_000_000);
}

/// Whoever asks how the service stands hears of a target that has taken nothing for a minute.
#[tokio::test]
async fn a_target_that_is_late_is_told_of_after_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(jiff::Timestamp::from_second(2_000_000_000).unwrap());
    let file = dir.path().join("outbox.json");
    let targets = [
        target("late", &["/bin/false"]),
        target("quick", &["/bin/true"]),
    ];
    let outbox = Outbox::open(&targets, file, &clock, &mut Vec::new());
    let to = ["late".to_owned(), "quick".to_owned()];
    outbox.put("1", &to, &serde_json::json!({})).unwrap();
    for name in ["late", "quick"] {
        let parcel = outbox.due(name).unwrap();
        let answer = outbox.bring(&parcel.id, name, &parcel.body).await;
        assert_eq!(outbox.settle(&parcel, answer), None);
    }
    clock.advance(Duration::from_micros(LATE_US.try_into().unwrap()));
    assert!(outbox.check().is_empty(), "a minute, and no more");
    clock.advance(Duration::from_micros(1));
    let told = outbox.check();
    assert_eq!(told.len(), 1, "{told:?}");
    let told = serde_json::to_value(&told[0]).unwrap().to_string();
    for word in ["7933", "1 message waits for `late`", "exit status: 1"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

/// What a program started ends with it, when it is not waited for any longer.
#[tokio::test]
async fn a_program_is_ended_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
    let argv = ["/bin/sh", "-c", &script].map(str::to_owned);
    let body = serde_json::json!({});
    let mut running = Box::pin(execute(&argv, &body));
    let started = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let tick = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                ended = &mut running => panic!("it has ended: {ended:?}"),
                () = tick => {}
            }
            let read = fs::read_to_string(&pid).unwrap_or_default();
            if let Some(pid) = read.strip_suffix('\n') {
                return pid.to_owned();
            }
        }
    });
    let started = started.await.unwrap();
    drop(running);
    let stat = format!("/proc/{started}/stat");
    let gone = tokio::time::timeout(Duration::from_secs(20), async {
        // What nobody waits for stays as a zombie, where nobody adopts it.
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    gone.await.unwrap();
}

/// One target that hangs holds up no other.
#[tokio::test]
async fn a_target_that_hangs_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("got");
    let script = format!("cat >> {}; echo >> {}", out.display(), out.display());
    let mut sections = [
        target("hangs", &["/bin/sleep", "600"]),
        target("takes", &["/bin/sh", "-c", &script]),
    ];
    sections.iter_mut().for_each(|s| s.timeout *= 60);
    let (file, clock) = (dir.path().join("outbox.json"), Clock::system());
    let outbox = Outbox::open(&sections, file, &clock, &mut Vec::new());
    let domain = TrustDomain::parse("acme.test").unwrap();
    let options = LogOptions::new(domain.clone());
    let log = Log::open(&dir.path().join("log"), options, clock.clone()).unwrap();
    let us = domain.role("audit");
    let sink = LocalSink::new(log, us.clone(), clock.clone());
    let reads = Reads::new(sink, us, false, clock);
    let delivering = tokio::spawn(outbox.clone().run(reads, "us".into()));
    let taken = tokio::time::timeout(Duration::from_secs(60), async {
        for n in 1..=2 {
            let body = serde_json::json!({});
            outbox.put(&n.to_string(), &outbox.names(), &body).unwrap();
            let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
            while lines() < n {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    taken.await.unwrap();
    delivering.abort();
}

/// The status says whether a message is taken, however much is answered.
#[tokio::test]
async fn a_long_answer_is_an_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = io::Read::read(&mut stream, &mut request);
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        let _ = io::Write::write_all(&mut stream, head);
        let _ = io::Write::write_all(&mut stream, &vec![b'x'; 1_000_000]);
    });
    let mut hook = target("hook", &[]);
    (hook.exec, hook.webhook) = (None, Some(url));
    let body = serde_json::json!({});
    assert_eq!(Target::new(&hook).take("1", &body, 0).await, Ok(()));
}
