-- Agents that go on under another uid take along what is known of them. `uid_moves` has the uids that each of them had before:
-- who speaks under one of those again is the same agent.

-- A digest of the message that asked for the uid, so that a repeat of it is known for one; 0 if none did.
ALTER TABLE uid_moves ADD COLUMN request bigint NOT NULL DEFAULT 0;
-- Nothing was known of the agent under its former uid, which others may use as well: it is of no meaning for long.
ALTER TABLE uid_moves ADD COLUMN is_temporary boolean NOT NULL DEFAULT false;
CREATE INDEX uid_moves_temporary ON uid_moves (made_unix_ms) WHERE is_temporary;
