-- The sealed part of an order, a script; NULL once it has done its work.
ALTER TABLE orders ADD COLUMN sealed BLOB;
-- 1 when it opens a session: such an order goes to the host in a TunnelOpen and never by itself.
ALTER TABLE orders ADD COLUMN session BIGINT NOT NULL DEFAULT 0;

-- Results of scripts, sealed to keys that the hub does not have.
CREATE TABLE job_results (
    host_id     BLOB   NOT NULL REFERENCES hosts (host_id),
    op          BLOB   NOT NULL,
    sealed      BLOB   NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, op)
);

CREATE TABLE tunnels (
    n               INTEGER NOT NULL PRIMARY KEY,
    id              BLOB    NOT NULL UNIQUE,
    host_id         BLOB    NOT NULL REFERENCES hosts (host_id),
    op              BLOB    NOT NULL,
    operator        TEXT    NOT NULL,
    -- The key that logged in: taking it out of the operators file ends the session.
    fingerprint     TEXT    NOT NULL,
    slot            BIGINT  NOT NULL,
    opened_at       BIGINT  NOT NULL,
    closed_at       BIGINT,
    why             TEXT,
    bytes_to_host   BIGINT  NOT NULL DEFAULT 0,
    bytes_from_host BIGINT  NOT NULL DEFAULT 0
);
-- How many sessions an operator may have on a host at once is the number of slots, and this index
-- is what holds them to it, whatever the program does.
CREATE UNIQUE INDEX tunnels_open ON tunnels (host_id, operator, slot) WHERE closed_at IS NULL;
CREATE INDEX tunnels_by_host ON tunnels (host_id, n);
