//! Whoever drives a rollout is killed at each of its transitions, just before it is committed and just after. Nobody can tell
//! afterwards.

use sqlx::{Connection, PgConnection};

use crate::support::{
    agent::{Agent, Fleet, fleet::Transport},
    cluster::Cluster,
    eventually,
    postgres::Stop,
};

const AGENTS: usize = 40;
const POLICY: &str = "base";
/// The states that a rollout's driver takes it through, with the step; an operator promotes it once.
const GOOD: [(&str, i32); 6] =
    [("PROGRESSING", 1), ("BAKING", 1), ("AWAITING_APPROVAL", 1), ("PROGRESSING", 2), ("BAKING", 2), ("SUCCEEDED", 2)];
const BAD: [(&str, i32); 3] = [("PROGRESSING", 1), ("ROLLING_BACK", 1), ("ROLLED_BACK", 1)];

/// What a driver writes of a transition ends with a line in the audit log. There it waits while somebody holds the lock.
const GATE: &str = "
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.action = 'rollout.change' AND NEW.actor = 'system' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION gate()";

struct Scene {
    cluster: Cluster,
    fleet: Fleet,
    /// May hold the lock of the gate.
    database: PgConnection,
}

/// What becomes of the databases while nobody drives.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    RedisGoes,
    PostgresGoes,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_at_any_transition_changes_nothing() {
    let mut scene = Scene::set().await;
    scene.apply("first", "").await;
    scene.fleet.all_run("a.yaml", "first").await;
    scene.ends(1, "SUCCEEDED").await;

    scene.apply_in_steps("undisturbed").await;
    for (state, step) in GOOD {
        scene.reaches(2, state, step).await;
        scene.promote_if(state).await;
    }
    scene.close_gate().await;
    scene.apply_in_steps("disturbed").await;
    for (state, step) in GOOD {
        // An operator's transition is no driver's.
        if (state, step) != ("PROGRESSING", 2) {
            let meanwhile = match (state, step) {
                ("PROGRESSING", 1) => Meanwhile::RedisGoes,
                ("BAKING", 2) => Meanwhile::PostgresGoes,
                _ => Meanwhile::Nothing,
            };
            scene.kill_before_commit(3).await;
            scene.kill_after_commit(3, state, step, meanwhile).await;
        }
        scene.promote_if(state).await;
    }
    scene.open_gate().await;
    scene.fleet.all_run("a.yaml", "disturbed").await;
    assert_eq!(scene.history(3).await, scene.history(2).await);
    let good = scene.fleet.agents()[0].applied().cloned().unwrap();
    for offers in scene.offers() {
        assert_eq!((offers.len(), offers.last()), (3, Some(&good)), "each revision in its turn, and none again");
    }

    scene.apply_in_steps("poison").await;
    scene.ends(4, "ROLLED_BACK").await;
    scene.close_gate().await;
    scene.apply_in_steps("more poison").await;
    for (state, step) in BAD {
        scene.kill_before_commit(5).await;
        scene.kill_after_commit(5, state, step, Meanwhile::Nothing).await;
    }
    assert_eq!(scene.history(5).await, scene.history(4).await);
    scene.fleet.all("agents have answered", Agent::is_answered).await;
    scene.fleet.all("agents have the good one", |agent| agent.applied() == Some(&good)).await;
    for offers in scene.offers() {
        // To some, a bad one, or both, and the good one again after each.
        let since: Vec<_> = offers[2..].iter().map(|hash| *hash == good).collect();
        assert!(since.iter().enumerate().all(|(at, is_good)| *is_good == (at % 2 == 0)), "{offers:?}");
        assert!(since.len() <= 5 && since.last() == Some(&true), "{offers:?}");
    }
}

impl Scene {
    async fn set() -> Self {
        let cluster = Cluster::start(2, 2).await;
        let agents = (0..AGENTS).map(|index| Agent::new(index, "web").refusing("poison")).collect();
        let heartbeat = std::time::Duration::from_secs(2);
        let fleet = Fleet::of(agents, Transport::WebSocket, heartbeat, cluster.opamp(), cluster.agent_token());
        fleet.all_connected().await;
        let mut database = PgConnection::connect(cluster.database()).await.unwrap();
        sqlx::raw_sql(GATE).execute(&mut database).await.unwrap();
        Self { cluster, fleet, database }
    }

    async fn apply(&self, text: &str, rollout: &str) {
        let manifest = format!(
            "kind: Config\nname: {POLICY}\nselector: service.name = web\nfiles: {{a.yaml: {{body: {text}}}}}\n"
        );
        self.cluster.ctl(0).apply_written(&format!("{manifest}{rollout}")).await;
    }

