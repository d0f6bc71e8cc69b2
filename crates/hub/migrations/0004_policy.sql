-- Policies, revocations and words of freshness, as operators signed them. The hub hands them on in this order.
CREATE TABLE policy_documents (
    n            INTEGER NOT NULL PRIMARY KEY,
    -- Of payload and signatures: the same policy with more signatures is another document.
    sha256       BLOB    NOT NULL UNIQUE,
    payload      BLOB    NOT NULL,
    sigs         TEXT    NOT NULL,
    submitted_by TEXT    NOT NULL,
    submitted_at BIGINT  NOT NULL
);

-- By which policy a host says that it lives.
CREATE TABLE host_policies (
    host_id     BLOB   NOT NULL PRIMARY KEY REFERENCES hosts (host_id),
    version     BIGINT NOT NULL,
    sha256      BLOB   NOT NULL,
    problem     TEXT,
    received_at BIGINT NOT NULL
);
