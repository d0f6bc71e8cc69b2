-- Everything here is either public to operators or a hash. No row lets its reader act as an
-- operator or as an agent: tokens and enrollment secrets are stored as SHA-256 only.

CREATE TABLE logins (
    challenge  BLOB    NOT NULL PRIMARY KEY,
    expires_at BIGINT  NOT NULL
);

CREATE TABLE tokens (
    sha256      BLOB   NOT NULL PRIMARY KEY,
    operator    TEXT   NOT NULL,
    -- The key that logged in: taking it out of the operators file ends the session.
    fingerprint TEXT   NOT NULL,
    expires_at  BIGINT NOT NULL
);

CREATE TABLE enrollments (
    id            INTEGER NOT NULL PRIMARY KEY,
    secret_sha256 BLOB    NOT NULL UNIQUE,
    policy        BLOB    NOT NULL,
    created_by    TEXT    NOT NULL,
    created_at    BIGINT  NOT NULL,
    expires_at    BIGINT  NOT NULL,
    -- open, answered, approved, rejected
    state         TEXT    NOT NULL,
    answer        TEXT,
    device_key    BLOB
);
CREATE INDEX enrollments_by_device ON enrollments (device_key);

CREATE TABLE hosts (
    host_id           BLOB   NOT NULL PRIMARY KEY,
    name              TEXT   NOT NULL UNIQUE,
    site              TEXT   NOT NULL,
    statement_payload BLOB   NOT NULL,
    statement_sig     TEXT   NOT NULL,
    device_key        BLOB   NOT NULL UNIQUE,
    host_key          BLOB   NOT NULL,
    host_key_gen      BIGINT NOT NULL,
    enrolled_at       BIGINT NOT NULL,
    last_seen         BIGINT,
    -- How far the copy of the host's log goes, and the hash that the next entry must name.
    receipts_held     BIGINT NOT NULL,
    receipts_hash     BLOB   NOT NULL
);

CREATE TABLE reports (
    host_id     BLOB   NOT NULL PRIMARY KEY REFERENCES hosts (host_id),
    seq         BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    body        TEXT   NOT NULL
);

CREATE TABLE desired (
    host_id    BLOB   NOT NULL PRIMARY KEY REFERENCES hosts (host_id),
    generation BIGINT NOT NULL,
    hash       BLOB   NOT NULL,
    set_by     TEXT   NOT NULL,
    set_at     BIGINT NOT NULL,
    body       TEXT   NOT NULL
);

CREATE TABLE plans (
    host_id     BLOB   NOT NULL PRIMARY KEY REFERENCES hosts (host_id),
    received_at BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    problem     TEXT
);

CREATE TABLE orders (
    n            INTEGER NOT NULL PRIMARY KEY,
    host_id      BLOB    NOT NULL REFERENCES hosts (host_id),
    op           BLOB    NOT NULL,
    payload      BLOB    NOT NULL,
    sigs         TEXT    NOT NULL,
    submitted_by TEXT    NOT NULL,
    submitted_at BIGINT  NOT NULL,
    -- Counts submissions, so that a delivery is never booked for a later submission.
    submission   BIGINT  NOT NULL,
    version      BIGINT  NOT NULL,
    delivered    BIGINT  NOT NULL,
    progress     TEXT,
    problem      TEXT,
    UNIQUE (host_id, op)
);
CREATE INDEX orders_undelivered ON orders (host_id, delivered, n);

CREATE TABLE receipts (
    host_id BLOB   NOT NULL REFERENCES hosts (host_id),
    seq     BIGINT NOT NULL,
    payload BLOB   NOT NULL,
    sig     TEXT   NOT NULL,
    -- The order that this entry ends, and that order's version when it came.
    op      BLOB,
    version BIGINT NOT NULL,
    PRIMARY KEY (host_id, seq)
);
CREATE INDEX receipts_by_order ON receipts (host_id, op);

-- Signed refusals that stand outside the host's log.
CREATE TABLE refusals (
    n       INTEGER NOT NULL PRIMARY KEY,
    host_id BLOB    NOT NULL REFERENCES hosts (host_id),
    op      BLOB    NOT NULL,
    version BIGINT  NOT NULL,
    payload BLOB    NOT NULL,
    sig     TEXT    NOT NULL
);
CREATE INDEX refusals_by_order ON refusals (host_id, op);
