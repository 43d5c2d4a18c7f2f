-- Agents that have a revision of a policy whatever rollouts do.

CREATE TABLE overrides (
    policy          text    NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    uid             blob    NOT NULL REFERENCES agents (uid) ON DELETE CASCADE ON UPDATE CASCADE,
    -- The uid by which policies know the agent, which stays when it takes another.
    placement       blob    NOT NULL,
    -- 0: nothing of the policy.
    revision        bigint  NOT NULL,
    -- Whether the agent is held on what it had, rather than pinned.
    hold            boolean NOT NULL,
    message         text    NOT NULL,
    author          text    NOT NULL,
    created_unix_ms bigint  NOT NULL,
    expires_unix_ms bigint,
    PRIMARY KEY (policy, uid)
);
CREATE INDEX overrides_by_agent ON overrides (uid);
CREATE INDEX overrides_expiring ON overrides (expires_unix_ms) WHERE expires_unix_ms IS NOT NULL;
