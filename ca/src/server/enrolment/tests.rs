//! The enrolment door and the door for nodes, asked as a host would.

use std::time::Duration;

use palisade_mesh::{
    clock::Clock,
    link::{Gate, Link, LinkRefused},
    svid::Peer,
    wire::{
        ca::{AnnounceRequest, IssueRequest, WatchRequest, authority_server::Authority as _},
        record::record::Body,
    },
};
use tokio_stream::StreamExt;

use super::*;
use crate::{
    join::{NodeRole, token::JoinToken},
    registration::{RegistrationConfig, parse},
    request::SvidKey,
    server::{CaConfig, Caller, NetworkAuthority, TokenOrder, network},
    testing::{Records, domain, standing_clock},
};

/// Lets everybody pass: what the doors refuse themselves is looked at here.
struct Open;

impl Gate for Open {
    fn ask(&self, _: &Link<'_>) -> Result<(), LinkRefused> {
        Ok(())
    }
}

struct Office {
    ca: Arc<Ca>,
    door: EnrolmentService,
    clock: Clock,
    records: Records,
    _dir: tempfile::TempDir,
}

async fn office() -> Office {
    let (dir, clock) = (tempfile::tempdir().unwrap(), standing_clock());
    let records = Records::default();
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let ca = Ca::start(config, clock.clone(), records.stream())
        .await
        .unwrap();
    let door = EnrolmentService {
        ca: ca.clone(),
        key: hmac::Key::new(hmac::HMAC_SHA256, b"a test"),
        used: Mutex::default(),
    };
    Office {
        ca,
        door,
        clock,
        records,
        _dir: dir,
    }
}

fn name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// A host with a key.
struct Host {
    name: NodeName,
    key: SvidKey,
}

fn host(node: &str) -> Host {
    Host {
        name: name(node),
        key: SvidKey::generate().unwrap(),
    }
}

impl Office {
    async fn token(&self, node: &str, roles: &[NodeRole]) -> JoinToken {
        let order = TokenOrder {
            node: name(node),
            roles: roles.to_vec(),
            ttl: Duration::from_secs(600),
            address: "10.0.0.1:7440".into(),
        };
        self.ca.create_token(&order).await.unwrap()
    }

    async fn challenge(&self, host: &Host) -> Vec<u8> {
        let asked = self.asked(host);
        let given = self.door.challenge(Request::new(asked)).await.unwrap();
        given.into_inner().challenge
    }

    fn asked(&self, host: &Host) -> ChallengeRequest {
        ChallengeRequest {
            node: host.name.to_string(),
            spki: host.key.spki(),
            nonce: vec![1; NONCE_LEN],
            time_us: self.clock.now_us(),
        }
    }

    async fn enrolment(&self, host: &Host, token: &JoinToken) -> EnrolRequest {
        let mut request = EnrolRequest {
            node: host.name.to_string(),
            token_id: token.id.clone(),
            secret: token.secret.to_vec(),
            spki: host.key.spki(),
            challenge: self.challenge(host).await,
            proof: Vec::new(),
        };
        request.proof = host.key.sign(&enrol_context(&domain(), &request)).unwrap();
        request
    }

    async fn enrol(&self, request: EnrolRequest) -> Result<NodeCredential, Status> {
        let answer = self.door.enrol(Request::new(request)).await;
        answer.map(Response::into_inner)
    }

    async fn join(&self, host: &Host, token: &JoinToken) -> Result<NodeCredential, Status> {
        self.enrol(self.enrolment(host, token).await).await
    }

    async fn come_back(&self, host: &Host) -> Result<NodeCredential, Status> {
        let mut request = ReturnRequest {
            node: host.name.to_string(),
            spki: host.key.spki(),
            challenge: self.challenge(host).await,
            proof: Vec::new(),
        };
        request.proof = host.key.sign(&return_context(&domain(), &request)).unwrap();
        let answer = self.door.r#return(Request::new(request)).await;
        answer.map(Response::into_inner)
    }

    /// Every refusal is told with its code, recorded, and remembered for people.
    fn refused<T>(&self, outcome: Result<T, Status>, code: u16) {
        let Err(status) = outcome else {
            panic!("PLS{code} was expected");
        };
        let told = format!("PLS{code}: ");
        assert!(status.message().starts_with(&told), "{status:?}");
        let recorded = self.records.bodies().into_iter().any(|b| match b {
            Body::AuthnFailure(f) => f.detail == status.message(),
            _ => false,
        });
        assert!(recorded, "no record of {status:?}");
        assert_eq!(self.ca.refused_hosts().last().unwrap().code, code);
    }
}

