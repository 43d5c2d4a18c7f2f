//! Who lives: a sorted set for each role, node ids scored by when their membership ends (milliseconds since the Unix
//! epoch by Redis's own clock, so that the nodes' clocks need not agree).

use std::{sync::LazyLock, time::Duration};

use redis::{FromRedisValue, RedisError, Script, ScriptInvocation, aio::MultiplexedConnection};

use super::commands::Run;
use crate::bus::Role;

/// The set itself ends with its last member, so that a deployment that is gone leaves nothing behind.
static ANNOUNCE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
         redis.call('ZADD', KEYS[1], string.format('%.0f', ends), ARGV[1])
         local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
         redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last[2] + 1))",
    )
});

static WITHDRAW: LazyLock<Script> = LazyLock::new(|| Script::new("redis.call('ZREM', KEYS[1], ARGV[1])"));

static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
         return redis.call('ZRANGE', KEYS[1], 0, -1)",
    )
});

pub(super) fn announce(prefix: &str, role: Role, node: &str, ttl: Duration) -> ScriptInvocation<'static> {
    let mut call = ANNOUNCE.key(key(prefix, role));
    call.arg(node).arg(ttl.as_millis() as u64);
    call
}

pub(super) fn withdraw(prefix: &str, role: Role, node: &str) -> ScriptInvocation<'static> {
    let mut call = WITHDRAW.key(key(prefix, role));
    call.arg(node);
    call
}

pub(super) fn list(prefix: &str, role: Role) -> ScriptInvocation<'static> {
    LIST.key(key(prefix, role))
}

fn key(prefix: &str, role: Role) -> String {
    let role = match role {
        Role::Gateway => "gateways",
        Role::ConfigService => "config-services",
    };
    format!("{prefix}:members/{role}")
}

impl Run for ScriptInvocation<'_> {
    async fn run<T: FromRedisValue + Send>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        self.invoke_async(connection).await
    }
}
