-- Forward only; each migration must leave the previous version of the program working.
-- Times are milliseconds since the Unix epoch. Unsigned 64-bit values are stored as the bigint with the same bits.

CREATE TABLE agents (
    uid                   uuid     PRIMARY KEY,
    -- A function of uid. Like uid it never changes, so that updates touch no indexed column.
    shard                 smallint NOT NULL,
    version               bigint   NOT NULL,
    labels                jsonb    NOT NULL,
    first_seen_unix_ms    bigint   NOT NULL,
    complete              boolean  NOT NULL,
    description           bytea    NOT NULL,
    -- Of the description, for counting; not verbatim.
    service_name          text     NOT NULL,
    service_version       text     NOT NULL,
    capabilities          bigint   NOT NULL,
    health                bytea    NOT NULL,
    healthy               boolean,
    effective_config      bytea,
    config_status         smallint NOT NULL,
    reported_config_hash  bytea    NOT NULL,
    -- UTF-8. Not text, because agents may send U+0000, which text cannot hold.
    config_error          bytea    NOT NULL,
    connected             boolean  NOT NULL,
    transport             smallint NOT NULL,
    gateway               text     NOT NULL,
    connection_generation bigint   NOT NULL,
    report_number         bigint   NOT NULL,
    sequence_num          bigint   NOT NULL,
    last_seen_unix_ms     bigint   NOT NULL,
    desired_config        bytea,
    desired_generation    bigint   NOT NULL,
    desired_epoch         bigint   NOT NULL,
    quarantined           bytea,
    offered_at_unix_ms    bigint,
    offer_attempts        integer  NOT NULL
) WITH (
    -- Room in every page for the next version of its rows: an update then stays in the page and touches no index (HOT).
    -- For the same reason no index may ever be made on a column that is updated.
    fillfactor = 70,
    -- Every agent is updated many times a day: vacuum after 2 % of changes rather than 20 %, and without pauses, so
    -- that the room is there again.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- The sweep of one shard, in the order of uids.
CREATE INDEX agents_by_shard ON agents (shard, uid);

CREATE TABLE contents (
    hash         bytea  PRIMARY KEY,
    body         bytea  NOT NULL,
    -- When it was last stored, to a day.
    made_unix_ms bigint NOT NULL
);

CREATE TABLE configs (
    hash         bytea  PRIMARY KEY,
    -- {name: {content: hex, content_type, role, size}}
    files        jsonb  NOT NULL,
    made_unix_ms bigint NOT NULL
);

-- Collation C: pages are in the order of bytes, as in the program.
CREATE TABLE policies (
    name            text   COLLATE "C" PRIMARY KEY,
    kind            text   NOT NULL,
    newest          bigint NOT NULL,
    -- The epoch of the last change, which makes the etag.
    changed_epoch   bigint NOT NULL,
    created_unix_ms bigint NOT NULL
);

CREATE TABLE revisions (
    policy          text    COLLATE "C" NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    number          bigint  NOT NULL,
    selector        text    NOT NULL,
    priority        integer NOT NULL,
    files           jsonb   NOT NULL,
    allow_empty     boolean NOT NULL,
    max_per_second  bigint  NOT NULL,
    author          text    NOT NULL,
    created_unix_ms bigint  NOT NULL,
    PRIMARY KEY (policy, number)
);

CREATE TABLE counters (
    name  text   PRIMARY KEY,
    value bigint NOT NULL
);
-- The epoch starts above the 0 of agents for which nothing was ever decided.
INSERT INTO counters (name, value) VALUES ('policy_epoch', 1), ('agent_tokens', 1);

CREATE TABLE shard_progress (
    shard smallint PRIMARY KEY,
    epoch bigint   NOT NULL
);

CREATE TABLE tokens (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              text   NOT NULL UNIQUE,
    kind            text   NOT NULL,
    name            text   NOT NULL,
    sha256          bytea  NOT NULL UNIQUE,
    created_unix_ms bigint NOT NULL,
    created_by      text   NOT NULL,
    expires_unix_ms bigint,
    revoked_unix_ms bigint
);
CREATE UNIQUE INDEX tokens_by_name ON tokens (kind, name) WHERE revoked_unix_ms IS NULL;

CREATE TABLE audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_unix_ms bigint NOT NULL,
    actor      text   NOT NULL,
    token_id   text   NOT NULL,
    action     text   NOT NULL,
    target     text   NOT NULL,
    detail     jsonb  NOT NULL
);
