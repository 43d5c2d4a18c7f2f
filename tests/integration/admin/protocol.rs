//! What stands around the services: gRPC health, reflection, gRPC-web, CORS, unknown methods.

use std::time::Duration;

use http::{HeaderMap, uri::PathAndQuery};
use muster::{
    admin,
    bus::in_process::InProcess,
    proto::admin::{FleetSummary, GetFleetSummaryRequest, ListAgentsRequest},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    test_bus::TestBus,
    world::{World, reason},
};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_open_and_follows_the_store() {
    let world = World::start().await;
    let check = async || {
        let mut client = HealthClient::new(world.channel.clone());
        client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
    };
    assert_eq!(check().await.as_str_name(), "SERVING");
    world.close_store().await;
    crate::support::eventually("NOT_SERVING", async || (check().await.as_str_name() == "NOT_SERVING").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_to_everybody() {
    let world = World::start().await;
    let ask = || {
        let list = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        tokio_stream::iter([list])
    };
    let mut client = ServerReflectionClient::new(world.channel.clone());
    let mut answers = client.server_reflection_info(Request::new(ask())).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let services: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["Agents", "Policies", "Fleet", "Tokens", "Certificates"] {
        assert!(services.contains(&format!("muster.admin.v1.{service}")), "{services:?}");
    }
}

/// A call with a message whose first field is a number, which no request of the API has.
async fn odd_call(world: &World, path: &'static str) -> Status {
    let mut client = tonic::client::Grpc::new(world.channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<u64, ()>::default();
    client.unary(world.request(7), PathAndQuery::from_static(path), codec).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_framework_have_reasons_too() {
    let world = World::start().await;
    let unknown = odd_call(&world, "/muster.admin.v1.Agents/Nothing").await;
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unimplemented, "NOT_IMPLEMENTED"));
    let unknown = odd_call(&world, "/muster.admin.v1.Nothing/Get").await;
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unimplemented, "NOT_IMPLEMENTED"));
    let unreadable = odd_call(&world, "/muster.admin.v1.Agents/GetAgent").await;
    assert_eq!((unreadable.code(), reason(&unreadable).as_str()), (Code::Internal, "REQUEST_UNREADABLE"));
    let huge = ListAgentsRequest { selector: "x".repeat(2 << 20), ..Default::default() };
    let large = world.agents().list_agents(world.request(huge)).await.unwrap_err();
    assert_eq!((large.code(), reason(&large).as_str()), (Code::OutOfRange, "REQUEST_TOO_LARGE"));
}

struct Answer {
    status: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// One HTTP/1.1 request as a browser makes it.
async fn http1(world: &World, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let mut request = format!(
        "{method} /muster.admin.v1.Fleet/GetFleetSummary HTTP/1.1\r\nhost: muster\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(&[request.as_bytes(), body].concat()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Answer { status, headers, body: bytes[end..].to_vec() }
}

/// An empty GetFleetSummaryRequest, framed.
const EMPTY: &[u8] = &[0, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_works_over_http1() {
    let world = World::start().await;
    let bearer = format!("Bearer {}", world.token);
    let web = ("content-type", "application/grpc-web+proto");
    let answer = http1(&world, "POST", &[web, ("authorization", &bearer)], EMPTY).await;
    assert_eq!(answer.status, "200");
    // Chunked: the frame starts after the chunk's size.
    let frame = answer.body.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
    let length = u32::from_be_bytes(answer.body[frame + 1..frame + 5].try_into().unwrap()) as usize;
    let summary = FleetSummary::decode(&answer.body[frame + 5..frame + 5 + length]).unwrap();
    let grpc = world.fleet().get_fleet_summary(world.request(GetFleetSummaryRequest {})).await.unwrap().into_inner();
    assert_eq!(summary, grpc);
    assert!(String::from_utf8_lossy(&answer.body).contains("grpc-status:0"));

    let refused = http1(&world, "POST", &[web], EMPTY).await;
    assert_eq!(refused.headers["grpc-status"], "16");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_origins_are_let_in_by_name_only() {
    let preflight = [("origin", "https://console.test"), ("access-control-request-method", "POST")];
    let closed = World::start().await;
    let answer = http1(&closed, "OPTIONS", &preflight, b"").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "off by default");

    let config = admin::Config { cors_origins: vec!["https://console.test".into()], ..Default::default() };
    let world = World::with(config, InProcess::new()).await;
    let answer = http1(&world, "OPTIONS", &preflight, b"").await;
    assert_eq!(
        (answer.status.as_str(), &answer.headers["access-control-allow-origin"]),
        ("204", &"https://console.test".parse().unwrap())
    );
    let web = ("content-type", "application/grpc-web+proto");
    let answer = http1(&world, "POST", &[web, ("origin", "https://console.test")], EMPTY).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://console.test");
    let answer = http1(&world, "POST", &[web, ("origin", "https://evil.test")], EMPTY).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_ended() {
    let bus = TestBus::new();
    let config = admin::Config { request_timeout: Duration::from_millis(50), ..Default::default() };
    let world = World::with(config, bus.clone()).await;
    bus.get_stuck();
    let status = world.fleet().get_fleet_summary(world.request(GetFleetSummaryRequest {})).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "TIMED_OUT"));
}
