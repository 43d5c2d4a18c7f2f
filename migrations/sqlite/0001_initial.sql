-- Forward only; each migration must leave the previous version of the program working.
-- Times are milliseconds since the Unix epoch. Unsigned 64-bit values are stored as the bigint with the same bits.
-- Text that holds an object is JSON.

CREATE TABLE agents (
    uid                   blob     NOT NULL PRIMARY KEY,
    -- A function of uid. Like uid it never changes.
    shard                 smallint NOT NULL,
    version               bigint   NOT NULL,
    labels                text     NOT NULL,
    first_seen_unix_ms    bigint   NOT NULL,
    complete              boolean  NOT NULL,
    description           blob     NOT NULL,
    -- Of the description, for counting; not verbatim.
    service_name          text     NOT NULL,
    service_version       text     NOT NULL,
    capabilities          bigint   NOT NULL,
    health                blob     NOT NULL,
    healthy               boolean,
    effective_config      blob,
    config_status         smallint NOT NULL,
    reported_config_hash  blob     NOT NULL,
    -- UTF-8. Not text, as in Postgres.
    config_error          blob     NOT NULL,
    connected             boolean  NOT NULL,
    transport             smallint NOT NULL,
    gateway               text     NOT NULL,
    connection_generation bigint   NOT NULL,
    report_number         bigint   NOT NULL,
    sequence_num          bigint   NOT NULL,
    last_seen_unix_ms     bigint   NOT NULL,
    desired_config        blob,
    desired_generation    bigint   NOT NULL,
    desired_epoch         bigint   NOT NULL,
    quarantined           blob,
    offered_at_unix_ms    bigint,
    offer_attempts        integer  NOT NULL
);

-- The sweep of one shard, in the order of uids.
CREATE INDEX agents_by_shard ON agents (shard, uid);

CREATE TABLE contents (
    hash         blob   NOT NULL PRIMARY KEY,
    body         blob   NOT NULL,
    -- When it was last stored, to a day.
    made_unix_ms bigint NOT NULL
);

CREATE TABLE configs (
    hash         blob   NOT NULL PRIMARY KEY,
    -- {name: {content: hex, content_type, role, size}}
    files        text   NOT NULL,
    made_unix_ms bigint NOT NULL
);

CREATE TABLE policies (
    name            text   NOT NULL PRIMARY KEY,
    kind            text   NOT NULL,
    newest          bigint NOT NULL,
    -- The epoch of the last change, which makes the etag.
    changed_epoch   bigint NOT NULL,
    created_unix_ms bigint NOT NULL
);

CREATE TABLE revisions (
    policy          text    NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    number          bigint  NOT NULL,
    selector        text    NOT NULL,
    priority        integer NOT NULL,
    files           text    NOT NULL,
    allow_empty     boolean NOT NULL,
    max_per_second  bigint  NOT NULL,
    author          text    NOT NULL,
    created_unix_ms bigint  NOT NULL,
    PRIMARY KEY (policy, number)
);

CREATE TABLE counters (
    name  text   NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);
-- The epoch starts above the 0 of agents for which nothing was ever decided.
INSERT INTO counters (name, value) VALUES ('policy_epoch', 1), ('agent_tokens', 1);

CREATE TABLE shard_progress (
    shard smallint PRIMARY KEY,
    epoch bigint   NOT NULL
);

CREATE TABLE tokens (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    id              text    NOT NULL UNIQUE,
    kind            text    NOT NULL,
    name            text    NOT NULL,
    sha256          blob    NOT NULL UNIQUE,
    created_unix_ms bigint  NOT NULL,
    created_by      text    NOT NULL,
    expires_unix_ms bigint,
    revoked_unix_ms bigint
);
CREATE UNIQUE INDEX tokens_by_name ON tokens (kind, name) WHERE revoked_unix_ms IS NULL;

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_unix_ms bigint  NOT NULL,
    actor      text    NOT NULL,
    token_id   text    NOT NULL,
    action     text    NOT NULL,
    target     text    NOT NULL,
    detail     text    NOT NULL
);
