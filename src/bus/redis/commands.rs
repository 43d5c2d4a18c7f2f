//! The link for commands: one connection over which concurrent commands are pipelined.
//!
//! Architecture invariant: nothing waits for a link that is down, and nothing is queued for it.

use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{PING_INTERVAL, REPLY_TIMEOUT, backoff::Backoff, client::Outage};
use crate::bus::{Error, metrics};

const LINK: &str = "commands";

/// Commands that may wait for the connection's writer; more callers than that wait their turn.
const PIPELINE_LENGTH: usize = 1_024;

#[derive(Default)]
pub(super) struct Commands {
    connection: ArcSwapOption<Numbered>,
    last_number: AtomicU64,
    /// A command found the connection broken.
    broken: Notify,
}

struct Numbered {
    number: u64,
    connection: MultiplexedConnection,
}

/// A command, or a script call that is more than one.
pub(super) trait Run {
    fn run<T: FromRedisValue + Send>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<T, RedisError>> + Send;
}

impl Run for Cmd {
    async fn run<T: FromRedisValue + Send>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.query_async(connection).await
    }
}

impl Commands {
    pub(super) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    pub(super) async fn run<T: FromRedisValue + Send>(&self, command: &impl Run) -> Result<T, Error> {
        let Some(current) = self.connection.load_full() else {
            return Err(Error::Unreachable("not connected to Redis".to_owned()));
        };
        let mut connection = current.connection.clone();
        command.run(&mut connection).await.map_err(|error| {
            if error.is_unrecoverable_error() || error.is_timeout() {
                self.give_up(current.number);
            }
            Error::Unreachable(error.to_string())
        })
    }

    /// Takes the connection away from everybody, unless it is another one by now.
    fn give_up(&self, number: u64) {
        let is_current = self.connection.load().as_ref().is_some_and(|current| current.number == number);
        if is_current {
            self.connection.store(None);
            self.broken.notify_one();
        }
    }
}

/// Keeps the link: connects, watches over the connection, connects again. Never ends.
pub(super) async fn keep(client: Client, commands: std::sync::Arc<Commands>) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(REPLY_TIMEOUT))
        .set_response_timeout(Some(REPLY_TIMEOUT))
        .set_pipeline_buffer_size(PIPELINE_LENGTH);
    let mut backoff = Backoff::default();
    let mut outage = Outage::default();
    loop {
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                tracing::info!(link = LINK, "connected to Redis");
                metrics::link_up(LINK);
                backoff.reset();
                let error = watch_over(&commands, connection).await;
                metrics::link_down(LINK);
                outage.lost(LINK, &error);
            }
            Err(error) => outage.goes_on(LINK, &error.into()),
        }
        sleep(backoff.next_pause()).await;
    }
}

/// Lends the connection out until it proves broken. Returns why.
async fn watch_over(commands: &Commands, connection: MultiplexedConnection) -> String {
    let number = commands.last_number.fetch_add(1, Ordering::Relaxed) + 1;
    let mut own = connection.clone();
    commands.connection.store(Some(std::sync::Arc::new(Numbered { number, connection })));
    loop {
        if timeout(PING_INTERVAL, commands.broken.notified()).await.is_ok() {
            // The notification may have been left by an earlier connection.
            if commands.is_up() {
                continue;
            }
            return "a command failed or was not answered in time".to_owned();
        }
        if let Err(error) = redis::cmd("PING").query_async::<()>(&mut own).await {
            commands.give_up(number);
            return error.to_string();
        }
    }
}
