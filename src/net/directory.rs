//! Where the other parts are: at an address that somebody wrote down, or wherever the
//! mesh's directory says at the moment.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use palisade_ca::{join::NodeRole, trust::DirectoryEntry};
use palisade_mesh::wire::agent::{
    Announcement, Entries, WatchRequest, directory_client::DirectoryClient,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, metadata::MetadataValue, transport::Channel};
use tracing::warn;

use super::uds;

/// How long a connection waits for the directory to know an address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause before the agent is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Code of a part that the directory does not know.
const UNKNOWN_PART: u16 = 4125;
/// The header of the Workload API, which what is served beside it demands too.
pub(super) const HEADER: &str = "workload.spiffe.io";

/// The directory as it is followed.
pub type Directory = watch::Receiver<Vec<DirectoryEntry>>;

/// Where a part can be reached.
#[derive(Debug, Clone)]
pub enum Whereabouts {
    /// Here, and nowhere else.
    At(SocketAddr),
    /// Where the directory says, each time anew.
    Mesh(NodeRole, Directory),
}

impl Whereabouts {
    /// Every address to try, the nearest first; at least one.
    ///
    /// # Errors
    /// When the directory knows none, for a while.
    pub async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let (role, directory) = match self {
            Self::At(address) => return Ok(vec![*address]),
            Self::Mesh(role, directory) => (role, directory),
        };
        let of_role = |entries: &[DirectoryEntry]| -> Vec<SocketAddr> {
            let fits = entries.iter().filter(|e| e.role == *role);
            fits.map(|e| e.address).collect()
        };
        let mut directory = directory.clone();
        let known = directory.wait_for(|entries| !of_role(entries).is_empty());
        match timeout(ADDRESS_TIMEOUT, known).await {
            Ok(Ok(entries)) => Ok(of_role(&entries)),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "PLS{UNKNOWN_PART}: the directory knows no `{}`",
                    role.as_str()
                ),
            )),
        }
    }
}

/// Follows the directory on the agent's socket, and announces there what this process
/// is, again with every new connection. Ends with `stop`, or when nobody follows and
/// nothing is announced.
pub fn follow(
    socket: PathBuf,
    announced: Vec<(NodeRole, SocketAddr)>,
    stop: CancellationToken,
) -> Directory {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut pause = RETRY.0;
        loop {
            match follow_once(&socket, &announced, &sender).await {
                Ok(()) => pause = RETRY.0,
                Err(status) => {
                    warn!(socket = %socket.display(), status = status.message(), "directory cannot be followed");
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            if sender.is_closed() && announced.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }));
    receiver
}

async fn follow_once(
    socket: &std::path::Path,
    announced: &[(NodeRole, SocketAddr)],
    sender: &watch::Sender<Vec<DirectoryEntry>>,
) -> Result<(), tonic::Status> {
    let mut client = DirectoryClient::new(uds::channel(socket));
    let mut entries = client
        .watch(with_header(WatchRequest {}))
        .await?
        .into_inner();
    announce(&mut client, announced).await?;
    while let Some(message) = entries.message().await? {
        let next = read(&message);
        sender.send_if_modified(|held| {
            let news = *held != next;
            *held = next;
            news
        });
    }
    Ok(())
}

async fn announce(
    client: &mut DirectoryClient<Channel>,
    announced: &[(NodeRole, SocketAddr)],
) -> Result<(), tonic::Status> {
    for (role, address) in announced {
        let announcement = Announcement {
            role: role.as_str().to_owned(),
            address: address.to_string(),
        };
        client.announce(with_header(announcement)).await?;
    }
    Ok(())
}

/// What can be read of it; parts that only a newer agent knows are left out.
fn read(message: &Entries) -> Vec<DirectoryEntry> {
    let entry = |e: &palisade_mesh::wire::agent::Entry| {
        Some(DirectoryEntry {
            role: e.role.parse().ok()?,
            address: e.address.parse().ok()?,
            node: e.node.clone(),
        })
    };
    message.entries.iter().filter_map(entry).collect()
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert(HEADER, value);
    request
}