#[tokio::test]
async fn a_host_joins_and_has_the_identity_of_its_node() {
    let office = office().await;
    let host = host("host-2");
    let token = office.token("host-2", &[NodeRole::Proxy]).await;
    let given = office.join(&host, &token).await.unwrap();
    let chain = given.chain.into_iter().map(Into::into).collect();
    let svid = palisade_mesh::svid::X509Svid::new(chain, host.key.pkcs8()).unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://acme.test/palisade/agent/host-2");
    assert_eq!(given.roles, ["proxy"]);
    assert_eq!(given.return_secret.len(), 32);
    assert!(office.ca.tokens().await.unwrap().is_empty());
}

/// Of any number of hosts with one token exactly one gets in.
#[tokio::test]
async fn a_token_makes_one_node_however_many_use_it_at_once() {
    let office = Arc::new(office().await);
    let token = office.token("host-2", &[]).await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (office, token) = (office.clone(), token.clone());
        tries.spawn(async move { office.join(&host("host-2"), &token).await.is_ok() });
    }
    let outcomes = tries.join_all().await;
    assert_eq!(outcomes.iter().filter(|joined| **joined).count(), 1);
    assert_eq!(office.ca.nodes().len(), 1);
    office.refused(office.join(&host("host-2"), &token).await, 4112);
}

#[tokio::test]
async fn a_token_serves_its_node_and_its_time_only() {
    let office = office().await;
    let token = office.token("host-2", &[]).await;
    office.refused(office.join(&host("host-3"), &token).await, 4113);
    let guess = JoinToken {
        secret: zeroize::Zeroizing::new([1; 32]),
        ..token.clone()
    };
    office.refused(office.join(&host("host-2"), &guess).await, 4111);
    office.ca.revoke_token(&token.id).await.unwrap();
    office.refused(office.join(&host("host-2"), &token).await, 4111);
    let again = office.ca.revoke_token(&token.id).await.unwrap_err();
    assert_eq!(again.code.0, 4107);

    let old = office.token("host-2", &[]).await;
    office.clock.advance(Duration::from_secs(600));
    office.refused(office.join(&host("host-2"), &old).await, 4111);
    let last = office.token("host-2", &[]).await;
    office.clock.advance(Duration::from_secs(599));
    assert!(office.join(&host("host-2"), &last).await.is_ok());
}

#[tokio::test]
async fn the_life_of_a_token_has_bounds() {
    let office = office().await;
    for (ttl, fits) in [(9, false), (10, true), (600, true), (601, false)] {
        let order = TokenOrder {
            node: name("host-2"),
            roles: Vec::new(),
            ttl: Duration::from_secs(ttl),
            address: "10.0.0.1:7440".into(),
        };
        let made = office.ca.create_token(&order).await;
        assert_eq!(made.is_ok(), fits, "{ttl} s");
        assert!(made.err().is_none_or(|d| d.code.0 == 4104));
    }
}

#[tokio::test]
async fn an_enrolment_cannot_be_replayed_or_changed() {
    let office = office().await;
    let host = host("host-2");
    let token = office.token("host-2", &[]).await;
    let mut stolen = office.enrolment(&host, &token).await;
    stolen.spki = SvidKey::generate().unwrap().spki();
    office.refused(office.enrol(stolen).await, 4116);
    let mut forged = office.enrolment(&host, &token).await;
    forged.secret = vec![7; 32];
    office.refused(office.enrol(forged).await, 4117);

    let late = office.enrolment(&host, &token).await;
    office.clock.advance(Duration::from_secs(61));
    office.refused(office.enrol(late).await, 4116);
    let request = office.enrolment(&host, &token).await;
    office.clock.advance(Duration::from_secs(60));
    assert!(office.enrol(request.clone()).await.is_ok());
    office.clock.advance(Duration::from_secs(0));
    office.refused(office.enrol(request).await, 4116);
}

/// Both times are told, and how far they may differ.
#[tokio::test]
async fn a_wrong_clock_is_refused_with_both_times() {
    let office = office().await;
    let host = host("host-2");
    for (seconds, fits) in [(60, true), (61, false), (-60, true), (-61, false)] {
        let mut asked = office.asked(&host);
        asked.time_us += seconds * 1_000_000;
        let answer = office.door.challenge(Request::new(asked)).await;
        assert_eq!(answer.is_ok(), fits, "{seconds}");
        if !fits {
            let told = answer.as_ref().unwrap_err().message().to_owned();
            assert!(told.contains("60 s are allowed"), "{told}");
            assert_eq!(told.matches('Z').count(), 2, "{told}");
            office.refused(answer, 4115);
        }
    }
}

