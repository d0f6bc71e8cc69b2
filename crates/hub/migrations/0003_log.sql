-- The newest checkpoint of each host's log about which everything can be proven here: the hub holds all
-- entries under it.
CREATE TABLE checkpoints (
    host_id BLOB   NOT NULL PRIMARY KEY REFERENCES hosts (host_id),
    size    BIGINT NOT NULL,
    note    TEXT   NOT NULL
);

-- Hashes of full subtrees of 256 entries and more. They never change; a row that is missing is made from
-- the entries when it is needed, so the table may be emptied at any time.
CREATE TABLE log_nodes (
    host_id BLOB   NOT NULL REFERENCES hosts (host_id),
    level   BIGINT NOT NULL,
    idx     BIGINT NOT NULL,
    hash    BLOB   NOT NULL,
    PRIMARY KEY (host_id, level, idx)
);
