//! The contract: bodies and configurations.

use std::time::SystemTime;

use muster::{
    model::{ContentHash, UnixMs},
    store::{Error, SharedStore},
};

use super::{actor, agent, apply, body, files, read, uid};

pub async fn bodies_and_configs_are_kept(store: &SharedStore) {
    let mut bodies = vec![body(""), body("one"), (ContentHash([9; 32]), vec![0u8, 0xff].into())];
    store.put_contents(&bodies).await.unwrap();
    store.put_contents(&bodies[..2]).await.unwrap();
    store.put_contents(&[]).await.unwrap();
    let mut found = store.get_contents(&[bodies[0].0, bodies[1].0, bodies[2].0, body("none").0]).await.unwrap();
    found.sort();
    bodies.sort();
    assert_eq!(found, bodies);

    let mut files = files(&[("", "one"), ("b.yaml", "two"), ("ünï \"quoted\"", "three")]);
    files.get_mut("b.yaml").unwrap().is_template = true;
    let configs = [(ContentHash([5; 32]), files), (ContentHash([6; 32]), Default::default())];
    let hashes = [ContentHash([6; 32]), ContentHash([5; 32]), ContentHash([7; 32])];
    assert_eq!(store.get_configs(&hashes).await.unwrap(), []);
    store.put_configs(&configs[..1]).await.unwrap();
    store.put_configs(&configs).await.unwrap();
    store.put_configs(&[]).await.unwrap();
    let mut found = store.get_configs(&hashes).await.unwrap();
    found.sort_by_key(|(hash, _)| *hash);
    assert_eq!(found, configs);
    assert_eq!(store.get_configs(&hashes[..1]).await.unwrap(), configs[1..]);
    assert_eq!(store.get_configs(&[]).await.unwrap(), []);
}

fn now() -> UnixMs {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as UnixMs
}

pub async fn garbage_is_what_nothing_refers_to(store: &SharedStore) {
    let (config, unused_config) = (ContentHash([1; 32]), ContentHash([2; 32]));
    store.put_contents(&["garbage", "in config", "in unused config"].map(body)).await.unwrap();
    let configs = [(config, files(&[("a", "in config")])), (unused_config, files(&[("a", "in unused config")]))];
    store.put_configs(&configs).await.unwrap();
    store.apply_policy(apply("p", "in old revision"), &actor()).await.unwrap();
    store.apply_policy(apply("p", "in new revision"), &actor()).await.unwrap();
    let mut user = agent(1);
    user.observed.effective_config = Some(body("effective").0);
    user.desired.config.hash = Some(config);
    store.write_agents(&[user], &[body("effective")]).await.unwrap();

    assert_eq!(store.collect_garbage(now() - 60_000).await.unwrap(), 0, "all of it is young");
    let future = now() + 3_600_000;
    assert_eq!(store.collect_garbage(future).await.unwrap(), 3);
    assert_eq!(store.collect_garbage(future).await.unwrap(), 0);
    assert_eq!(store.get_configs(&[config, unused_config]).await.unwrap(), configs[..1]);
    let kept = ["in config", "in old revision", "in new revision", "effective"].map(|text| body(text).0);
    assert_eq!(store.get_contents(&kept).await.unwrap().len(), 4);
    assert_eq!(store.get_contents(&["garbage", "in unused config"].map(|text| body(text).0)).await.unwrap(), []);

    store.delete_policy("p", None, &actor()).await.unwrap();
    store.forget_agent(uid(1), None, &actor()).await.unwrap();
    assert_eq!(read(&**store, uid(1)).await, None);
    assert_eq!(store.collect_garbage(future).await.unwrap(), 5);
    let error = store.apply_policy(super::ApplyPolicy { bodies: vec![], ..apply("p", "effective") }, &actor()).await;
    assert!(matches!(error, Err(Error::NotFound { kind: "content", .. })));
}
