//! The leaves of a request's context, and where each stands in it.
//!
//! The mesh alone makes contexts, so their shape is fixed: everything a policy
//! can read of one is some of these fields. What a policy reads, what a cache
//! key holds and what a record keeps are therefore lists of fields.

use http::HeaderName;
use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};
use smol_str::SmolStr;

/// One leaf of the context. The order is that of the paths, record by record, which
/// lets a writer go through sorted fields once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Field {
    GrpcMethod,
    GrpcService,
    /// Index into the declared headers.
    Header(u16),
    HttpHost,
    HttpMethod,
    HttpPath,
    HttpQuery,
    /// The whole record of token claims; no listener verifies tokens yet.
    Jwt,
    SourceIp,
    SourcePort,
    TimeHour,
    TimeNow,
    TimeWeekday,
    TlsAlpn,
    TlsMtls,
    TlsSni,
    TlsVersion,
    /// The verified end user; no listener verifies tokens yet.
    User,
}

/// Which protocol's record a context has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Grpc,
    Http,
}

/// Every field but the headers, with its path.
const FIXED: [(Field, &[&str]); 17] = [
    (Field::GrpcMethod, &["grpc", "method"]),
    (Field::GrpcService, &["grpc", "service"]),
    (Field::HttpHost, &["http", "host"]),
    (Field::HttpMethod, &["http", "method"]),
    (Field::HttpPath, &["http", "path"]),
    (Field::HttpQuery, &["http", "query"]),
    (Field::Jwt, &["jwt"]),
    (Field::SourceIp, &["source", "ip"]),
    (Field::SourcePort, &["source", "port"]),
    (Field::TimeHour, &["time", "hour"]),
    (Field::TimeNow, &["time", "now"]),
    (Field::TimeWeekday, &["time", "weekday"]),
    (Field::TlsAlpn, &["tls", "alpn"]),
    (Field::TlsMtls, &["tls", "mtls"]),
    (Field::TlsSni, &["tls", "sni"]),
    (Field::TlsVersion, &["tls", "version"]),
    (Field::User, &["user"]),
];

/// A header that policies may read, ready to be looked up.
#[derive(Debug)]
pub(crate) struct Header {
    /// `None` when the declared name is no field name; such a header is never present.
    pub(crate) name: Option<HeaderName>,
    /// As it is declared, the name in the context.
    pub(crate) text: SmolStr,
    /// One string or a set of them.
    pub(crate) shape: HeaderShape,
}

/// The shape of every context of one snapshot.
#[derive(Debug)]
pub(crate) struct Layout {
    headers: Vec<Header>,
}

impl Layout {
    /// The layout with these headers; those past [`u16::MAX`] are unknown to it.
    pub(crate) fn new(declared: &[DeclaredHeader]) -> Self {
        let headers = declared
            .iter()
            .take(usize::from(u16::MAX))
            .map(|h| Header {
                name: HeaderName::from_bytes(h.name.as_bytes()).ok(),
                text: h.name.clone(),
                shape: h.shape,
            })
            .collect();
        Self { headers }
    }

    /// The header behind [`Field::Header`].
    pub(crate) fn header(&self, index: u16) -> Option<&Header> {
        self.headers.get(usize::from(index))
    }

    /// Every field that a context of `form` can have, sorted.
    pub(crate) fn fields(&self, form: Form) -> Vec<Field> {
        let mut fields: Vec<Field> = self.all().filter(|f| f.is_in(form)).collect();
        fields.sort_unstable();
        fields
    }

