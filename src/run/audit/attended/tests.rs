use std::sync::mpsc as channel;

use axum::body::to_bytes;
use http_body_util::BodyExt as _;
use palisade_mesh::clock::Clock;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::*;
use crate::config::Config;

const LIMIT: Duration = Duration::from_secs(60);

fn role(dir: &tempfile::TempDir) -> AuditRole {
    let text = "trust_domain: acme.test\naudit: { listen: \"127.0.0.1:0\" }\n";
    let mut config = Config::parse("mesh.yaml", text).unwrap();
    config.state_dir = dir.path().to_owned();
    let audit = config.audit.clone().unwrap();
    AuditRole::open(&config, &audit, &Clock::system()).unwrap()
}

/// Work that begins, hears that nobody waits, and goes on until it may end.
struct Stubborn {
    begun: channel::Receiver<()>,
    heard: channel::Receiver<()>,
    end: channel::Sender<()>,
}

/// The work, and the ends that a test holds.
fn stubborn() -> (impl FnOnce(&Going) + Send + 'static, Stubborn) {
    let (begin, begun) = channel::channel();
    let (hear, heard) = channel::channel();
    let (end, may_end) = channel::channel();
    let work = move |going: &Going| {
        begin.send(()).unwrap();
        while !going.has_ended() {
            std::thread::yield_now();
        }
        hear.send(()).unwrap();
        let _ = may_end.recv_timeout(LIMIT);
    };
    (work, Stubborn { begun, heard, end })
}

impl Stubborn {
    /// Waits for its begin, has `leave` leave it alone, and sees that the turn is given back when
    /// it has ended and not before.
    async fn left_by(self, turns: &Arc<Semaphore>, leave: impl FnOnce()) {
        let Self { begun, heard, end } = self;
        let waited = tokio::task::spawn_blocking(move || {
            begun.recv_timeout(LIMIT).unwrap();
            heard
        });
        let heard = waited.await.unwrap();
        leave();
        let heard = tokio::task::spawn_blocking(move || heard.recv_timeout(LIMIT));
        heard.await.unwrap().unwrap();
        assert_eq!(turns.available_permits(), 0);
        end.send(()).unwrap();
        timeout(LIMIT, turns.acquire())
            .await
            .unwrap()
            .unwrap()
            .forget();
    }
}

async fn turn(turns: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    turns.clone().acquire_owned().await.unwrap()
}

/// Whoever stops reading how far it is.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_ends_the_work_which_keeps_its_turn_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let (role, turns) = (role(&dir), Arc::new(Semaphore::new(1)));
    let (work, stubborn) = stubborn();
    let answer = told(&role, turn_of(&turns), |role| async move {
        let worked = move || work(role.store.going());
        tokio::task::spawn_blocking(worked).await.unwrap();
        Ok(Bytes::new())
    });
    stubborn.left_by(&turns, || drop(answer)).await;
}

/// A service that ends leaves no work behind that its end would wait for, though somebody reads on.
#[test]
fn the_end_of_the_service_ends_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (work, Stubborn { begun, heard, end }) = stubborn();
    let answer = runtime.block_on(async {
        let (role, turns) = (role(&dir), Arc::new(Semaphore::new(1)));
        told(&role, turn_of(&turns), |role| async move {
            let worked = move || work(role.store.going());
            tokio::task::spawn_blocking(worked).await.unwrap();
            Ok(Bytes::new())
        })
    });
    begun.recv_timeout(LIMIT).unwrap();
    let ending = std::thread::spawn(move || drop(runtime));
    heard.recv_timeout(LIMIT).unwrap();
    end.send(()).unwrap();
    ending.join().unwrap();
    drop(answer);
}

/// Whoever gives up waiting for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_ends_the_work_which_keeps_its_turn_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let (role, turns) = (role(&dir), Arc::new(Semaphore::new(1)));
    let (work, stubborn) = stubborn();
    let turn = turn(&turns).await;
    let waiting = tokio::spawn(async move {
        let work = |role: AuditRole| async move {
            let worked = move || work(role.store.going());
            tokio::task::spawn_blocking(worked).await.unwrap();
        };
        attended(&role, turn, work).await
    });
    stubborn.left_by(&turns, || waiting.abort()).await;
}

/// It waits for its turn and says so; then it says how far it is, and what came of it.
#[tokio::test]
async fn work_tells_what_it_waits_for_how_far_it_is_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (role, turns) = (role(&dir), Arc::new(Semaphore::new(1)));
    let other = turn(&turns).await;
    let mut answer = told(&role, turn_of(&turns), |role| async move {
        role.store.going().parts(2);
        role.store.going().part_done();
        tokio::time::sleep(2 * EVERY).await;
        Ok(Bytes::from_static(b"what\ncame of it"))
    });
    let first = timeout(LIMIT, answer.body_mut().frame()).await.unwrap();
    let first = first.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "\"waits\"\n");
    drop(other);
    let rest = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    let (lines, came) = rest.split_once("\"done\"\n").unwrap();
    assert_eq!(came, "what\ncame of it");
    assert!(
        lines.contains("{\"far\":{\"records\":0,\"done\":1000,\"all\":2000}}"),
        "{lines}"
    );
    let none = told(&role, turn_of(&turns), |_| async {
        Err(broken("the disk").into())
    });
    let none = to_bytes(none.into_body(), 1 << 20).await.unwrap();
    let last = none
        .split(|b| *b == b'\n')
        .rfind(|line| !line.is_empty())
        .unwrap();
    let WorkLine::Failed(problem) = serde_json::from_slice(last).unwrap() else {
        panic!("{none:?}");
    };
    assert_eq!(Diagnostic::from(*problem).code.0, 7204);
}
