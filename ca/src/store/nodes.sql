-- Hosts that joined, tokens that can still be spent, and where the parts are.

ALTER TABLE registrations ADD COLUMN nodes TEXT NOT NULL DEFAULT '[]';  -- JSON array

CREATE TABLE join_tokens (
    id          TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,    -- SHA-256
    node        TEXT NOT NULL,
    roles       TEXT NOT NULL,    -- JSON array
    created     INTEGER NOT NULL,
    expires     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    name        TEXT PRIMARY KEY,
    spki        BLOB NOT NULL,
    roles       TEXT NOT NULL,    -- JSON array
    joined      INTEGER NOT NULL,
    token_id    TEXT NOT NULL,    -- the one it spent, to tell a replay from a guess
    token_hash  BLOB NOT NULL,
    banned      INTEGER,
    ban_reason  TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE TABLE directory (
    role    TEXT NOT NULL,
    node    TEXT NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (role, node)
) STRICT, WITHOUT ROWID;