    async fn apply_in_steps(&self, text: &str) {
        self.apply(text, "rollout: {steps: [10%, 100%], bake: 1s, approval: true}\n").await;
    }

    async fn promote_if(&self, state: &str) {
        if state == "AWAITING_APPROVAL" {
            self.cluster.ctl(1).run(&["rollout", "promote", POLICY]).await;
        }
    }

    /// The rollout of a revision: its state, step and version.
    async fn rollout(&mut self, revision: i64) -> Option<(String, i32, i64)> {
        let statement = "SELECT state, step, version FROM rollouts WHERE policy = $1 AND revision = $2";
        sqlx::query_as(statement).bind(POLICY).bind(revision).fetch_optional(&mut self.database).await.unwrap()
    }

    async fn reaches(&mut self, revision: i64, state: &str, step: i32) {
        let what = format!("revision {revision} is {state} in step {step}");
        eventually(&what, async || {
            let rollout = self.rollout(revision).await?;
            ((rollout.0.as_str(), rollout.1) == (state, step)).then_some(())
        })
        .await;
    }

    async fn ends(&mut self, revision: i64, state: &str) {
        self.reaches(revision, state, 1).await;
    }

    async fn close_gate(&mut self) {
        sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut self.database).await.unwrap();
    }

    async fn open_gate(&mut self) {
        sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut self.database).await.unwrap();
    }

    /// Kills the driver when it has written the next state, and is about to commit it. The gate stays closed.
    async fn kill_before_commit(&mut self, revision: i64) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND NOT granted";
        eventually("the driver is about to commit", async || {
            let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut self.database).await.unwrap();
            (count > 0).then_some(())
        })
        .await;
        let before = self.rollout(revision).await;
        let driver = self.driver().await;
        self.cluster.services[driver].kill();
        self.start(driver).await;
        assert_eq!(self.rollout(revision).await, before, "nothing is committed");
    }

    /// Lets the next state be committed, and kills whoever did. The gate is closed afterwards.
    async fn kill_after_commit(&mut self, revision: i64, state: &str, step: i32, meanwhile: Meanwhile) {
        self.open_gate().await;
        // As if the lease of whoever is dead had run out: it takes its seconds, and says nothing.
        sqlx::query("UPDATE leases SET expires_unix_ms = 0").execute(&mut self.database).await.unwrap();
        self.reaches(revision, state, step).await;
        let driver = self.driver().await;
        self.cluster.services[driver].kill();
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::RedisGoes => {
                self.cluster.redis.kill();
                self.fleet.heartbeat();
                self.cluster.redis.restart().await;
            }
            Meanwhile::PostgresGoes => {
                self.cluster.stop_postgres(Stop::Immediate);
                self.cluster.start_postgres();
                self.database = PgConnection::connect(self.cluster.database()).await.unwrap();
            }
        }
        self.close_gate().await;
        self.start(driver).await;
    }

    /// The replica that drives rollouts.
    async fn driver(&mut self) -> usize {
        let holder: String = sqlx::query_scalar("SELECT holder FROM leases WHERE name = 'rollouts'")
            .fetch_one(&mut self.database)
            .await
            .unwrap();
        self.cluster.services.iter().position(|service| holder.starts_with(&service.name)).unwrap()
    }

    async fn start(&mut self, service: usize) {
        self.cluster.services[service].start().await;
        self.cluster.services[service].ready().await;
    }

    /// What the audit log says of the rollout of a revision.
    async fn history(&mut self, revision: i64) -> Vec<(String, String, String, String)> {
        let statement = "SELECT actor, detail ->> 'state', detail ->> 'step', detail ->> 'reason' FROM audit
            WHERE action = 'rollout.change' AND target = $1 AND detail ->> 'revision' = $2 ORDER BY id";
        let query = sqlx::query_as(statement).bind(POLICY).bind(revision.to_string());
        let history: Vec<_> = query.fetch_all(&mut self.database).await.unwrap();
        println!("revision {revision}: {history:?}");
        assert!(!history.is_empty());
        history
    }

    /// The hashes that each agent was offered, without repeats of the same.
    fn offers(&self) -> Vec<Vec<bytes::Bytes>> {
        let of = |agent: Agent| {
            let mut offers = agent.seen.offers;
            offers.dedup();
            offers
        };
        self.fleet.agents().into_iter().map(of).collect()
    }
}