#[tokio::test]
async fn a_node_comes_back_by_its_key_alone_and_a_banned_one_does_not() {
    let office = office().await;
    let node = host("host-2");
    office.refused(office.come_back(&node).await, 4118);
    let token = office.token("host-2", &[]).await;
    office.join(&node, &token).await.unwrap();
    office.clock.advance(Duration::from_secs(7 * 86_400));
    office.ca.maintain().await.unwrap();
    assert!(office.come_back(&node).await.is_ok());
    office.refused(office.come_back(&host("host-2")).await, 4118);

    let waiting = office.token("host-2", &[]).await;
    office.ca.ban_node(&node.name, "lost").await.unwrap();
    office.refused(office.come_back(&node).await, 4106);
    office.refused(office.join(&node, &waiting).await, 4111);
    let order = TokenOrder {
        node: node.name.clone(),
        roles: Vec::new(),
        ttl: Duration::from_secs(60),
        address: "10.0.0.1:7440".into(),
    };
    assert_eq!(
        office.ca.create_token(&order).await.unwrap_err().code.0,
        4106
    );
}

/// A ban that found the old row on disk must not be undone by the new one in memory.
#[tokio::test]
async fn a_node_joins_wholly_before_or_after_a_ban() {
    let office = office().await;
    let node = host("host-2");
    let token = office.token("host-2", &[]).await;
    office.join(&node, &token).await.unwrap();
    let again = office.token("host-2", &[]).await;
    let ca = office.ca.clone();
    let writing = ca.nodes.writing.lock().await;
    let mut joining = Box::pin(office.join(&node, &again));
    let soon = Duration::from_millis(300);
    assert!(tokio::time::timeout(soon, &mut joining).await.is_err());
    assert_eq!(ca.tokens().await.unwrap().len(), 1, "not spent meanwhile");
    drop(writing);
    joining.await.unwrap();
}

/// A banned node may take no new root; a rotation that waited for it would do so to its
/// deadline.
#[tokio::test]
async fn nobody_waits_for_a_banned_node() {
    let (office, authority) = network().await;
    let word = palisade_mesh::wire::ca::Acknowledgement {
        agent: "another".into(),
        ..Default::default()
    };
    let told = from(word, "host-2", &office.clock);
    authority.acknowledge(told).await.unwrap();
    let names = async || -> Vec<String> {
        let agents = office.ca.standing().await.agents;
        agents.into_iter().map(|a| a.name).collect()
    };
    let own = "spiffe://acme.test/palisade/agent/host-2";
    assert_eq!(names().await, [own], "a node speaks for itself");
    office.ca.ban_node(&name("host-2"), "lost").await.unwrap();
    assert!(names().await.is_empty());
}

fn from<T>(message: T, node: &str, clock: &Clock) -> Request<T> {
    let mut request = Request::new(message);
    let now_s = clock.now_us() / 1_000_000;
    request.extensions_mut().insert(Caller {
        peer: Peer {
            id: name(node).id(&domain()),
            serial: [1][..].into(),
            not_before_s: now_s - 10,
            not_after_s: now_s + 3600,
        },
        source: "10.0.0.2:1000".parse().unwrap(),
    });
    request
}

/// Two nodes, one registration each, one for all, and one for the authority's host.
async fn network() -> (Office, NetworkAuthority) {
    let office = office().await;
    for (node, roles) in [
        ("host-2", &[NodeRole::Proxy][..]),
        ("host-3", &[NodeRole::Proxy, NodeRole::Pdp]),
        ("host-4", &[]),
    ] {
        let token = office.token(node, roles).await;
        office.join(&host(node), &token).await.unwrap();
    }
    let list = [("two", Some("host-2")), ("all", Some("*")), ("local", None)];
    let list = list.map(|(path, node)| RegistrationConfig {
        spiffe_id: format!("spiffe://acme.test/{path}"),
        selectors: vec!["unix:uid:1".into()],
        node: node.map(Into::into),
        ..RegistrationConfig::default()
    });
    let list = parse(&list, &office.ca.rules()).unwrap();
    office.ca.apply(list).await.unwrap();
    let authority = network::tests_authority(office.ca.clone(), Arc::new(Open));
    (office, authority)
}

fn request(id: &str) -> IssueRequest {
    let key = SvidKey::generate().unwrap();
    let id = palisade_mesh::spiffe_id::SpiffeId::parse(id).unwrap();
    let uid = crate::selector::Selector::Uid(1);
    key.request(&domain(), &id, &[uid]).unwrap()
}

