//! `muster limited`: becomes another program, which can then take no more than it may. For programs that read what others
//! wrote.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::LimitedRole;

/// Files that it may have open, and the size of one that it writes.
const MAX_OPEN_FILES: u64 = 1_024;
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Returns only if it could not. There must be no other thread: one that makes another while this one becomes the program is
/// told that it cannot, and jemalloc then says so, again and again, in the program's name.
pub fn run(role: &LimitedRole) -> ExitCode {
    let Err(error) = become_program(role);
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn become_program(role: &LimitedRole) -> anyhow::Result<std::convert::Infallible> {
    let (program, arguments) = role.command.split_first().context("a program is needed")?;
    limit(Resource::Data, role.memory_bytes, 0)?;
    // At the limit it is told, a second later ended.
    limit(Resource::Cpu, role.cpu_seconds, 1)?;
    limit(Resource::Fsize, MAX_FILE_BYTES, 0)?;
    limit(Resource::Nofile, MAX_OPEN_FILES, 0)?;
    limit(Resource::Core, 0, 0)?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| program.clone())
}

/// Never more than it is.
fn limit(resource: Resource, limit: u64, grace: u64) -> anyhow::Result<()> {
    let highest = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = limit.saturating_add(grace).min(highest);
    setrlimit(resource, Rlimit { current: Some(limit.min(maximum)), maximum: Some(maximum) }).context("limits")
}
