-- Rollouts: how the change from one revision to another goes out.

-- The revision that agents have outside of a rollout; 0 for none; null for the newest, which is so too of policies that the
-- previous version of the program writes.
ALTER TABLE policies ADD COLUMN stable bigint;
-- Null: to all at once.
ALTER TABLE revisions ADD COLUMN plan jsonb;
ALTER TABLE revisions ADD COLUMN message text NOT NULL DEFAULT '';

CREATE TABLE rollouts (
    -- UUIDv7: in the order in which they were made.
    id                 uuid    PRIMARY KEY,
    policy             text    COLLATE "C" NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    revision           bigint  NOT NULL,
    stable             bigint  NOT NULL,
    plan               jsonb   NOT NULL,
    at_once            boolean NOT NULL,
    state              text    NOT NULL,
    step               integer NOT NULL,
    -- Unsigned, as the bigint with the same bits.
    threshold          bigint  NOT NULL,
    step_since_unix_ms bigint  NOT NULL,
    since_unix_ms      bigint  NOT NULL,
    forgiven           bigint  NOT NULL,
    reason             text    NOT NULL,
    author             text    NOT NULL,
    created_unix_ms    bigint  NOT NULL,
    ended_unix_ms      bigint,
    version            bigint  NOT NULL,
    counts             jsonb   NOT NULL,
    seen_unix_ms       bigint
);
-- Two of one policy may not be in flight.
CREATE UNIQUE INDEX rollouts_in_flight ON rollouts (policy) WHERE ended_unix_ms IS NULL;
CREATE INDEX rollouts_by_policy ON rollouts (policy, id);

-- Who does what only one replica does. The token grows with each holder.
CREATE TABLE leases (
    name            text   PRIMARY KEY,
    holder          text   NOT NULL,
    token           bigint NOT NULL,
    expires_unix_ms bigint NOT NULL
);
