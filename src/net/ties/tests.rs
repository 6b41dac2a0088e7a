//! Both ends of a link, and a bundle that loses the root of the other.

use std::time::Duration;

use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{TrustBundle, X509Svid},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use zeroize::Zeroizing;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn svid(&self, path: &str) -> X509Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let id = id(path).to_string();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = Zeroizing::new(key.serialize_der());
        X509Svid::new(vec![leaf.der().clone()], key).unwrap()
    }
}

fn id(path: &str) -> SpiffeId {
    TrustDomain::parse("acme.test").unwrap().id(path).unwrap()
}

fn bundle(roots: &[&Root]) -> TrustBundle {
    TrustBundle {
        trust_domain: TrustDomain::parse("acme.test").unwrap(),
        roots: roots.iter().map(|root| root.0.der().clone()).collect(),
    }
}

type Link = (
    Tied<server::TlsStream<DuplexStream>>,
    Tied<client::TlsStream<DuplexStream>>,
);

/// A link between two identities, as each end holds it.
async fn link(part: &Ties, caller: &Ties) -> io::Result<Link> {
    let (there, here) = duplex(64 * 1024);
    let (accepting, of_caller) = part.identity().server_session(&[b"h2"]);
    let (connecting, of_part) = caller.identity().client_session(&[id("part")], &[b"h2"]);
    let name = ServerName::try_from("palisade").unwrap();
    let (server, client) = tokio::join!(
        TlsAcceptor::from(Arc::new(accepting)).accept(there),
        TlsConnector::from(Arc::new(connecting)).connect(name, here),
    );
    Ok((
        part.tie(server?, &of_caller)?,
        caller.tie(client?, &of_part)?,
    ))
}

async fn passes(link: &mut Link) {
    link.1.write_all(b"?").await.unwrap();
    link.1.flush().await.unwrap();
    assert_eq!(link.0.read_u8().await.unwrap(), b'?');
}

#[tokio::test]
async fn a_link_ends_at_either_end_with_the_root_of_the_other() {
    let (old, new) = (Root::new(), Root::new());
    let both = bundle(&[&old, &new]);
    for part_goes in [true, false] {
        let identity = |path: &str| {
            let svid = old.svid(path);
            Identity::new(svid, both.clone(), Clock::system()).unwrap()
        };
        let (part, caller) = (identity("part"), identity("caller"));
        let (of_part, of_caller) = (Ties::new(&part), Ties::new(&caller));
        let mut link = link(&of_part, &of_caller).await.unwrap();
        passes(&mut link).await;
        // A new certificate alone ends nothing.
        part.replace(new.svid("part"), both.clone()).unwrap();
        caller.replace(new.svid("caller"), both.clone()).unwrap();
        passes(&mut link).await;
        let only_new = bundle(&[&new]);
        let (mut server, mut client) = link;
        let ended = if part_goes {
            part.replace(new.svid("part"), only_new).unwrap();
            timeout(LIMIT, server.read_u8()).await
        } else {
            caller.replace(new.svid("caller"), only_new).unwrap();
            timeout(LIMIT, client.read_u8()).await
        };
        let error = ended.expect("it has to end").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}

#[tokio::test]
async fn links_that_have_ended_are_forgotten() {
    let root = Root::new();
    let identity =
        |path: &str| Identity::new(root.svid(path), bundle(&[&root]), Clock::system()).unwrap();
    let (part, caller) = (Ties::new(&identity("part")), Ties::new(&identity("caller")));
    for _ in 0..=NOTED_MIN {
        drop(link(&part, &caller).await.unwrap());
    }
    assert_eq!(part.lines().open.len(), 1);
}