    /// Where `field` stands: the records it is in, and its name there.
    pub(crate) fn path(&self, field: Field) -> (&'static [&'static str], &str) {
        if let Field::Header(i) = field {
            let name = self.header(i).map_or("", |h| h.text.as_str());
            return (&["http", "headers"], name);
        }
        let fixed = FIXED.iter().find(|(f, _)| *f == field);
        match fixed.and_then(|(_, path)| path.split_last()) {
            Some((name, records)) => (records, name),
            None => (&[], ""),
        }
    }

    /// Where `field` stands, in one piece.
    pub(crate) fn whole_path(&self, field: Field) -> Vec<&str> {
        let (records, name) = self.path(field);
        records.iter().copied().chain([name]).collect()
    }

    /// The field that stands at `path`.
    pub(crate) fn find(&self, path: &[&str]) -> Option<Field> {
        if let ["http", "headers", name] = path {
            let at = self.headers.iter().position(|h| h.text == *name)?;
            return u16::try_from(at).ok().map(Field::Header);
        }
        let fixed = FIXED.iter().find(|(_, fixed)| *fixed == path);
        fixed.map(|(field, _)| *field)
    }

    /// What using the value at `path` reads: the leaf it lies in, or all below it.
    pub(crate) fn read(&self, path: &[SmolStr]) -> Vec<Field> {
        self.select(|leaf| leaf.iter().zip(path).all(|(a, b)| *a == b.as_str()))
    }

    /// What testing the presence of `path` reads. The records of a context are
    /// always there, so only a leaf counts.
    pub(crate) fn probe(&self, path: &[SmolStr]) -> Vec<Field> {
        self.select(|leaf| {
            leaf.len() <= path.len() && leaf.iter().zip(path).all(|(a, b)| *a == b.as_str())
        })
    }

    fn all(&self) -> impl Iterator<Item = Field> + '_ {
        let headers = (0..self.headers.len()).filter_map(|i| u16::try_from(i).ok());
        FIXED
            .iter()
            .map(|(f, _)| *f)
            .chain(headers.map(Field::Header))
    }

    fn select(&self, matches: impl Fn(&[&str]) -> bool) -> Vec<Field> {
        self.all()
            .filter(|f| matches(&self.whole_path(*f)))
            .collect()
    }
}

impl Field {
    /// Whether it is the same for every request of a connection.
    pub(crate) fn is_of_connection(self) -> bool {
        match self {
            Self::SourceIp
            | Self::SourcePort
            | Self::TlsAlpn
            | Self::TlsMtls
            | Self::TlsSni
            | Self::TlsVersion => true,
            // No listener verifies tokens yet, so they are absent.
            Self::Jwt | Self::User => true,
            _ => false,
        }
    }

    /// Whether a context of `form` can have it.
    pub(crate) fn is_in(self, form: Form) -> bool {
        match self {
            Self::GrpcMethod | Self::GrpcService => form == Form::Grpc,
            Self::Header(_)
            | Self::HttpHost
            | Self::HttpMethod
            | Self::HttpPath
            | Self::HttpQuery => form == Form::Http,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, read: &[Field], probed: &[Field]) {
        let layout = Layout::new(&[DeclaredHeader {
            name: "x-tenant".into(),
            shape: HeaderShape::Single,
        }]);
        let path: Vec<SmolStr> = path
            .split('/')
            .filter(|s| !s.is_empty())
            .map(Into::into)
            .collect();
        assert_eq!(layout.read(&path), read, "read {path:?}");
        assert_eq!(layout.probe(&path), probed, "probe {path:?}");
    }

    #[test]
    fn a_path_reads_its_leaf_or_all_below_it() {
        check("http/path", &[Field::HttpPath], &[Field::HttpPath]);
        check("jwt/scopes", &[Field::Jwt], &[Field::Jwt]);
        check(
            "tls",
            &[
                Field::TlsAlpn,
                Field::TlsMtls,
                Field::TlsSni,
                Field::TlsVersion,
            ],
            &[],
        );
        check("http/headers", &[Field::Header(0)], &[]);
        check(
            "http/headers/x-tenant",
            &[Field::Header(0)],
            &[Field::Header(0)],
        );
        check("http/headers/x-unknown", &[], &[]);
    }

    #[test]
    fn the_whole_context_reads_everything() {
        let layout = Layout::new(&[]);
        assert_eq!(layout.read(&[]).len(), FIXED.len());
        assert!(layout.probe(&[]).is_empty());
    }
}
