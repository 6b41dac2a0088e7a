//! Every route of the API, in one table: the router and the OpenAPI document are made of it.

use http::Method;
use palisade_audit::{
    index::{FACETS_MAX, ROWS_MAX},
    query::TOP_MAX,
};
use palisade_pdp::readers::ReadAction;

use super::super::{search::ROWS_DEFAULT, sums::FACET_TOP_DEFAULT};

/// Longest body of a request, in bytes.
pub(super) const BODY_LEN_MAX: usize = 64 << 10;

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// `operationId` of the document.
    pub(super) id: &'static str,
    pub(super) what: What,
    pub(super) about: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// What the answer is, and under which content types.
    pub(super) answer: Reply,
}

/// What a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The document, for everybody.
    Document,
    /// The query language, for whoever is proven.
    Fields,
    /// How the service is, for whoever may.
    Metrics,
    /// The log, for whoever may.
    Read(ReadAction),
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// JSON of this schema.
    Json(&'static str),
    /// Lines of JSON of this schema, as they come.
    Lines(&'static str),
    /// A file in the format that was asked for.
    File,
    /// A report in the format that was asked for.
    Report,
    /// A text.
    Text,
    /// Bytes as the log has them.
    Tile,
}

/// Something that a request may say.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
}

/// What a parameter can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query of the log.
    Query,
    /// From 1 to the first, by default the second.
    Count(usize, usize),
    /// One of these; the first where nothing is said.
    OneOf(&'static [&'static str]),
    /// A text.
    Text,
    /// Names, at most so many, with commas between them.
    Names(usize),
    /// A part of the path: a whole id.
    Id,
    /// A part of the path: a word.
    Word,
    /// A part of the path: a number.
    Level,
    /// The rest of the path: the number of a tile, as C2SP tlog-tiles writes it.
    Tile,
    /// From 0 on.
    Number,
}

impl Kind {
    /// Whether it is a part of the path.
    pub(super) fn is_in_path(self) -> bool {
        matches!(self, Self::Id | Self::Level | Self::Tile | Self::Word)
    }
}

/// The formats of a report.
pub(super) const REPORT_FORMATS: &[&str] = &["json", "html", "pdf", "xlsx", "csv", "oscal"];

/// The formats of an export; what each is.
pub(super) const FORMATS: &[&str] = &["jsonl", "csv", "ocsf", "parquet"];

const Q: Parameter = Parameter {
    name: "q",
    kind: Kind::Query,
    about: "A query of the log; all decisions of the last day where nothing is said.",
};
const REASON: Parameter = Parameter {
    name: "reason",
    kind: Kind::Text,
    about: "Why, for the record of the read; it must be there where the query names a person.",
};
const ID: Parameter = Parameter {
    name: "id",
    kind: Kind::Id,
    about: "A decision id, whole.",
};
const NAME: Parameter = Parameter {
    name: "name",
    kind: Kind::Word,
    about: "Its name.",
};
const TILE: Parameter = Parameter {
    name: "number",
    kind: Kind::Tile,
    about: "Which, three digits each: `x001/234`; of one that is not full `.p/` and its width follow.",
};
const SEARCH: &[Parameter] = &[
    Q,
    REASON,
    Parameter {
        name: "limit",
        kind: Kind::Count(ROWS_MAX, ROWS_DEFAULT),
        about: "Most rows of the page. A query that ends in a summary says itself how many groups it wants.",
    },
    Parameter {
        name: "cursor",
        kind: Kind::Text,
        about: "Where an earlier page ended.",
    },
];

const fn read(
    path: &'static str,
    id: &'static str,
    action: ReadAction,
    parameters: &'static [Parameter],
    answer: Reply,
    about: &'static str,
) -> Route {
    Route {
        method: Method::GET,
        path,
        id,
        what: What::Read(action),
        about,
        parameters,
        answer,
    }
}

