-- Commands to agents, what agents announce, transitions of their health, and their components.

CREATE TABLE commands (
    id               blob NOT NULL PRIMARY KEY,
    -- 1 restart, 2 custom message.
    action           smallint NOT NULL,
    -- An encoded opamp.proto.v1.CustomMessage, or empty.
    message          blob    NOT NULL,
    -- To whom it was addressed, as the operator said it.
    addressee        text     NOT NULL,
    -- Over all replicas.
    per_second       integer  NOT NULL,
    author           text     NOT NULL,
    created_unix_ms  bigint   NOT NULL,
    finished_unix_ms bigint
);
CREATE INDEX commands_unfinished ON commands (id) WHERE finished_unix_ms IS NULL;

CREATE TABLE command_targets (
    command               blob NOT NULL REFERENCES commands (id) ON DELETE CASCADE,
    uid                   blob NOT NULL,
    shard                 smallint NOT NULL,
    -- 0 waiting, 1 under way, 2 and more: settled.
    state                 smallint NOT NULL,
    -- The connection that it was sent to: it goes to no other one.
    gateway               text     NOT NULL,
    connection_generation bigint   NOT NULL,
    changed_unix_ms       bigint   NOT NULL,
    PRIMARY KEY (command, uid)
);
CREATE INDEX command_targets_unsettled ON command_targets (command, uid) WHERE state < 2;

-- Of agents that announce any of it. Apart from their rows, which are written much more often.
CREATE TABLE announcements (
    uid                 blob NOT NULL PRIMARY KEY REFERENCES agents (uid) ON DELETE CASCADE ON UPDATE CASCADE,
    -- An encoded opamp.proto.v1.CustomCapabilities, or empty.
    custom_capabilities blob NOT NULL,
    -- AvailableComponents.hash, as the agent gave it, or empty.
    components_hash     blob NOT NULL
);

CREATE TABLE health_transitions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uid        blob NOT NULL REFERENCES agents (uid) ON DELETE CASCADE ON UPDATE CASCADE,
    at_unix_ms bigint  NOT NULL,
    -- Names of components from the outermost on, each followed by U+001F; empty for the agent itself. UTF-8, as the other
    -- texts: agents may send U+0000, which text cannot hold.
    component  blob   NOT NULL,
    -- Null: the component is there no more.
    healthy    boolean,
    status     blob   NOT NULL,
    last_error blob   NOT NULL
);
CREATE INDEX health_transitions_by_agent ON health_transitions (uid, id);
CREATE INDEX health_transitions_by_age ON health_transitions (at_unix_ms);

-- What agents are built from, by the hash that they give. Many agents share one.
CREATE TABLE components (
    hash          blob NOT NULL PRIMARY KEY,
    -- An encoded opamp.proto.v1.AvailableComponents; null while no agent has told.
    body          blob,
    -- Agents that may be asked: 16 bytes each.
    candidates    blob    NOT NULL,
    -- Of how many candidates the last one that was asked is the last, and when it was asked.
    asked         smallint NOT NULL,
    asked_unix_ms bigint   NOT NULL,
    -- When an agent last said this hash, to half a day.
    used_unix_ms  bigint   NOT NULL
);
CREATE INDEX components_unknown ON components (hash) WHERE body IS NULL;

-- Agents that were given another uid and have not used it yet, so that one that never heard of it is told again.
CREATE TABLE uid_moves (
    former          blob NOT NULL PRIMARY KEY,
    uid             blob NOT NULL REFERENCES agents (uid) ON DELETE CASCADE ON UPDATE CASCADE,
    made_unix_ms    bigint NOT NULL
);
CREATE INDEX uid_moves_by_uid ON uid_moves (uid);
