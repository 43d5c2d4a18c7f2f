-- Requests of agents for client certificates, and what became of them.

CREATE TABLE certificates (
    -- UUIDv7: in the order in which they were made.
    id                 uuid     PRIMARY KEY,
    -- Stays when the agent is forgotten: its certificate goes on.
    uid                uuid     NOT NULL,
    -- SubjectPublicKeyInfo in DER, and the SHA-256 of it.
    public_key         bytea    NOT NULL,
    key_sha256         bytea    NOT NULL,
    -- Counts the certificates for this key of this agent.
    generation         integer  NOT NULL,
    -- 0 pending, 1 denied, 2 issued, 3 superseded, 4 revoked.
    state              smallint NOT NULL,
    requested_unix_ms  bigint   NOT NULL,
    decided_unix_ms    bigint,
    decided_by         text     NOT NULL,
    serial             bytea    UNIQUE,
    -- PEM.
    certificate        bytea,
    issuer             bytea,
    not_before_unix_ms bigint,
    not_after_unix_ms  bigint,
    used_unix_ms       bigint,
    UNIQUE (uid, key_sha256, generation)
);
CREATE INDEX certificates_revoked ON certificates (not_after_unix_ms) WHERE state = 4;
