//! Policies of packages, and what agents say of theirs.

use muster::{
    model::{
        ContentHash,
        agent::{OfferStatus, Reported},
    },
    proto::{
        admin::{ApplyPolicyRequest, GetAgentPackagesRequest, GetPolicyRequest, PolicyKind},
        opamp::{
            AgentCapabilities, DownloadableFile, Header, Headers, PackageAvailable, PackageDownloadDetails,
            PackageStatus, PackageStatusEnum, PackageStatuses, PackageType,
        },
    },
};
use prost::Message;
use serde_json::Value;
use tonic::{Code, Status};

use super::{
    musterctl::{fails, json, run, write},
    world::{World, agent, reason, uid, violated},
};

const SECRET: &str = "not to be shown";

fn package(version: &str, download_url: &str, content_hash: ContentHash) -> PackageAvailable {
    let file = DownloadableFile {
        download_url: download_url.into(),
        content_hash: content_hash.to_bytes(),
        ..Default::default()
    };
    PackageAvailable { version: version.into(), file: Some(file), ..Default::default() }
}

fn policy(packages: &[(&str, PackageAvailable)]) -> ApplyPolicyRequest {
    ApplyPolicyRequest {
        name: "collector".into(),
        kind: PolicyKind::Packages.into(),
        selector: "os.type = linux".into(),
        packages: packages.iter().map(|(name, package)| ((*name).to_owned(), package.clone())).collect(),
        ..Default::default()
    }
}

