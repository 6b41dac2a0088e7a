//! A PDP in strange hands (T60, T104): it proves who it is, has every bundle that was
//! ever signed, and sends what it should not.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc as sync},
};

use palisade::net::tls;
use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    wire::policy::{
        Attestation, Bundle, Newest, PdpMessage, Proof, ProxyMessage, Revision, Stamp,
        distribution_server::{Distribution, DistributionServer},
        pdp_message::Kind as FromPdp,
        proxy_message::Kind as ToPdp,
    },
};
use palisade_pdp::{
    author,
    bundle::{
        key::SigningKey,
        manifest,
        statement::{self, Statement},
    },
};
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    guarded::{DOMAIN, Guarded, Setting, write_repository},
    support::{Home, LIMIT, authority::Authority, free_port, wait_for},
};

const SECOND_US: i64 = 1_000_000;

/// Who signs, and what there is to sign.
struct Ci {
    keys: Vec<SigningKey>,
    domain: TrustDomain,
}

impl Ci {
    fn new() -> Self {
        Self {
            keys: (0..3).map(|_| SigningKey::generate().unwrap().0).collect(),
            domain: TrustDomain::parse(DOMAIN).unwrap(),
        }
    }

    fn trusted(&self) -> String {
        let line = |(i, key): (usize, &SigningKey)| format!("k{i} {}\n", key.public());
        self.keys.iter().enumerate().map(line).collect()
    }

    /// The cases' repository, with these files on top.
    fn bundle(files: &[(&str, String)]) -> Bundle {
        let home = Home::new();
        write_repository(&home, files);
        let compiled = author::load(&home.path("policies")).compiled.unwrap();
        Bundle::decode(compiled.bundle).unwrap()
    }

    /// One that no longer keeps anybody off `/admin`.
    fn wide_open() -> Bundle {
        let text = "@id(\"all\")\npermit (principal, action, resource);\n";
        Self::bundle(&[("policies/shop.cedar", text.to_owned())])
    }

    /// Signed by these, stamped from `now_us` for `life_us`.
    fn sign(
        &self,
        by: &[usize],
        bundle: &Bundle,
        sequence: u64,
        (now_us, life_us): (i64, i64),
    ) -> Revision {
        let digest = manifest::digest(&mut bundle.clone()).unwrap();
        let sign = |said: Statement<'_>| by.iter().map(|i| said.sign(&self.keys[*i])).collect();
        let mut revision = Revision {
            bundle: bundle.encode_to_vec().into(),
            sha256: digest.0.to_vec(),
            sequence,
            issued_us: now_us,
            content_signatures: sign(statement::content(&self.domain, digest)),
            ..Revision::default()
        };
        let release = statement::release(&self.domain, digest, &revision);
        revision.release_signatures = sign(release);
        let mut stamp = Stamp {
            issued_us: now_us,
            until_us: now_us + life_us,
            signatures: Vec::new(),
        };
        let said = statement::stamp(&self.domain, digest, sequence, &stamp);
        stamp.signatures = sign(said);
        revision.stamp = Some(stamp);
        revision
    }
}

type Sender = mpsc::Sender<Result<PdpMessage, Status>>;

/// The PDP; it calls the last revision it sent the newest.
struct Hijacked {
    runtime: Runtime,
    sender: Arc<Mutex<Option<Sender>>>,
    last: Arc<Mutex<Option<Revision>>>,
    heard: sync::Receiver<String>,
}

#[derive(Clone)]
struct Service {
    sender: Arc<Mutex<Option<Sender>>>,
    last: Arc<Mutex<Option<Revision>>>,
    heard: sync::Sender<String>,
}

impl Hijacked {
    fn start(address: SocketAddr, authority: &Authority) -> Self {
        let identity = authority.trusting(&authority.leaf("palisade/pdp"));
        let (told, heard) = sync::channel();
        let service = Service {
            sender: Arc::default(),
            last: Arc::default(),
            heard: told,
        };
        let (sender, last) = (service.sender.clone(), service.last.clone());
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            tonic::transport::Server::builder()
                .add_service(DistributionServer::new(service))
                .serve_with_incoming(tls::incoming(listener, &identity))
                .await
        });
        Self {
            runtime,
            sender,
            last,
            heard,
        }
    }

    /// Waits until the proxy has come.
    fn proxy(&self) -> Sender {
        wait_for("the proxy", LIMIT, || self.sender.lock().unwrap().clone())
    }

    /// Sends a revision; what the proxy answers.
    fn send(&self, revision: Revision) -> String {
        let sender = self.proxy();
        *self.last.lock().unwrap() = Some(revision.clone());
        let message = PdpMessage {
            kind: Some(FromPdp::Revision(revision)),
        };
        self.runtime.block_on(sender.send(Ok(message))).unwrap();
        self.heard.recv_timeout(LIMIT).unwrap()
    }
}

