//! A PDP that says what it is told to say.

use super::*;

/// Attack T104: damaged, older and forged revisions are refused by name; numbers
/// and endpoint versions only grow.
#[tokio::test]
async fn a_subscription_takes_only_what_is_whole_and_newer() {
    use palisade_mesh::wire::policy::proxy_message::Kind;
    let script = vec![
        endpoints(9),
        revision(5, "a", "a"),
        revision(6, "b", "other"),
        revision(4, "c", "c"),
        revision(5, "d", "d"),
        revision(5, "a", "a"),
        endpoints(8),
        revision(7, "a", "a"),
    ];
    let (sender, mut heard) = mpsc::channel(64);
    let scripted = Scripted(Mutex::new(Some(script)), sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(server::DistributionServer::new(scripted))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let task = tokio::spawn(serving).abort_handle();
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(connect(address), state.path(), &[], false);
    let mut answers = Vec::new();
    while answers.len() < 6 {
        let message = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap();
        match message.unwrap().kind.unwrap() {
            Kind::Ack(ack) => answers.push(format!("ack {}", ack.sequence)),
            Kind::Nack(nack) => answers.push(format!("nack {} {}", nack.sequence, nack.code)),
            _ => {}
        }
    }
    assert_eq!(
        answers,
        [
            "ack 5",
            "nack 6 PLS3003",
            "nack 4 PLS3004",
            "nack 5 PLS3004",
            "ack 5",
            "ack 7"
        ]
    );
    assert_eq!(*proxy.applied.lock().unwrap(), [5, 7]);
    until(&mut proxy.seen.state, "in force", |s| s.sequence == 7).await;
    assert_eq!(proxy.seen.endpoints.borrow().version, 9);
    task.abort();
}
