//! Sockets: at least one per worker and door, all on one address; what happens
//! when a connection arrives, or cannot.
//!
//! Sockets outlive the workers that accept on them: a reload hands them to the next
//! workers, an upgrade to the next process. The queue of a socket goes along, so no
//! connection notices.

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

/// The listeners of one worker: one of each kind, or more when workers became fewer.
#[derive(Debug, Default)]
pub(crate) struct Doors<L> {
    pub(crate) inbound: Vec<L>,
    pub(crate) outbound: Vec<L>,
}

/// Sockets that are listened on already, for whoever accepts on them next.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Of the inbound listener.
    pub inbound: Vec<StdListener>,
    /// Of the outbound listener.
    pub outbound: Vec<StdListener>,
    /// Of the admin listener.
    pub admin: Vec<StdListener>,
}

impl Sockets {
    /// The same sockets once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let all = |of: &[StdListener]| -> io::Result<Vec<_>> {
            of.iter().map(StdListener::try_clone).collect()
        };
        Ok(Self {
            inbound: all(&self.inbound)?,
            outbound: all(&self.outbound)?,
            admin: all(&self.admin)?,
        })
    }
}

impl Doors<StdListener> {
    /// Hands the listeners to the runtime of the calling thread.
    pub(crate) fn into_tokio(self) -> io::Result<Doors<TcpListener>> {
        Ok(Doors {
            inbound: into_tokio(self.inbound)?,
            outbound: into_tokio(self.outbound)?,
        })
    }
}

fn into_tokio(listeners: Vec<StdListener>) -> io::Result<Vec<TcpListener>> {
    listeners.into_iter().map(TcpListener::from_std).collect()
}

/// Those of `sockets` that listen where `address` says; port 0 is any port.
pub(crate) fn fitting(sockets: Vec<StdListener>, address: SocketAddr) -> Vec<StdListener> {
    let fits = |at: SocketAddr| at == address || (address.port() == 0 && at.ip() == address.ip());
    sockets
        .into_iter()
        .filter(|socket| socket.local_addr().is_ok_and(fits))
        .collect()
}

/// Deals listening sockets out to `workers`: each gets one at least, and none is
/// left out, for what waits in its queue would be reset.
pub(crate) fn deal(sockets: Vec<StdListener>, workers: usize) -> io::Result<Vec<Vec<StdListener>>> {
    let mut dealt: Vec<Vec<StdListener>> = Vec::new();
    dealt.resize_with(workers, Vec::new);
    for socket in &sockets {
        socket.set_nonblocking(true)?;
    }
    let more = workers.saturating_sub(sockets.len());
    let doubles = sockets.iter().cycle().take(more);
    let doubles = doubles
        .map(StdListener::try_clone)
        .collect::<io::Result<Vec<_>>>()?;
    for (index, socket) in sockets.into_iter().chain(doubles).enumerate() {
        if let Some(worker) = dealt.get_mut(index % workers.max(1)) {
            worker.push(socket);
        }
    }
    Ok(dealt)
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

    /// A socket that nobody accepts on would reset what waits in its queue.
    #[test]
    fn every_socket_finds_a_worker_and_every_worker_a_socket() {
        for (sockets, workers) in [(1, 1), (1, 3), (2, 3), (3, 2), (4, 1)] {
            let (address, open) = open("127.0.0.1:0".parse().unwrap(), sockets).unwrap();
            let open = fitting(open, address);
            assert_eq!(open.len(), sockets);
            let dealt = deal(open, workers).unwrap();
            assert_eq!(dealt.len(), workers);
            assert!(dealt.iter().all(|d| !d.is_empty()), "{dealt:?}");
            let all: usize = dealt.iter().map(Vec::len).sum();
            assert_eq!(all, sockets.max(workers));
        }
    }

    #[test]
    fn only_sockets_of_the_address_are_taken_over() {
        let any = || open("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let ((first, mut sockets), (_, other)) = (any(), any());
        sockets.extend(other);
        let copy = |s: &[StdListener]| s.iter().map(|s| s.try_clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(fitting(copy(&sockets), first).len(), 1);
        let port_0 = "127.0.0.1:0".parse().unwrap();
        assert_eq!(fitting(copy(&sockets), port_0).len(), 2);
        let elsewhere = "127.0.0.2:0".parse().unwrap();
        assert!(fitting(sockets, elsewhere).is_empty());
    }

    /// T95.
    #[test]
    fn running_out_of_descriptors_is_no_fault_of_the_connection() {
        assert!(!is_of_connection(&io::Error::from_raw_os_error(24)));
        assert!(is_of_connection(&io::ErrorKind::ConnectionAborted.into()));
    }
}