#[tonic::async_trait]
impl Distribution for Service {
    type SubscribeStream = ReceiverStream<Result<PdpMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        *self.sender.lock().unwrap() = Some(sender.clone());
        let (mut inbound, service) = (request.into_inner(), self.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                match message.kind {
                    Some(ToPdp::Ack(ack)) => {
                        let _ = service.heard.send(format!("ack {}", ack.sequence));
                    }
                    Some(ToPdp::Nack(nack)) => {
                        let _ = service.heard.send(format!("nack {}", nack.code));
                    }
                    Some(ToPdp::Status(_)) => {
                        let newest = service.last.lock().unwrap().as_ref().map(|r| Newest {
                            sha256: r.sha256.clone(),
                            sequence: r.sequence,
                            now_us: Clock::system().now_us(),
                            stamp: r.stamp.clone(),
                        });
                        let kind = newest.map(FromPdp::Newest);
                        let _ = sender.send(Ok(PdpMessage { kind })).await;
                    }
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn public(guarded: &Guarded) -> u16 {
    guarded.status("GET /public/a HTTP/1.1\r\nhost: orders")
}

fn admin(guarded: &Guarded) -> u16 {
    guarded.status("GET /admin/a HTTP/1.1\r\nhost: orders")
}

fn hour() -> (i64, i64) {
    (Clock::system().now_us(), 3600 * SECOND_US)
}

#[test]
fn t60_t104_a_pdp_in_strange_hands_changes_nothing() {
    let (ci, address) = (Ci::new(), free_port());
    let keys = ci.trusted();
    let guarded = Guarded::set(&Setting {
        pdp: Some(address),
        trusted: Some(&keys),
        ..Setting::default()
    });
    let pdp = Hijacked::start(address, &guarded.authority);
    let good = Ci::bundle(&[]);
    assert_eq!(pdp.send(ci.sign(&[0, 1], &good, 5, hour())), "ack 5");
    assert_eq!((public(&guarded), admin(&guarded)), (200, 403));

    let open = Ci::wide_open();
    let digest = manifest::digest(&mut open.clone()).unwrap();
    let stranger = SigningKey::generate().unwrap().0;
    let mut unsigned = ci.sign(&[], &open, 6, hour());
    unsigned.stamp = None;
    let mut by_a_stranger = ci.sign(&[0], &open, 6, hour());
    let said = statement::content(&ci.domain, digest);
    by_a_stranger.content_signatures.push(said.sign(&stranger));
    let mut of_another = ci.sign(&[0, 1], &open, 6, hour());
    of_another.content_signatures = ci.sign(&[0, 1], &good, 6, hour()).content_signatures;
    // A word about proofs that nobody gave, under signatures that are of something else.
    let mut attested = ci.sign(&[0, 1], &open, 6, hour());
    attested.attestation = Some(Attestation {
        proofs: vec![Proof {
            invariant: "never".into(),
            solver: "cvc5".into(),
        }],
        signatures: attested.content_signatures.clone(),
    });
    let mut renumbered = ci.sign(&[0, 1], &open, 4, hour());
    renumbered.sequence = 6;
    let (now_us, _) = hour();
    let stale = ci.sign(&[0, 1], &open, 6, (now_us - 60 * SECOND_US, SECOND_US));
    let mut swapped = ci.sign(&[0, 1], &good, 6, hour());
    swapped.bundle = open.encode_to_vec().into();
    let mut without_rail = good.clone();
    let rail = without_rail.groups.iter_mut();
    rail.filter(|g| g.scope.contains("admin"))
        .for_each(|g| g.policies.clear());
    let mut newer = good.clone();
    newer.features.push("time-travel".into());
    for (revision, expected) in [
        (unsigned, "nack PLS3102"),
        (ci.sign(&[2], &open, 6, hour()), "nack PLS3102"),
        (by_a_stranger, "nack PLS3102"),
        (of_another, "nack PLS3101"),
        (renumbered, "nack PLS3101"),
        (attested, "nack PLS3101"),
        (stale, "nack PLS3103"),
        (swapped, "nack PLS3003"),
        (ci.sign(&[0, 1], &without_rail, 6, hour()), "nack PLS3106"),
        (ci.sign(&[0, 1], &newer, 6, hour()), "nack PLS3001"),
        (ci.sign(&[0, 1], &open, 4, hour()), "nack PLS3004"),
    ] {
        assert_eq!(pdp.send(revision), expected);
        assert_eq!(
            (public(&guarded), admin(&guarded)),
            (200, 403),
            "{expected}"
        );
    }
    // What is signed by enough, under a higher number, is nobody's attack.
    assert_eq!(pdp.send(ci.sign(&[1, 2], &open, 6, hour())), "ack 6");
    assert_eq!(admin(&guarded), 200);
}

#[test]
fn t104_a_newer_revision_that_is_withheld_is_alarmed_and_ends_what_passes() {
    let (ci, address) = (Ci::new(), free_port());
    let keys = ci.trusted();
    let guarded = Guarded::set(&Setting {
        pdp: Some(address),
        trusted: Some(&keys),
        lines: &["stale_after: 3s"],
        ..Setting::default()
    });
    let pdp = Hijacked::start(address, &guarded.authority);
    pdp.proxy();
    let stamp = (Clock::system().now_us(), 4 * SECOND_US);
    let revision = ci.sign(&[0, 1], &Ci::bundle(&[]), 5, stamp);
    assert_eq!(pdp.send(revision), "ack 5");
    assert_eq!(public(&guarded), 200);
    // It is connected all the time, and says that this is the newest.
    wait_for("an alarm", LIMIT, || {
        let output = guarded.home.run(&["check"]);
        crate::support::said(&output)
            .contains("PLS3112")
            .then_some(())
    });
    wait_for("the end", LIMIT, || (public(&guarded) == 503).then_some(()));
}