async fn apply(world: &World, request: ApplyPolicyRequest) -> Result<(), Status> {
    world.policies().apply_policy(world.request(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_packages_is_said_field_by_field() {
    let world = World::start().await;
    let mut wrong = package("", "packages.example/x", ContentHash([1; 32]));
    wrong.hash = vec![1].into();
    let mut signed = package("1", "https://packages.example/x", ContentHash([1; 32]));
    signed.file.as_mut().unwrap().headers =
        Some(Headers { headers: vec![Header { key: "X-A".into(), value: format!("{SECRET}\n") }] });
    let without_file = PackageAvailable { file: None, ..package("1", "", ContentHash([1; 32])) };
    let status = apply(&world, policy(&[("a", wrong), ("b", signed), ("c", without_file)])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let fields = [
        "packages[\"a\"].version",
        "packages[\"a\"].hash",
        "packages[\"a\"].file.download_url",
        "packages[\"b\"].file.headers[\"X-A\"]",
        "packages[\"c\"].file",
    ];
    assert_eq!(violated(&status), fields.map(str::to_owned).into());
    assert!(!format!("{status:?}").contains(SECRET), "{status:?}");
    // Fields of other kinds.
    let files = super::world::policy("x", "", "x").files;
    let status = apply(&world, ApplyPolicyRequest { files, ..policy(&[]) }).await.unwrap_err();
    assert!(violated(&status).contains("files"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_without_a_storage_offers_what_is_elsewhere() {
    let world = World::without_packages().await;
    let hosted = package("1", "", ContentHash([1; 32]));
    let status = apply(&world, policy(&[("a", hosted)])).await.unwrap_err();
    assert_eq!(violated(&status), ["packages[\"a\"].file.download_url".to_owned()].into());
    apply(&world, policy(&[("a", package("1", "https://packages.example/x", ContentHash([1; 32])))])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_upload_what_they_name() {
    let world = World::start().await;
    let folder = world.folder.path();
    write(folder, "m/otelcol.tar.gz", "a collector");
    write(folder, "m/rules.sig", "by us");
    let (file, other) = (ContentHash::of(b"a collector"), "ab".repeat(32));
    let manifest = |version: &str| {
        let text = format!(
            "kind: Packages\nname: collector\nselector: os.type = linux\npackages:\n  \
             otelcol: {{type: top_level, version: {version}, path: ./otelcol.tar.gz}}\n  rules:\n    type: addon\n    \
             version: \"7\"\n    url: https://packages.example/rules\n    sha256: {other}\n    \
             headers: {{Authorization: {SECRET}}}\n    signature_file: rules.sig\n"
        );
        write(folder, "m/packages.yaml", &text)
    };
    let path = manifest("0.149.0");
    let dry = run(&world, &["apply", "-f", &path, "--dry-run"]).await;
    let warning = "  warning: no agent matches the selector \"os.type = linux\"\n";
    assert_eq!(dry, format!("policy/collector created (dry run): 0 agents match, 0 of them connected\n{warning}"));
    assert_eq!(json(&world, &["get", "package-files"]).await, Value::Array(Vec::new()), "nothing is uploaded for that");
    let applied = run(&world, &["apply", "-f", &path]).await;
    assert_eq!(applied, format!("package-file/{file} uploaded\npolicy/collector created\n"));
    let again = run(&world, &["apply", "-f", &path]).await;
    assert_eq!(again, format!("package-file/{file} unchanged\npolicy/collector unchanged\n"));

    let shown = json(&world, &["get", "policy", "collector"]).await;
    assert_eq!((&shown["kind"], &shown["revision"]), (&"Packages".into(), &1.into()));
    let otelcol = &shown["packages"]["otelcol"];
    assert_eq!(
        (&otelcol["type"], &otelcol["version"], &otelcol["url"]),
        (&"top_level".into(), &"0.149.0".into(), &"".into())
    );
    assert_eq!(otelcol["sha256"], file.to_string());
    let rules = &shown["packages"]["rules"];
    assert_eq!((&rules["type"], &rules["sha256"]), (&"addon".into(), &other.as_str().into()));
    assert_eq!((&rules["headers"][0], &rules["signature"]), (&"Authorization".into(), &"YnkgdXM=".into()));
    let get = GetPolicyRequest { name: "collector".into(), include_bodies: true, revision: 0 };
    let answer = world.policies().get_policy(world.request(get)).await.unwrap().into_inner();
    let audit = world.store.list_audit(None, 100).await.unwrap();
    assert!(!format!("{answer:?} {audit:?} {shown}").contains(SECRET), "a header's value is a secret");

    // What a policy offers is not deleted.
    let error = fails(&world, &["delete", "package-file", &file.to_string()]).await;
    assert!(error.contains("is in use by policy \"collector\" (PACKAGE_FILE_IN_USE)"), "{error}");
    write(folder, "m/otelcol.tar.gz", "a better collector");
    let changed = run(&world, &["apply", "-f", &manifest("0.150.0")]).await;
    assert!(changed.ends_with(" uploaded\npolicy/collector configured\n"), "{changed}");
    run(&world, &["delete", "package-file", &file.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_does_not_say_right_is_named_with_its_line() {
    let world = World::start().await;
    let head = "kind: Packages\nname: collector\nselector: a\npackages:\n";
    let missing = "cd".repeat(32);
    for (packages, expected) in [
        (
            format!("  x: {{type: addon, version: '1', sha256: {missing}}}\n"),
            format!("package file {missing:?} does not exist"),
        ),
        (
            "  x: {type: addon, version: '', url: 'https://x/', sha256: HASH}\n".into(),
            "document 1, line 5: packages[\"x\"].version".into(),
        ),
        ("  x: {type: addon, version: '1', path: none}\n".into(), "document 1, line 5: packages: \"x\": ".into()),
        (
            "  '': {type: addon, version: '1', url: 'https://x/', sha256: HASH}\n".into(),
            "line 5: packages[\"\"]: only a package".into(),
        ),
    ] {
        let text = format!("{head}{}", packages.replace("HASH", &missing));
        let path = write(world.folder.path(), "m.yaml", &text);
        let error = fails(&world, &["apply", "-f", &path]).await;
        assert!(error.contains(&path) && error.contains(&expected), "{error}\n{expected}");
    }
    assert_eq!(json(&world, &["get", "policies"]).await, Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_an_agent_are_shown_with_where_they_come_from() {
    let world = World::start().await;
    let mut record = agent(1, &[("os.type", "linux")]);
    let takes = AgentCapabilities::AcceptsPackages as u64 | AgentCapabilities::ReportsPackageStatuses as u64;
    record.observed.capabilities |= takes;
    let status = |name: &str, state: PackageStatusEnum| PackageStatus {
        name: name.into(),
        agent_has_version: "0.148.0".into(),
        agent_has_hash: vec![0xaa].into(),
        server_offered_version: "0.149.0".into(),
        server_offered_hash: vec![0xbb].into(),
        status: state as i32,
        ..Default::default()
    };
    let details = PackageDownloadDetails { download_percent: 42.4, download_bytes_per_second: 1000.0 };
    let downloading =
        PackageStatus { download_details: Some(details), ..status("otelcol", PackageStatusEnum::Downloading) };
    let failed = PackageStatus {
        error_message: "no space".into(),
        // As the Go client leaves it.
        download_details: Some(details),
        ..status("own", PackageStatusEnum::InstallFailed)
    };
    let statuses = PackageStatuses {
        packages: [downloading, failed].map(|status| (status.name.clone(), status)).into(),
        server_provided_all_packages_hash: vec![0xcc].into(),
        ..Default::default()
    };
    record.observed.package_statuses = statuses.encode_to_vec().into();
    record.observed.packages =
        Reported { status: OfferStatus::Applying, hash: vec![0xcc; 32].into(), error: String::new() };
    record.desired.packages.hash = Some(ContentHash([0xcc; 32]));
    world.put(&[record]).await;
    let mut offered = package("0.149.0", "https://packages.example/x", ContentHash([1; 32]));
    offered.file.as_mut().unwrap().headers =
        Some(Headers { headers: vec![Header { key: "X-A".into(), value: SECRET.into() }] });
    let addon = PackageAvailable { r#type: PackageType::Addon as i32, ..offered.clone() };
    apply(&world, policy(&[("otelcol", offered), ("rules", addon)])).await.unwrap();

    let id = uid(1).to_string();
    let get = world.request(GetAgentPackagesRequest { instance_uid: id.clone() });
    let answer = world.agents().get_agent_packages(get).await.unwrap().into_inner();
    assert!(!format!("{answer:?}").contains(SECRET), "{answer:?}");
    assert_eq!(answer.statuses, statuses.packages, "as the agent says it");

    let shown = json(&world, &["agent", "packages", &id]).await;
    assert_eq!((&shown["instance_uid"], &shown["offer"]["status"]), (&id.as_str().into(), &"APPLYING".into()));
    let [otelcol, own, rules] = &shown["packages"].as_array().unwrap()[..] else { panic!("{shown}") };
    assert_eq!((&otelcol["name"], &own["name"], &rules["name"]), (&"otelcol".into(), &"own".into(), &"rules".into()));
    let desired = &otelcol["desired"];
    assert_eq!(
        (&desired["version"], &desired["policy"], &desired["revision"]),
        (&"0.149.0".into(), &"collector".into(), &1.into())
    );
    let reported = &otelcol["reported"];
    assert_eq!((&reported["status"], &reported["installed_version"]), (&"DOWNLOADING".into(), &"0.148.0".into()));
    assert_eq!((&reported["download_percent"], &reported["download_bytes_per_second"]), (&42.4.into(), &1000.0.into()));
    assert_eq!((&reported["installed_hash"], &reported["offered_hash"]), (&"aa".into(), &"bb".into()));
    assert_eq!((&own["desired"], &rules["reported"]), (&Value::Null, &Value::Null));

    let table = run(&world, &["agent", "packages", &id]).await;
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "NAME DESIRED POLICY INSTALLED STATUS ERROR",
            "otelcol 0.149.0 collector/1 0.148.0 DOWNLOADING 42% -",
            "own - - 0.148.0 INSTALL_FAILED no space",
            "rules 0.149.0 collector/1 - - -",
        ]
    );
    let wide = run(&world, &["agent", "packages", &id, "-o", "wide"]).await;
    assert!(wide.contains("addon") && wide.contains("https://packages.example/x"), "{wide}");
    assert!(fails(&world, &["agent", "packages", &uid(7).to_string()]).await.contains("AGENT_NOT_FOUND"));
}
