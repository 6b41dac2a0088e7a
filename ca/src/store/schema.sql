-- Everything the authority keeps. Times are seconds since the Unix epoch unless
-- the name says otherwise.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Roots and intermediates; their state is what the journal says.
CREATE TABLE authorities (
    key_id      BLOB PRIMARY KEY,
    kind        TEXT NOT NULL,
    issuer      BLOB NOT NULL,
    certificate BLOB NOT NULL,
    sealed_key  BLOB,             -- NULL once it is over
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
    sequence     INTEGER PRIMARY KEY,
    time_us      INTEGER NOT NULL,
    key_id       BLOB NOT NULL,
    state_before TEXT,
    state_after  TEXT NOT NULL,
    certificate  BLOB NOT NULL,   -- SHA-256
    reason       TEXT NOT NULL,
    mac          BLOB NOT NULL
) STRICT;

CREATE TABLE registrations (
    position  INTEGER PRIMARY KEY,
    spiffe_id TEXT NOT NULL,
    selectors TEXT NOT NULL,      -- JSON array
    ttl_s     INTEGER NOT NULL,
    hint      TEXT NOT NULL
) STRICT;

CREATE TABLE issued (
    serial     BLOB PRIMARY KEY,
    spiffe_id  TEXT NOT NULL,
    key_digest BLOB NOT NULL,     -- SHA-256 of the SubjectPublicKeyInfo
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    selectors  TEXT NOT NULL,     -- JSON array
    authority  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX issued_by_key ON issued (key_digest);
CREATE INDEX issued_by_authority ON issued (authority, not_after);
CREATE INDEX issued_by_end ON issued (not_after);
