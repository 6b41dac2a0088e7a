//! Sockets: one per worker and door, all on one address; what happens when a
//! connection arrives, or cannot.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{connection::Place, worker::Worker};

/// Connections the kernel holds for us until we accept them.
const BACKLOG: i32 = 1024;
/// Pause after the system ran out of something, at first and at most.
const BACK_OFF: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// The listeners of one worker.
#[derive(Debug, Default)]
pub(crate) struct Doors<L> {
    pub(crate) inbound: Option<L>,
    pub(crate) outbound: Option<L>,
}

impl Doors<StdListener> {
    /// Hands the listeners to the runtime of the calling thread.
    pub(crate) fn into_tokio(self) -> io::Result<Doors<TcpListener>> {
        Ok(Doors {
            inbound: self.inbound.map(TcpListener::from_std).transpose()?,
            outbound: self.outbound.map(TcpListener::from_std).transpose()?,
        })
    }
}

/// Opens one listener per worker on `address`; port 0 becomes the same free port
/// for all of them.
///
/// # Errors
/// When the address is taken or may not be used.
pub(crate) fn open(
    address: SocketAddr,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    // With SO_REUSEPORT a second proxy on the same port would silently take half
    // of the connections; one socket without it finds that out.
    let alone = bind(address, false)?;
    let bound = alone.local_addr()?;
    if workers == 1 {
        return Ok((bound, vec![alone]));
    }
    drop(alone);
    let listeners = (0..workers)
        .map(|_| bind(bound, true))
        .collect::<io::Result<_>>()?;
    Ok((bound, listeners))
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What serves a connection.
pub(crate) type Serve =
    dyn Fn(Rc<Worker>, TcpStream, SocketAddr, Place) -> Pin<Box<dyn Future<Output = ()>>>;

/// Accepts connections until the worker drains; then takes what is already in
/// the queue, for closing the socket would reset it.
pub(crate) async fn accept(worker: Rc<Worker>, listener: TcpListener, serve: Rc<Serve>) {
    let mut back_off = BACK_OFF;
    loop {
        let accepted = std::future::poll_fn(|cx| {
            worker.watch_drain(cx);
            match listener.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending if worker.is_draining() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, source))) => {
                back_off = BACK_OFF;
                admit(&worker, stream, source, &serve);
            }
            Some(Err(error)) if is_of_connection(&error) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "cannot accept connections");
                worker
                    .telemetry
                    .event("palisade_accept_errors_total", "system");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

/// Serves a connection, or closes it when there are too many: before any TLS,
/// which is what makes refusing cheap.
fn admit(worker: &Rc<Worker>, stream: TcpStream, source: SocketAddr, serve: &Rc<Serve>) {
    if worker.connections.open() >= worker.connections_max {
        worker
            .telemetry
            .event("palisade_connections_refused_total", "limit");
        return;
    }
    let _ = stream.set_nodelay(true);
    let place = worker.connections.enter();
    tokio::task::spawn_local(serve(worker.clone(), stream, source, place));
}

/// Whether an error of `accept` concerns that one connection only (T95: the
/// others, such as EMFILE, call for a pause).
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_noticed_although_ports_are_shared() {
        let (address, first) = open("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(first.len(), 2);
        let error = open(address, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(open(address, 2).is_ok());
    }

    /// T95.
    #[test]
    fn running_out_of_descriptors_is_no_fault_of_the_connection() {
        assert!(!is_of_connection(&io::Error::from_raw_os_error(24)));
        assert!(is_of_connection(&io::ErrorKind::ConnectionAborted.into()));
    }
}
