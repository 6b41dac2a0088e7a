//! One stream to the PDP, from its hello to its end.

use std::sync::Arc;

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::policy::{
        Ack, Announce, Hello, Nack, PdpMessage, ProxyMessage, Revision, Status,
        distribution_client::DistributionClient, pdp_message::Kind as FromPdp,
        proxy_message::Kind as ToPdp,
    },
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    super::{backoff::Backoff, codes, keep::REVISION_LEN_MAX},
    Apply, OPEN_TIMEOUT, Subscription, TRIED_EVERY,
};
use crate::bundle::{
    FEATURES, WAY_BACK,
    codes::{KEYS, NOT_SIGNED, STAMP},
};

/// Messages waiting to be sent.
const QUEUE_LEN: usize = 8;
/// Why a revision is refused that may yet be believed as it is.
const MAY_PASS: [u16; 3] = [NOT_SIGNED, STAMP, KEYS];

impl Subscription {
    /// Serves one stream to its end; says why it ended.
    pub(super) async fn session<A, S>(
        &self,
        channel: Channel,
        apply: &Apply<A>,
        status: &S,
        backoff: &mut Backoff,
    ) -> String
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
        S: Fn() -> Status + Send + Sync,
    {
        // Before the hello: what changes after it is told on its own.
        let mut announcements = self.tell.announcements.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let outbound = Outbound(sender);
        if outbound.send(ToPdp::Hello(self.hello())).await.is_err() {
            return "stream closed at once".to_owned();
        }
        let mut client =
            DistributionClient::new(channel).max_decoding_message_size(REVISION_LEN_MAX);
        let opened = timeout(
            OPEN_TIMEOUT,
            client.subscribe(ReceiverStream::new(receiver)),
        );
        let mut inbound = match opened.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "it does not answer".to_owned(),
        };
        let mut due = interval(self.config.status_every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tried = interval(TRIED_EVERY.min(self.config.status_every));
        tried.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        backoff.reset();
                        self.take(message, apply, &outbound).await
                    }
                    Ok(None) => return "it closed the stream".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                _ = due.tick() => self.report(status, &outbound).await,
                _ = tried.tick(), if self.tried.is_held() => self.report(status, &outbound).await,
                () = self.tell.status.notified() => self.report(status, &outbound).await,
                Ok(()) = announcements.changed() => {
                    let announcements = announcements.borrow_and_update().clone();
                    outbound.send(ToPdp::Announce(Announce { announcements })).await
                }
            };
            if sent.is_err() {
                return "stream is closed".to_owned();
            }
        }
    }

    async fn report<S>(&self, status: &S, outbound: &Outbound) -> Result<(), Closed>
    where
        S: Fn() -> Status + Send + Sync,
    {
        if self.freshness.is_write_due() {
            self.keep_word().await;
        }
        let now_us = self.config.clock.now_us();
        let mut status = Status { now_us, ..status() };
        if let Some(refused) = self.tried.refused() {
            status.trial = Some(refused);
        }
        outbound.send(ToPdp::Status(status)).await
    }

    fn hello(&self) -> Hello {
        let have = self.revision.borrow();
        Hello {
            instance: self.config.instance.clone(),
            boot: self.config.boot.clone(),
            build: self.config.build.clone(),
            features: FEATURES
                .iter()
                .chain([&WAY_BACK])
                .map(|f| (*f).to_owned())
                .collect(),
            have_sha256: have.as_ref().map(|r| r.sha256.clone()).unwrap_or_default(),
            have_sequence: have.as_ref().map_or(0, |r| r.sequence),
            announcements: self.tell.announcements.borrow().clone(),
        }
    }

    async fn take<A>(
        &self,
        message: PdpMessage,
        apply: &Apply<A>,
        outbound: &Outbound,
    ) -> Result<(), Closed>
    where
        A: FnMut(Revision) -> Result<(), Diagnostic> + Send + 'static,
    {
        self.state.send_if_modified(|s| {
            let news = !s.connected || s.from_disk;
            if s.last_error
                .as_ref()
                .is_some_and(|e| e.code.0 == codes::UNREACHABLE)
            {
                s.last_error = None;
            }
            (s.connected, s.from_disk, s.away_since_us) = (true, false, None);
            news
        });
        match message.kind {
            Some(FromPdp::Revision(revision)) => {
                let (sha256, sequence) = (revision.sha256.clone(), revision.sequence);
                let answer = match self.accept(revision.clone(), apply).await {
                    Ok(()) => {
                        self.doubt(None);
                        ToPdp::Ack(Ack { sha256, sequence })
                    }
                    Err(diagnostic) => {
                        let may_pass = MAY_PASS.contains(&diagnostic.code.0);
                        self.doubt(may_pass.then_some(revision));
                        tracing::warn!(error = %diagnostic, sequence, "policy revision refused");
                        let nack = Nack {
                            sha256,
                            sequence,
                            code: diagnostic.code.to_string(),
                            message: told(&diagnostic),
                        };
                        self.state.send_modify(|s| s.last_error = Some(diagnostic));
                        ToPdp::Nack(nack)
                    }
                };
                outbound.send(answer).await
            }
            Some(FromPdp::Endpoints(next)) => {
                let next = Arc::new(next);
                let is_news = self.endpoints.send_if_modified(|current| {
                    // A replica that lags behind must not take endpoints back.
                    let news = next.version > current.version;
                    if news {
                        *current = next.clone();
                    }
                    news
                });
                if is_news {
                    self.keep_endpoints(next).await;
                }
                Ok(())
            }
            Some(FromPdp::Candidate(candidate)) => {
                self.tried.take(candidate).await;
                // Whether it is tried, or not any more, is waited for.
                self.tell.status();
                Ok(())
            }
            Some(FromPdp::TryOn(on)) => {
                self.tried.confirm(&on.sha256);
                Ok(())
            }
            Some(FromPdp::Newest(newest)) => {
                self.note_newest(&newest).await;
                match self.reconsider(&newest, apply).await {
                    Some(ack) => outbound.send(ToPdp::Ack(ack)).await,
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }
}

/// Message, place and cause on one line.
fn told(diagnostic: &Diagnostic) -> String {
    let whole = diagnostic.to_string();
    match whole.split_once(": ") {
        Some((code, rest)) if code == diagnostic.code.to_string() => rest.to_owned(),
        _ => whole,
    }
}

/// The stream does not take messages any more.
struct Closed;

struct Outbound(mpsc::Sender<ProxyMessage>);

impl Outbound {
    async fn send(&self, kind: ToPdp) -> Result<(), Closed> {
        let message = ProxyMessage { kind: Some(kind) };
        self.0.send(message).await.map_err(|_| Closed)
    }
}
