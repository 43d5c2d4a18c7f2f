//! `musterctl apply` when the server fails between two policies.

use muster::proto::admin::{
    ApplyPolicyRequest, ApplyPolicyResponse, DeletePolicyRequest, DeletePolicyResponse, GetPolicyRequest,
    ListPoliciesRequest, ListPoliciesResponse, ListRevisionsRequest, ListRevisionsResponse, Policy,
    apply_policy_response::Outcome,
    policies_server::{Policies, PoliciesServer},
};
use tokio::{net::TcpListener, process::Command};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Takes every policy but `second`, which it only says that it would take.
struct Failing;

#[tonic::async_trait]
impl Policies for Failing {
    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        let ApplyPolicyRequest { name, validate_only, .. } = request.into_inner();
        if name == "second" && !validate_only {
            return Err(Status::unavailable("the database is not reachable"));
        }
        let policy = Some(Policy { name, ..Default::default() });
        Ok(Response::new(ApplyPolicyResponse { policy, outcome: Outcome::Created.into(), ..Default::default() }))
    }

    async fn get_policy(&self, _: Request<GetPolicyRequest>) -> Result<Response<Policy>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Result<Response<ListPoliciesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_revisions(
        &self,
        _: Request<ListRevisionsRequest>,
    ) -> Result<Response<ListRevisionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_policy(&self, _: Request<DeletePolicyRequest>) -> Result<Response<DeletePolicyResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_and_what_was_not_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(PoliciesServer::new(Failing));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.yaml");
    let document = |name: &str| format!("kind: Config\nname: {name}\nselector: a\nfiles: {{x: {{body: y}}}}\n");
    std::fs::write(&path, ["first", "second", "third"].map(document).join("---\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_musterctl"));
    command.env_clear().args(["apply", "--server", &address, "--token", "t", "-f"]).arg(&path);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "policy/first created\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("document 2") && said.contains("the database is not reachable"), "{said}");
    assert!(
        said.contains("1 of 3 policies were applied before that; not applied: policy/second, policy/third"),
        "{said}"
    );
}
