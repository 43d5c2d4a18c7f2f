-- Which files are in the package storage; the files themselves are not here.
CREATE TABLE package_files (
    sha256           bytea  PRIMARY KEY,
    size             bigint NOT NULL,
    name             text   NOT NULL,
    created_unix_ms  bigint NOT NULL,
    author           text   NOT NULL,
    -- Set while it is being deleted from the storage.
    deleting_unix_ms bigint
);

-- What a deployment makes for itself once.
CREATE TABLE secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);
