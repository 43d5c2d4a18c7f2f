//! A deployment whose parts start in any order.

use std::fs;

use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    ctl::Ctl,
    eventually,
    node::{Node, clean, http_get},
    postgres::{Server, Stop},
    process::Process,
    redis, tls,
};

const OPERATOR_TOKEN: &str = "muster_operator_of-the-startup-tests-000000000000000000000000";
const AGENT_TOKEN: &str = "muster_agent_of-the-startup-tests-000000000000000000000000";
const OTHER_TOKEN: &str = "muster_agent_of-nobody";
/// Where no database listens.
const NOBODY: &str = "postgres://muster@127.0.0.1:1/muster";
/// Longer than any test takes.
const AS_LONG_AS_IT_TAKES: &str = "1h";

fn muster(folder: &TempDir, name: &str, arguments: &[&str]) -> Process {
    let mut command = clean(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).current_dir(folder.path());
    Process::spawn(name, &mut command, folder.path().join(format!("{name}.log")))
}

fn config_service(folder: &TempDir, database: &str, redis: &str) -> Node {
    let listen_file = folder.path().join("config-service.json");
    let path = listen_file.to_str().unwrap();
    let arguments = [
        "config-service",
        "--database-url",
        database,
        "--redis-url",
        redis,
        "--listen-file",
        path,
        "--schema-wait",
        AS_LONG_AS_IT_TAKES,
    ];
    Node::new("config-service", folder.path().to_owned(), listen_file.clone(), &["admin", "metrics"], &arguments)
        .env("MUSTER_OPERATOR_TOKEN", OPERATOR_TOKEN)
        .env("MUSTER_AGENT_TOKEN", AGENT_TOKEN)
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_migration_and_database_come_in_the_wrong_order() {
    let folder = tempfile::tempdir().unwrap();
    let (postgres, redis) = (Server::start(), redis::Server::start().await);
    let database = postgres.new_database().await;

    let mut service = config_service(&folder, &database, &redis.url());
    let log = folder.path().join("config-service.log");
    let service_comes = async {
        service.start().await;
        service.ready().await;
    };
    let others_come = async {
        eventually("the replica waits for the migration", async || {
            fs::read_to_string(&log).ok()?.contains("waiting for the migration of the database").then_some(())
        })
        .await;
        postgres.stop(Stop::Fast);
        let arguments = ["migrate", "--database-url", &database, "--database-wait", AS_LONG_AS_IT_TAKES];
        let mut migration = muster(&folder, "migrate", &arguments);
        eventually("the migration waits for the database", async || {
            migration.output().contains("waiting for the database").then_some(())
        })
        .await;
        postgres.start_again();
        assert!(migration.ended(PATIENCE).await.success(), "{}", migration.output());
    };
    tokio::join!(service_comes, others_come);

    // Both first tokens are there, and good.
    let ctl = Ctl::new(service.admin(), OPERATOR_TOKEN);
    let tokens = ctl.json(&["token", "list"]).await;
    let tokens = tokens.as_array().unwrap();
    let mut names: Vec<_> = tokens.iter().map(|token| token["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["bootstrap", "bootstrap-agent"]);
    let kind = |name: &str| tokens.iter().find(|token| token["name"] == name).unwrap()["kind"].clone();
    assert_eq!((kind("bootstrap"), kind("bootstrap-agent")), ("operator".into(), "agent".into()));
    for token in [AGENT_TOKEN, OTHER_TOKEN] {
        assert!(!Ctl::new(service.admin(), token).try_run(&["fleet"]).await.succeeded, "an agent's is no operator's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_told_to_wait_they_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let database = Server::shared().new_database().await;
    let urls = ["--database-url", &database, "--redis-url", "redis://127.0.0.1:1"];
    let listen = ["--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let mut replica = muster(&folder, "replica", &[&["config-service"][..], &urls, &listen].concat());
    assert_eq!(replica.ended(PATIENCE).await.code(), Some(1));
    assert!(replica.output().contains("`muster migrate` brings it up to date"), "{}", replica.output());

    let nowhere = "postgres://postgres@127.0.0.1:1/muster";
    let mut migration = muster(&folder, "migration", &["migrate", "--database-url", nowhere]);
    assert_eq!(migration.ended(PATIENCE).await.code(), Some(1));
    assert!(migration.output().contains("cannot migrate"), "{}", migration.output());
}

/// What no waiting mends is said at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_believed_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Server::start_with_tls(&tls::Ca::new("of the database").server());
    fs::write(folder.path().join("other.pem"), &tls::Ca::new("another").pem).unwrap();
    let database = format!("{}?sslmode=verify-full&sslrootcert=other.pem", postgres.url("postgres"));
    let migrate = ["migrate", "--database-url", &database, "--database-wait", AS_LONG_AS_IT_TAKES];
    let urls = ["--database-url", &database, "--redis-url", "redis://127.0.0.1:1"];
    let listen = ["--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    for arguments in [&migrate[..], &[&["config-service"][..], &urls, &listen].concat()] {
        let mut process = muster(&folder, arguments[0], arguments);
        assert_eq!(process.ended(PATIENCE).await.code(), Some(1));
        let output = process.output();
        assert!(
            output.contains("the server's certificate is refused: ") && output.contains("UnknownIssuer"),
            "{output}"
        );
    }
}

/// A gateway keeps its agents while Redis is away, and so while it is not believed; but it says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_believed_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let ca = tls::Ca::new("of Redis");
    let redis = redis::Server::start_with_tls(&ca.server()).await;
    fs::write(folder.path().join("ca.pem"), &ca.pem).unwrap();
    fs::write(folder.path().join("other.pem"), &tls::Ca::new("another").pem).unwrap();
    let listen = ["--opamp-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let cases = [
        ("127.0.0.1", Some("other.pem"), "UnknownIssuer"),
        ("127.0.0.1", None, "UnknownIssuer"),
        ("127.0.0.2", Some("ca.pem"), "not valid for name"),
        ("127.0.0.1", Some("ca.pem"), "connected to Redis"),
    ];
    for (number, (host, ca_file, reason)) in cases.into_iter().enumerate() {
        let url = redis.tls_url(host);
        let authority = ca_file.map(|file| ["--redis-ca-file", file]);
        let arguments =
            [&["gateway", "--redis-url", &url][..], &listen, authority.as_ref().map_or(&[], |two| &two[..])];
        let process = muster(&folder, &format!("gateway-{number}"), &arguments.concat());
        eventually("the gateway says how it stands with Redis", async || {
            process.output().contains(reason).then_some(())
        })
        .await;
        let is_up = process.output().contains("connected to Redis");
        assert_eq!(is_up, reason == "connected to Redis", "{}", process.output());
    }

    let bad = ["gateway", "--redis-url", "redis://127.0.0.1:1", "--redis-ca-file", "ca.pem"];
    let mut process = muster(&folder, "gateway", &[&bad[..], &listen].concat());
    assert_eq!(process.ended(PATIENCE).await.code(), Some(1));
    assert!(process.output().contains("it has to begin with rediss://"), "{}", process.output());
}

/// A certificate is no use to an agent that is not told where to connect with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_needs_an_address_to_offer() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = tls::authority(folder.path());
    let arguments = ["config-service", "--database-url", NOBODY, "--redis-url", "redis://127.0.0.1:1"];
    let authority = ["--agent-ca-file", &*certificate, "--agent-ca-key-file", &*key];
    let mut process = muster(&folder, "config-service", &[&arguments[..], &authority].concat());
    let status = process.ended(PATIENCE).await;
    let output = process.output();
    assert!(!status.success() && output.contains("agent-ca-file needs opamp-url"), "{output}");
}

/// As after a pipe's other end was closed, or a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_nobody_reads_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let listen_file = folder.path().join("listen.json");
    let mut command = clean(env!("CARGO_BIN_EXE_muster"));
    command
        .args(["gateway", "--redis-url", "redis://127.0.0.1:1", "--opamp-listen", "127.0.0.1:0"])
        .args(["--metrics-listen", "127.0.0.1:0", "--listen-file", listen_file.to_str().unwrap()])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut gateway = command.spawn().unwrap();
    drop(gateway.stderr.take());
    let listening: serde_json::Value =
        eventually("the gateway listens", async || serde_json::from_slice(&fs::read(&listen_file).ok()?).ok()).await;
    let metrics = listening["metrics"].as_str().unwrap().parse().unwrap();
    // It has something to say about Redis.
    eventually("the gateway lives", async || http_get(metrics, "/healthz").await).await;
    let pid = rustix::process::Pid::from_child(&gateway);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = eventually("the gateway ends", async || gateway.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}
