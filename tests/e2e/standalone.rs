//! `muster standalone` across restarts.

use crate::support::{agent::Fleet, standalone::Standalone};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut server = Standalone::start().await;
    let token = server.agent_token();
    let fleet = Fleet::start(20, "kept", vec![server.node.opamp()], &token);
    fleet.all_connected().await;
    server.ctl().apply("base", "service.name = kept", "a.yaml", "one").await;
    fleet.all_run("a.yaml", "one").await;

    server.node.terminate();
    server.node.ended().await;
    server.node.start().await;
    server.node.ready().await;
    assert_eq!(server.agent_token(), token, "the token is kept");

    // They come back with an empty message each, and that is enough.
    fleet.all("agents are back", |agent| agent.seen.is_connected && agent.seen.connects > 1).await;
    server.ctl().apply("base", "service.name = kept", "a.yaml", "two").await;
    fleet.all_run("a.yaml", "two").await;
    assert_eq!(fleet.count(|seen| seen.needless_asks), 0);
    for agent in fleet.agents() {
        assert_eq!(agent.seen.offers.len(), 2, "each configuration was offered once");
    }
    assert_eq!(server.ctl().agents().await.len(), 20);
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let mut server = Standalone::start().await;
    let data = server.data_dir();
    let mut command = crate::support::node::clean(env!("CARGO_BIN_EXE_muster"));
    let listen = ["--opamp-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let output = command.arg("standalone").arg("--data-dir").arg(&data).args(listen).output().unwrap();
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).is_empty(), "it says why");
    server.node.ready().await;
}
