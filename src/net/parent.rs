//! Ends a child process with its parent.

use std::io::Read;

use tokio::sync::oneshot;

/// Resolves when standard input closes, which is when the parent has gone; never,
/// when `follow` is false.
///
/// Reads on a thread of its own: the runtime would wait for one of its blocking
/// threads when the process ends for another reason.
pub async fn ended(follow: bool) {
    if !follow {
        return std::future::pending().await;
    }
    let (closed, wait) = oneshot::channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin();
        let mut buffer = [0; 64];
        while matches!(input.read(&mut buffer), Ok(n) if n > 0) {}
        let _ = closed.send(());
    });
    let _ = wait.await;
}
