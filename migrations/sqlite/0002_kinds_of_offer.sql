-- Packages and connection settings beside configurations.

-- An encoded muster.store.v1.AgentMore: nothing is looked up by what is in it.
ALTER TABLE agents ADD COLUMN more blob NOT NULL DEFAULT x'';
-- The agent may be behind with something that is in `more`.
ALTER TABLE agents ADD COLUMN more_behind boolean NOT NULL DEFAULT false;

-- What a policy of another kind than Config offers: an encoded PackagesAvailable or ConnectionSettingsOffers of
-- opamp.proto.v1.
ALTER TABLE revisions ADD COLUMN offer blob;

-- Bodies of offers of packages and connection settings, by the hash that agents are told. Whoever offers one has stored it
-- within the day.
CREATE TABLE offers (
    hash         blob  NOT NULL PRIMARY KEY,
    -- The policies' kind.
    kind         text   NOT NULL,
    -- With the hash in it, encoded.
    body         blob  NOT NULL,
    -- When it was last stored, to a day.
    made_unix_ms bigint NOT NULL
);
