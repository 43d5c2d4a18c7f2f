//! `muster conformance` as a command: what it writes, how it exits.

use std::{net::SocketAddr, path::Path, sync::Arc};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{faults::mute, proxy::Proxy};
use crate::support::{node::clean, standalone::Standalone, tls::Ca};

/// Takes connections, and does no more than this with them.
struct Listener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    async fn that(act: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                act(connection);
            }
        });
        Self { address, task }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `muster conformance` with these arguments: its exit code, what it wrote, and its complaints.
async fn cli(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::from(clean(env!("CARGO_BIN_EXE_muster")));
    let output = command.arg("conformance").args(arguments).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_says_what_came_out_and_exits_accordingly() {
    let standalone = Standalone::start().await;
    let (url, token) = (format!("ws://{}/v1/opamp", standalone.node.opamp()), standalone.agent_token());
    let (code, json, _) = cli(&["--url", &url, "--only", "WS-01", "--token", &token, "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!({
        "id": "WS-01", "level": "MUST", "transport": "websocket", "section": "WebSocket Transport", "result": "pass",
        "detail": "", "title": "the upgrade is answered with 101 and the right Sec-WebSocket-Accept",
    });
    let mut case = json["cases"][0].clone();
    case.as_object_mut().unwrap().remove("duration_ms");
    assert_eq!((code, case, json["cases"].as_array().unwrap().len()), (Some(0), expected, 1));

    // A MUST that fails, then a SHOULD, which matters only if one is strict; then field practice, which never does.
    let broken = Proxy::start(standalone.node.opamp(), Arc::new(mute()), Arc::default(), 0).await;
    let broken = format!("ws://{}/v1/opamp", broken.address);
    let run = async |only: &str, more: &[&str]| {
        cli(&[&["--url", &broken, "--only", only, "--token", &token, "--timeout", "1s"], more].concat()).await
    };
    let (code, junit, _) = run("FRAME-07", &["-o", "junit"]).await;
    assert!(code == Some(1) && junit.contains("failures=\"1\"") && junit.contains("no message within 1s"), "{junit}");
    assert_eq!(run("MSG-11", &[]).await.0, Some(0));
    assert_eq!(run("MSG-11", &["--strict"]).await.0, Some(1));
    let (code, table, _) = run("MSG-08", &["--strict"]).await;
    assert!(code == Some(0) && table.contains("0 passed, 1 failed, 0 skipped"), "{table}");
}

/// Nothing can be judged: that is no result, and the reason is told.
#[tokio::test]
async fn the_command_says_what_keeps_it_from_judging() {
    let standalone = Standalone::start().await;
    let (url, token) = (format!("ws://{}/v1/opamp", standalone.node.opamp()), standalone.agent_token());
    let wrong_path = format!("ws://{}/wrong", standalone.node.opamp());
    let admin = format!("http://{}", standalone.node.admin());
    let kept = Mutex::new(Vec::new());
    let (closing, silent) = (Listener::that(drop).await, Listener::that(move |it| kept.lock().push(it)).await);
    let [closing, silent] = [&closing, &silent].map(|it| format!("http://{}/v1/opamp", it.address));
    let tls = url.replace("ws://", "wss://");
    for (arguments, error) in [
        (&["--url", "ws://127.0.0.1:1/", "--timeout", "2s"][..], "no connection to 127.0.0.1:1"),
        (&["--url", &url, "--token", &token, "--second-url", "ws://127.0.0.1:1/"], "no connection to 127.0.0.1:1"),
        (&["--url", &closing], "the connection was closed without a whole answer"),
        (&["--url", &silent, "--timeout", "1s"], "no answer within 1s"),
        (&["--url", &tls, "--timeout", "2s"], "TLS: "),
        (&["--url", &wrong_path, "--token", &token], "WebSocket: status 404; plain HTTP: status 404"),
        (&["--url", &url, "--token", "wrong"], "with status 401: it does not take the token"),
        (&["--url", &url], "with status 401: it wants a token"),
        (
            &["--url", &url, "--token", &token, "--admin", &admin, "--admin-token", "wrong"],
            "the admin API: list policies",
        ),
        (&["--url", &url, "--only", "NOTHING-*"], "no case matches nothing-*"),
        (&["--url", "gopher://x"], "must start with http://"),
        (&["--url", &url, "--admin", "http://127.0.0.1:1", "--admin-token", "x"], "the admin API: no connection to"),
        (&["--url", &url, "--admin", "http://127.0.0.1:1"], "--admin-token"),
        (&["--url", "wss://127.0.0.1:1", "--ca-file", "/no/such/file"], "/no/such/file"),
    ] {
        let (code, _, complaint) = cli(arguments).await;
        assert!(code == Some(2) && complaint.contains(error), "{arguments:?}: {code:?} {complaint}");
    }
}

/// Of a server that wants to see a certificate.
#[tokio::test]
async fn the_command_speaks_tls() {
    let mut standalone = Standalone::start().await;
    let (ca, folder) = (Ca::new("an authority"), tempfile::tempdir().unwrap());
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &ca.pem).unwrap();
    let (certificate, key) = ca.server().write(folder.path(), "server");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (name, value) in [
        ("MUSTER_TLS_CERTIFICATE_FILE", text(&certificate)),
        ("MUSTER_TLS_KEY_FILE", text(&key)),
        ("MUSTER_CLIENT_CA_FILE", text(&ca_file)),
        ("MUSTER_CLIENT_CERTIFICATES", "required".to_owned()),
    ] {
        standalone.node.set_env(name, &value);
    }
    standalone.node.terminate();
    standalone.node.ended().await;
    standalone.node.start().await;
    standalone.node.ready().await;

    let (url, token) = (format!("wss://{}/v1/opamp", standalone.node.opamp()), standalone.agent_token());
    let (certificate, key) = ca.client("conformance", None).write(folder.path(), "client");
    let (ca_file, certificate, key) = (text(&ca_file), text(&certificate), text(&key));
    let identity = ["--client-certificate-file", &certificate, "--client-key-file", &key];
    let run = async |trust: &[&str], identity: &[&str]| {
        let only = ["WS-01", "HTTP-01", "MSG-*", "STATE-*", "FRAME-07"].map(|only| ["--only", only]).concat();
        cli(&[&["--url", &url, "--token", &token], &only[..], trust, identity].concat()).await
    };
    let (code, table, complaint) = run(&["--ca-file", &ca_file], &identity).await;
    assert!(code == Some(0) && table.contains(" 0 failed, 0 skipped"), "{table}{complaint}");
    assert_eq!(run(&["--insecure"], &identity).await.0, Some(0));
    for (trust, identity, error) in [
        (&[][..], &identity[..], "TLS: "),
        (&["--ca-file", &ca_file], &[], "status 401: it does not take the token, or wants a client certificate"),
    ] {
        let (code, _, complaint) = run(trust, identity).await;
        assert!(code == Some(2) && complaint.contains(error), "{trust:?} {identity:?}: {code:?} {complaint}");
    }
}
