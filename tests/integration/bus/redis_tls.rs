//! Redis over TLS.

use muster::bus::{Bus, Role, Topic, redis::Redis};

use super::{read, subscribed, text};
use crate::support::{eventually, redis::Server, tls::Ca};

#[tokio::test]
async fn messages_pass_over_tls() {
    let ca = Ca::new("of Redis");
    let server = Server::start_with_tls(&ca.server()).await;
    for host in ["127.0.0.1", "localhost"] {
        let bus = Redis::connect_with_authorities(&server.tls_url(host), Some(ca.pem.as_bytes()), "test").unwrap();
        eventually("the bus is reachable", async || bus.is_reachable().then_some(())).await;
        let mut subscription = subscribed(&bus, &[Topic::ConfigService]).await;
        bus.publish(&Topic::ConfigService, text("hello")).await.unwrap();
        assert_eq!(read(&mut subscription).await, "hello");
        assert!(bus.members(Role::Gateway).await.unwrap().is_empty());
    }
}
