//! From a real authority over a relay to a proxy's side, and what happens to lists
//! that are old, forged or kept from before.

use palisade_ca::{
    Ca, CaConfig,
    server::{KillOrder, SIGNED_EVERY_S},
};
use palisade_mesh::{
    kill::Target,
    personal::Mask,
    sink::{Durable, RecordStream, SinkError},
    wire::record::Record,
};
use tokio_stream::wrappers::UnixListenerStream;

use super::*;
use crate::net::uds;

/// Keeps nothing: what is recorded is tested where it is recorded.
struct Forgetful;

impl RecordStream for Forgetful {
    fn append_masked(&mut self, _: &Record, _: &Mask) -> Result<(), SinkError> {
        Ok(())
    }

    fn flush(&mut self) {}

    fn durable(&mut self) -> Durable {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("acme.test").unwrap()
}

async fn authority(dir: &Path, clock: &Clock) -> Arc<Ca> {
    let config = CaConfig::new(domain(), dir.to_path_buf());
    Ca::start(config, clock.clone(), Box::new(Forgetful))
        .await
        .unwrap()
}

fn holder(ca: &Ca, clock: &Clock, file: Option<PathBuf>) -> Arc<Holder> {
    let trust = ca.trust();
    let bundle = move || trust.borrow().bundle.clone();
    Holder::new(&domain(), bundle, clock.clone(), file)
}

async fn bar(ca: &Ca, name: &str) {
    let order = KillOrder {
        target: Target::Identity(domain().id(name).unwrap()),
        reason: "test".into(),
        author: "uid:0".into(),
        expires_us: None,
    };
    ca.kill(order).await.unwrap();
}

async fn newest(ca: &Ca) -> SignedKillList {
    let mut lists = ca.kill_list();
    let list = lists.wait_for(Option::is_some).await.unwrap();
    (**list.as_ref().unwrap()).clone()
}

async fn until(holder: &Holder, holds: impl FnMut(&Held) -> bool) {
    let mut held = holder.held();
    let waited = tokio::time::timeout(Duration::from_secs(10), held.wait_for(holds));
    waited.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_entry_reaches_the_far_end_over_a_relay() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let ca = authority(&dir.path().join("ca"), &clock).await;
    let relay = holder(&ca, &clock, None);
    tokio::spawn(relay.clone().follow_local(ca.kill_list()));
    let socket = dir.path().join("kill.sock");
    let incoming = UnixListenerStream::new(uds::listen(&socket).await.unwrap());
    let server = tonic::transport::Server::builder().add_service(service(relay.signed()));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));

    let far = holder(&ca, &clock, None);
    let following = far.clone();
    tokio::spawn(async move { following.follow(move || uds::channel(&socket)).await });
    bar(&ca, "web").await;
    until(&far, |held| held.list.entries().len() == 1).await;
    bar(&ca, "cart").await;
    until(&far, |held| held.list.sequence() == 2).await;
    serving.abort();
}

#[tokio::test]
async fn an_older_list_and_a_forged_one_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let ca = authority(&dir.path().join("ca"), &clock).await;
    let before = newest(&ca).await;
    bar(&ca, "web").await;
    let holder = holder(&ca, &clock, None);
    assert!(holder.take(newest(&ca).await).unwrap());
    assert!(!holder.take(newest(&ca).await).unwrap(), "the same again");
    let older = holder.take(before).unwrap_err();
    let told = KillListError::Older {
        offered: 0,
        held: 1,
    };
    assert_eq!(older.to_string(), told.to_string());

    let elsewhere = authority(&dir.path().join("elsewhere"), &clock).await;
    for name in ["a", "b", "c"] {
        bar(&elsewhere, name).await;
    }
    let forged = holder.take(newest(&elsewhere).await).unwrap_err();
    assert!(matches!(forged, KillListError::Chain(_)), "{forged}");
    assert_eq!(holder.held().borrow().list.sequence(), 1);
}

/// Nobody is let in again by restarting a proxy while the mesh is away.
#[tokio::test]
async fn a_kept_list_holds_after_a_restart_and_does_not_pass_for_heard() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let ca = authority(&dir.path().join("ca"), &clock).await;
    bar(&ca, "web").await;
    let file = dir.path().join("kill-list");
    holder(&ca, &clock, Some(file.clone()))
        .take(newest(&ca).await)
        .unwrap();

    let again = holder(&ca, &clock, Some(file.clone()));
    let held = again.held().borrow().clone();
    assert_eq!((held.list.entries().len(), held.heard), (1, false));
    assert!(again.take(newest(&ca).await).unwrap());
    assert!(again.held().borrow().heard);

    std::fs::write(&file, b"torn").unwrap();
    let torn = holder(&ca, &clock, Some(file));
    assert_eq!(torn.held().borrow().list.sequence(), 0);
}

/// The signature of a list that is withheld ends with its signer's certificate.
#[tokio::test]
async fn a_list_is_believed_while_its_signer_may_sign() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(jiff::Timestamp::now());
    let ca = authority(&dir.path().join("ca"), &clock).await;
    let (holder, list) = (holder(&ca, &clock, None), newest(&ca).await);
    clock.advance(Duration::from_secs(SIGNED_EVERY_S.unsigned_abs()));
    assert!(holder.take(list.clone()).is_ok());
    let signed_s = holder.age().unwrap().as_secs();
    assert_eq!(
        signed_s, 5,
        "as old as its signature, however late it comes"
    );
    clock.advance(Duration::from_secs(2 * 3600));
    let late = holder.take(list).unwrap_err();
    assert!(matches!(late, KillListError::Chain(_)), "{late}");
}
