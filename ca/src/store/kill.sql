-- Who is barred at once; the sequence is `kill_sequence` in meta.
CREATE TABLE kill_list (
    id         BLOB PRIMARY KEY,  -- ULID, so that order is age
    kind       TEXT NOT NULL,
    target     BLOB NOT NULL,     -- UTF-8 of a SPIFFE ID, or the bytes themselves
    reason     TEXT NOT NULL,
    author     TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER            -- NULL for never
) STRICT, WITHOUT ROWID;