/// Every route.
pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        id: "document",
        what: What::Document,
        about: "This document.",
        parameters: &[],
        answer: Reply::Json("Document"),
    },
    Route {
        method: Method::GET,
        path: "/v1/audit/fields",
        id: "fields",
        what: What::Fields,
        about: "Every field that a query can name.",
        parameters: &[],
        answer: Reply::Json("Fields"),
    },
    read(
        "/v1/audit/search",
        "search",
        ReadAction::Search,
        SEARCH,
        Reply::Json("SearchAnswer"),
        "Records, newest first, or the summary that the query ends in.",
    ),
    Route {
        method: Method::POST,
        path: "/v1/audit/search",
        id: "searchByBody",
        what: What::Read(ReadAction::Search),
        about: "As the GET, for queries that are no part of an address: those that name persons, above all.",
        parameters: SEARCH,
        answer: Reply::Json("SearchAnswer"),
    },
    read(
        "/v1/audit/tail",
        "tail",
        ReadAction::Tail,
        &[Q, REASON],
        Reply::Lines("TailLine"),
        "Records as they arrive, for an hour at most. Time bounds of the query do not apply.",
    ),
    read(
        "/v1/audit/records/{id}",
        "record",
        ReadAction::Show,
        &[ID],
        Reply::Json("Found"),
        "Everything that was recorded under one id.",
    ),
    read(
        "/v1/audit/records/{id}/revealed",
        "reveal",
        ReadAction::Reveal,
        &[
            ID,
            Parameter {
                name: "reason",
                kind: Kind::Text,
                about: "Why, for the record of the read; it must be there.",
            },
        ],
        Reply::Json("Revealed"),
        "What was taken out of the records of one id, because it is personal.",
    ),
    read(
        "/v1/audit/facets",
        "facets",
        ReadAction::Facets,
        &[
            Q,
            REASON,
            Parameter {
                name: "by",
                kind: Kind::Names(FACETS_MAX),
                about: "Fields to count; the usual ones where nothing is said.",
            },
            Parameter {
                name: "top",
                kind: Kind::Count(TOP_MAX, FACET_TOP_DEFAULT),
                about: "Values of each field.",
            },
        ],
        Reply::Json("Facets"),
        "The most frequent values of several fields, counted in one pass.",
    ),
    read(
        "/v1/audit/timeline",
        "timeline",
        ReadAction::Timeline,
        &[
            Q,
            REASON,
            Parameter {
                name: "step",
                kind: Kind::Text,
                about: "Length of a step, such as `30s`, `5m`, `1h`; some 60 steps where nothing is said.",
            },
            Parameter {
                name: "by",
                kind: Kind::Text,
                about: "A field whose values are told apart.",
            },
            Parameter {
                name: "top",
                kind: Kind::Count(TOP_MAX, palisade_audit::query::TOP_DEFAULT),
                about: "How many of its values.",
            },
        ],
        Reply::Json("StepsAnswer"),
        "Records counted in steps of time.",
    ),
    read(
        "/v1/audit/gaps",
        "gaps",
        ReadAction::Gaps,
        &[Parameter {
            name: "q",
            kind: Kind::Query,
            about: "The time whose losses are listed, such as `last:7d`; gaps that are open now always are.",
        }],
        Reply::Json("Gaps"),
        "What is missing from the log.",
    ),
    read(
        "/v1/audit/export",
        "export",
        ReadAction::Export,
        &[
            Q,
            REASON,
            Parameter {
                name: "format",
                kind: Kind::OneOf(FORMATS),
                about: "What the file is.",
            },
        ],
        Reply::File,
        "All records that match, newest first, as a file. One that breaks off is cut, never ended.",
    ),
    read(
        "/v1/audit/checkpoint",
        "checkpoint",
        ReadAction::Checkpoint,
        &[],
        Reply::Text,
        "The latest checkpoint: a signed note (C2SP tlog-checkpoint).",
    ),
    read(
        "/v1/audit/records/{id}/proof",
        "proof",
        ReadAction::Proof,
        &[
            ID,
            Parameter {
                name: "entry",
                kind: Kind::Number,
                about: "Which of its records, by index in the log; its decision, or else its first, where nothing is said.",
            },
        ],
        Reply::Json("Proven"),
        "A record as it is hashed, with the proof that the log has it (C2SP tlog-proof).",
    ),
    read(
        "/v1/audit/saved",
        "savedQueries",
        ReadAction::Saved,
        &[],
        Reply::Json("SavedQueries"),
        "The queries that the caller has saved. Everywhere `q` may begin with `@NAME`, the name of one.",
    ),
    Route {
        method: Method::PUT,
        path: "/v1/audit/saved/{name}",
        id: "saveQuery",
        what: What::Read(ReadAction::Saved),
        about: "Saves a query of the caller under a name, in the place of one that has it. It names no person.",
        parameters: &[NAME, Q],
        answer: Reply::Json("SavedQuery"),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/audit/saved/{name}",
        id: "forgetQuery",
        what: What::Read(ReadAction::Saved),
        about: "Forgets a saved query of the caller.",
        parameters: &[NAME],
        answer: Reply::Json("SavedQuery"),
    },
    read(
        "/v1/audit/alerts",
        "alerts",
        ReadAction::Alerts,
        &[],
        Reply::Json("Alerts"),
        "Alert rules, the alerts that nobody has answered for, and what waits for delivery.",
    ),
    read(
        "/v1/audit/holds",
        "holds",
        ReadAction::Holds,
        &[],
        Reply::Json("Holds"),
        "The legal holds that have not ended. They are ordered and released on the service's own host alone.",
    ),
    read(
        "/v1/audit/reports",
        "reports",
        ReadAction::Reports,
        &[],
        Reply::Json("Reports"),
        "The reports that can be made, and the controls that they are evidence for.",
    ),
    read(
        "/v1/audit/reports/{name}",
        "report",
        ReadAction::Reports,
        &[
            NAME,
            REASON,
            Parameter {
                name: "period",
                kind: Kind::Text,
                about: "The time it is about: 2026, 2026-Q4, 2026-11, 2026-11-20, 2026-11-01..2026-11-20, last:30d; the last where nothing is said.",
            },
            Parameter {
                name: "scope",
                kind: Kind::Query,
                about: "What decisions are kept to, as a query; all where nothing is said.",
            },
            Parameter {
                name: "format",
                kind: Kind::OneOf(REPORT_FORMATS),
                about: "What the file is.",
            },
            Parameter {
                name: "table",
                kind: Kind::Number,
                about: "Of CSV, which table; 0, what the report is about, where nothing is said.",
            },
        ],
        Reply::Report,
        "A report, made under the newest checkpoint.",
    ),
    read(
        "/v1/audit/verify",
        "verification",
        ReadAction::Verify,
        &[],
        Reply::Json("Verification"),
        "How the verification of the log stands: how far it is, or what the last one came to.",
    ),
    Route {
        method: Method::POST,
        path: "/v1/audit/verify",
        id: "verify",
        what: What::Read(ReadAction::Verify),
        about: "Begins a verification of the whole log, where none is at work. The GET tells how it goes on.",
        parameters: &[],
        answer: Reply::Json("Verification"),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        id: "metrics",
        what: What::Metrics,
        about: "How the service is, in the Prometheus text format. Asking is no read of the log and leaves no record.",
        parameters: &[],
        answer: Reply::Text,
    },
    read(
        "/checkpoint",
        "tlogCheckpoint",
        ReadAction::Checkpoint,
        &[],
        Reply::Text,
        "As /v1/audit/checkpoint, where tile logs have it (C2SP tlog-tiles).",
    ),
    read(
        "/tile/{level}/{*number}",
        "tlogTile",
        ReadAction::Tiles,
        &[
            Parameter {
                name: "level",
                kind: Kind::Level,
                about: "0 for hashes of records, 1 for the roots of tiles of level 0, and so on.",
            },
            TILE,
        ],
        Reply::Tile,
        "Hashes of the log's tree, 32 bytes each (C2SP tlog-tiles).",
    ),
    read(
        "/tile/entries/{*number}",
        "tlogEntries",
        ReadAction::Tiles,
        &[TILE],
        Reply::Tile,
        "Records as they are hashed, each after its length in two bytes (C2SP tlog-tiles).",
    ),
];
