//! Programs that revisions have to pass, as programs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use muster::{
    admin::validator::{Command, Config, Validators},
    model::policy::PolicyKind as Kind,
    proto::{
        admin::{ApplyPolicyRequest, ApplyPolicyResponse, PolicyFile, PolicyKind, apply_policy_response::Outcome},
        opamp::{ConnectionSettingsOffers, OpAmpConnectionSettings},
    },
};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::world::{World, agent, policy, reason, uid, violated};
use crate::support::eventually;

/// A program that has been written for a test.
struct Program {
    folder: TempDir,
}

impl Program {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("validator");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &str) -> Command {
        Command::parse(&format!("{}/validator {arguments}", self.folder.path().display())).unwrap()
    }

    /// A file that it may write for the test; the folder of the files is deleted.
    fn note(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn world(&self, kind: Kind, arguments: &str, limits: Config) -> World {
        World::validating(Config { commands: [(kind, self.command(arguments))].into(), ..limits }).await
    }
}

async fn apply(world: &World, request: ApplyPolicyRequest) -> Result<ApplyPolicyResponse, Status> {
    world.policies().apply_policy(world.request(request)).await.map(tonic::Response::into_inner)
}

async fn refused(world: &World, body: &str) -> Status {
    let status = apply(world, policy("base", "", body)).await.expect_err("a refusal");
    assert!(world.store.get_policy("base").await.is_err(), "nothing is written");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_pass_is_refused_with_what_was_said() {
    let program = Program::new(
        "for file; do grep -q bad $file && { printf 'in %s:\\033[31m bad\\n' $file; echo why >&2; exit 3; }; done; exit 0",
    );
    let world = program.world(Kind::Config, "{yaml}", Config::default()).await;
    let status = refused(&world, "bad: 1").await;
    assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, ["files".to_owned()].into()));
    let expected = "files: policy base: the validator refused it (exit code 3):\nin collector.yaml:[31m bad\nwhy";
    assert_eq!(status.message(), expected);
    let dry = ApplyPolicyRequest { validate_only: true, preview: true, ..policy("base", "", "bad: 1") };
    assert_eq!(apply(&world, dry).await.unwrap_err().message(), expected, "the same without writing");
    assert_eq!(apply(&world, policy("base", "", "good: 1")).await.unwrap().outcome(), Outcome::Created);
    // Files of which it cannot say anything.
    let mut other = policy("other", "", "bad: 1");
    other.files[0].content_type = "text/plain".into();
    assert_eq!(apply(&world, other).await.unwrap().outcome(), Outcome::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_the_files_and_nothing_else() {
    let program =
        Program::new("pwd; echo $HOME; env | sort | tr '\\n' ' '; echo; ls -1; cat *; wc -c < /dev/stdin; exit 1");
    let world = program.world(Kind::Config, "{dir}", Config::default()).await;
    let mut request = policy("base", "", "a: 1\n");
    let file =
        |name: &str, body: &'static str| PolicyFile { name: name.into(), body: body.into(), ..Default::default() };
    request.files.extend([file("../../etc/passwd", "b\n"), file("", "c\n")]);
    let status = apply(&world, request).await.unwrap_err();
    let lines: Vec<&str> = status.message().lines().skip(1).collect();
    assert_eq!(lines[0], lines[1], "at home: {status:?}");
    assert!(lines[0].contains("muster-validator-") && !Path::new(lines[0]).exists(), "{lines:?}");
    let names = lines[2].split(' ').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    let names: Vec<&str> = names.filter(|name| !["_", "OLDPWD", "SHLVL"].contains(name)).collect();
    assert_eq!(names, ["HOME", "PATH", "PWD", "TMPDIR"]);
    assert_eq!(lines[3..], ["_.._.._etc_passwd", "collector.yaml", "unnamed", "b", "a: 1", "c", "0"], "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_end_is_ended_with_all_that_it_began() {
    let program = Program::new("dir=${0%/*}; (sleep 1000 & echo $! > $dir/child; wait) & echo $$ > $dir/leader; wait");
    let limits = Config { timeout: Duration::from_millis(300), ..Config::default() };
    let world = program.world(Kind::Config, "{file}", limits).await;
    let status = refused(&world, "a: 1").await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VALIDATOR_TIMED_OUT"));
    assert!(status.message().contains("after 300ms"), "{status:?}");
    for name in ["leader", "child"] {
        let pid = fs::read_to_string(program.note(name)).unwrap();
        // One that was ended is there until it is taken note of.
        eventually("it is gone", async || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_began_in_the_background_ends_with_it() {
    let program = Program::new("(exec sleep 1000) & echo $! > ${0%/*}/child; exit 0");
    let world = program.world(Kind::Config, "{file}", Config::default()).await;
    assert_eq!(apply(&world, policy("base", "", "a: 1")).await.unwrap().outcome(), Outcome::Created);
    let pid = fs::read_to_string(program.note("child")).unwrap();
    eventually("it is gone", async || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_much_is_ended() {
    let program = Program::new(
        "case $(cat $1) in *output*) yes;; *memory*) x=$(yes | head -c 300000000); echo ${#x};; *work*) while :; do :; done;; \
            *file*) yes > $TMPDIR/large;; esac",
    );
    let limits = Config { timeout: Duration::from_secs(60), memory_bytes: 64 << 20, ..Config::default() };
    let world = program.world(Kind::Config, "{file}", limits).await;
    let status = refused(&world, "output").await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VALIDATOR_OUTPUT_TOO_LARGE"));
    let status = refused(&world, "memory").await;
    assert_eq!(status.code(), Code::InvalidArgument, "it could not have so much: {status:?}");
    let status = refused(&world, "file").await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("signal 25") || status.message().contains("exit code"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_the_processor_is_told_apart() {
    // Two at once, so that the time of the processor is over before that of the clock.
    let program = Program::new("(while :; do :; done) & while :; do :; done");
    let limits = Config { timeout: Duration::from_secs(1), ..Config::default() };
    let world = program.world(Kind::Config, "{file}", limits).await;
    let status = refused(&world, "a: 1").await;
    let reason = reason(&status);
    assert!(["VALIDATOR_TOO_SLOW", "VALIDATOR_TIMED_OUT"].contains(&reason.as_str()), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_is_an_error_of_its_own() {
    let program = Program::new("exit 0");
    let world = program.world(Kind::Config, "{file}", Config::default()).await;
    fs::remove_file(program.note("validator")).unwrap();
    let status = refused(&world, "a: 1").await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VALIDATOR_NOT_RUN"));
    let config = Config { commands: [(Kind::Config, program.command("{file}"))].into(), ..Config::default() };
    let missing = Validators::new(config).err().expect("at a start it is missed at once");
    assert!(missing.to_string().contains("of kind Config") && missing.to_string().contains("/validator"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_kinds_are_looked_at_as_json_without_secrets() {
    let program = Program::new("cat $1; exit 1");
    let world = program.world(Kind::ConnectionSettings, "{yaml}", Config::default()).await;
    let opamp =
        OpAmpConnectionSettings { destination_endpoint: "wss://example.com/v1/opamp".into(), ..Default::default() };
    let request = ApplyPolicyRequest {
        name: "base".into(),
        kind: PolicyKind::ConnectionSettings.into(),
        connection_settings: Some(ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() }),
        ..Default::default()
    };
    let status = apply(&world, request).await.unwrap_err();
    assert_eq!(violated(&status), ["connection_settings".to_owned()].into());
    let json = status.message().split_once(":\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["connections"]["opamp"]["endpoint"], "wss://example.com/v1/opamp");
    assert_eq!(apply(&world, policy("files", "", "a: 1")).await.unwrap().outcome(), Outcome::Created, "not this kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_looked_at_as_written_for_agents() {
    let program = Program::new("cat $1 >> ${0%/*}/seen; ! grep -q bad $1");
    let world = program.world(Kind::Config, "{yaml}", Config::default()).await;
    let template = |name: &str, selector: &str| {
        let mut request = policy(name, selector, "host: {{ attributes.host }}\n");
        request.files[0].template = true;
        request
    };
    let unseen = apply(&world, template("nobody", "os = plan9")).await.unwrap();
    assert!(unseen.warnings[0].contains("has not seen it"), "{:?}", unseen.warnings);
    assert!(!program.note("seen").exists());

    let hosts = ["a", "b", "a", "c", "d"].into_iter().enumerate();
    let agents = hosts.map(|(n, host)| agent(n as u128 + 1, &[("os", "linux"), ("host", host)]));
    world.put(&agents.chain([agent(9, &[("os", "linux")])]).collect::<Vec<_>>()).await;
    assert_eq!(apply(&world, template("base", "os = linux")).await.unwrap().warnings, [""; 0]);
    assert_eq!(fs::read_to_string(program.note("seen")).unwrap(), "host: a\nhost: b\nhost: c\n");
    assert_eq!(apply(&world, template("base", "os = linux")).await.unwrap().outcome(), Outcome::Unchanged);
    assert_eq!(fs::read_to_string(program.note("seen")).unwrap().lines().count(), 3, "what is there is not looked at");

    world.put(&[agent(2, &[("os", "linux"), ("host", "bad")])]).await;
    let status = apply(&world, template("other", "os = linux")).await.unwrap_err();
    assert!(status.message().contains(&format!("as written for agent {}", uid(2))), "{status:?}");
}
