//! What an asker knows of a request that it did not see on a connection of ours.

use super::field::Field;

/// The parts of a context that a question states; the rest is unknown. What is stated
/// may be absent, as a query is: that is knowledge, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known(u16);

impl Known {
    /// Everything, as of a request at hand.
    pub const ALL: Self = Self(u16::MAX);
    /// Nothing but the time, which is always known.
    pub const TIME_ONLY: Self = Self(1 << 15);
    /// The header fields, all of them.
    pub const HEADERS: Self = Self(1);
    /// The host.
    pub const HOST: Self = Self(1 << 1);
    /// The method.
    pub const METHOD: Self = Self(1 << 2);
    /// The path, and with it the gRPC service and method.
    pub const PATH: Self = Self(1 << 3);
    /// The query.
    pub const QUERY: Self = Self(1 << 4);
    /// The address of the caller.
    pub const SOURCE_IP: Self = Self(1 << 5);
    /// Its port.
    pub const SOURCE_PORT: Self = Self(1 << 6);
    /// The application protocol that TLS negotiated.
    pub const TLS_ALPN: Self = Self(1 << 7);
    /// Whether the caller proved an identity.
    pub const TLS_MTLS: Self = Self(1 << 8);
    /// The server name.
    pub const TLS_SNI: Self = Self(1 << 9);
    /// The version of TLS.
    pub const TLS_VERSION: Self = Self(1 << 10);

    /// This and `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This but not `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// This, and `other` if it `holds`.
    #[must_use]
    pub const fn and_if(self, holds: bool, other: Self) -> Self {
        if holds { self.and(other) } else { self }
    }

    pub(crate) fn has_path(self) -> bool {
        self.0 & Self::PATH.0 != 0
    }

    pub(crate) fn has_source(self) -> bool {
        self.0 & Self::SOURCE_IP.0 != 0
    }

    pub(crate) fn has(self, field: Field) -> bool {
        let part = match field {
            Field::GrpcMethod | Field::GrpcService | Field::HttpPath => Self::PATH,
            Field::Header(_) => Self::HEADERS,
            Field::HttpHost => Self::HOST,
            Field::HttpMethod => Self::METHOD,
            Field::HttpQuery => Self::QUERY,
            Field::SourceIp => Self::SOURCE_IP,
            Field::SourcePort => Self::SOURCE_PORT,
            Field::TlsAlpn => Self::TLS_ALPN,
            Field::TlsMtls => Self::TLS_MTLS,
            Field::TlsSni => Self::TLS_SNI,
            Field::TlsVersion => Self::TLS_VERSION,
            Field::TimeHour | Field::TimeNow | Field::TimeWeekday => Self::TIME_ONLY,
            // No listener verifies tokens: that they are absent is known everywhere.
            Field::Jwt | Field::User => return true,
        };
        self.0 & part.0 != 0
    }
}