#[tokio::test]
async fn a_node_gets_certificates_for_what_is_its_own_only() {
    let (office, authority) = network().await;
    for (node, id, expected) in [
        ("host-2", "two", true),
        ("host-2", "all", true),
        ("host-3", "two", false),
        ("host-3", "all", true),
        ("host-3", "local", false),
        ("host-4", "all", false),
        ("host-3", "palisade/pdp", true),
        ("host-2", "palisade/pdp", false),
        ("host-3", "palisade/audit", false),
        ("host-3", "palisade/ca", false),
        ("host-3", "palisade/agent/host-2", false),
        // Its own, for a key that is not the node's.
        ("host-3", "palisade/agent/host-3", false),
    ] {
        let asked = request(&format!("spiffe://acme.test/{id}"));
        let asked = from(asked, node, &office.clock);
        let outcome = authority.issue(asked).await;
        assert_eq!(outcome.is_ok(), expected, "{node} {id}: {outcome:?}");
    }
    let told = |verb: &str, id: &str, node: &str| {
        let bodies = office.records.bodies().into_iter();
        let mut of_it = bodies.filter_map(|body| match body {
            Body::Credential(c) => (c.verb == verb && c.spiffe_id.ends_with(id)).then_some(c.node),
            _ => None,
        });
        of_it.any(|named| named == node)
    };
    assert!(told("refused", "/two", "host-3"));
    assert!(told("issued", "/two", "host-2"));
    assert!(told("issued", "/palisade/pdp", "host-3"));
    assert!(!told("issued", "/two", ""));
    // The local agent's door does not serve what is another node's either.
    let refused = office.ca.issue(&request("spiffe://acme.test/two")).await;
    assert!(matches!(refused, Err(crate::issue::Refusal::OtherNode(_))));
}

#[tokio::test]
async fn a_node_is_told_what_is_its_own_and_nothing_more_once_it_is_banned() {
    let (office, authority) = network().await;
    let asked = WatchRequest {
        role_selectors: vec!["unix:uid:7".into()],
        ..WatchRequest::default()
    };
    let mut states = authority
        .watch(from(asked, "host-3", &office.clock))
        .await
        .unwrap()
        .into_inner();
    let state = states.next().await.unwrap().unwrap();
    let ids: Vec<&str> = state
        .registrations
        .iter()
        .map(|r| r.spiffe_id.as_str())
        .collect();
    assert_eq!(
        ids,
        ["spiffe://acme.test/all", "spiffe://acme.test/palisade/pdp"]
    );

    let announce = |role: &str, address: &str, node| {
        let asked = AnnounceRequest {
            role: role.into(),
            address: address.into(),
        };
        from(asked, node, &office.clock)
    };
    office.refused(
        authority
            .announce(announce("audit", "10.0.0.3:1", "host-3"))
            .await,
        4123,
    );
    office.refused(
        authority
            .announce(announce("pdp", "10.0.0.2:1", "host-2"))
            .await,
        4123,
    );
    office.refused(
        authority
            .announce(announce("pdp", "10.0.0.3:0", "host-3"))
            .await,
        4124,
    );
    // An unspecified address stands for where the node is.
    authority
        .announce(announce("pdp", "0.0.0.0:7443", "host-3"))
        .await
        .unwrap();
    let state = states.next().await.unwrap().unwrap();
    assert_eq!(state.directory[0].address, "10.0.0.2:7443");
    assert_eq!(state.directory[0].node, "host-3");

    office.ca.ban_node(&name("host-3"), "lost").await.unwrap();
    office.refused(states.next().await.unwrap(), 4106);
    assert!(states.next().await.is_none());
    let asked = request("spiffe://acme.test/all");
    let refused = authority.issue(from(asked, "host-3", &office.clock)).await;
    office.refused(refused, 4106);
    assert!(office.ca.directory().is_empty());
}

#[tokio::test]
async fn nodes_and_directory_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = standing_clock();
    let config = CaConfig::new(domain(), dir.path().join("ca"));
    let start = || Ca::start(config.clone(), clock.clone(), Records::default().stream());
    let ca = start().await.unwrap();
    let address = "10.0.0.1:7443".parse().unwrap();
    ca.announce_local(NodeRole::Pdp, address, None)
        .await
        .unwrap();
    ca.close().await;
    drop(ca);
    let ca = start().await.unwrap();
    assert_eq!(ca.directory()[0].address, address);
}
