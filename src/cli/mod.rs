//! `musterctl`: the operator's command line over the admin API.
//!
//! It owns arguments, contexts, manifests and how answers look. It must not know anything of the server but its API: data goes to
//! stdout, everything else to stderr, and the exit code is 0 only when all went well.

mod args;
mod command;
mod connection;
mod contexts;
mod difference;
mod error;
mod local_file;
pub mod manifest;
mod output;
mod text;
mod view;

use std::process::ExitCode;

use clap::Parser;

use args::{
    Agent, Approve, Args, Command, Config, Delete, Deny, Describe, Forget, Get, History, Label, Rollout, Token, Watch,
};
use connection::Client;
use error::Result;

/// Runs `musterctl` with the process's arguments.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(error::Error::Message(format!("the program could not start: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error::Error::Exit(code, message)) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let global = args.global;
    match args.command {
        Command::Completion { shell } => command::completion(shell),
        Command::Config(Config::SetContext { name }) => command::contexts::set(&name, &global),
        Command::Config(Config::UseContext { name }) => command::contexts::choose(&name),
        Command::Config(Config::GetContexts { output }) => command::contexts::list(output.format),
        Command::Diff { policy, from, to, files, gathering, output } => {
            let what = match policy {
                Some(_) if gathering.recursive || gathering.prune => {
                    let problem = "-R and --prune are about manifests, and need -f";
                    return Err(error::Error::Exit(command::diff::TROUBLE, problem.to_owned()));
                }
                Some(policy) => command::diff::What::Revisions { policy, from, to },
                None => command::diff::What::Manifests { files, gathering },
            };
            command::diff::diff(&global, what, output.format).await
        }
        command => Box::pin(call(command, Client::connect(&global).await?)).await,
    }
}

/// The commands that talk to a server.
async fn call(command: Command, client: Client) -> Result<()> {
    use command::{
        agent_config, agent_packages, agents, apply, certificates, commands, fleet, package_files, policies, tokens,
    };
    match command {
        Command::Get(Get::Agents { selector, status, output }) => {
            agents::list(&client, selector, &status, output.format).await
        }
        Command::Get(Get::Agent { uid, output }) => agents::get(&client, uid, output.format).await,
        Command::Get(Get::Policies { output }) => policies::list(&client, output.format).await,
        Command::Get(Get::Policy { name, revision, output }) => {
            policies::get(&client, name, revision, output.format).await
        }
        Command::Get(Get::PackageFiles { output }) => package_files::list(&client, output.format).await,
        Command::Get(Get::Certificates { agent, state, output }) => {
            certificates::list(&client, agent, state, output.format).await
        }
        Command::Approve(Approve::Certificate { id }) => certificates::approve(&client, id).await,
        Command::Deny(Deny::Certificate { id }) => certificates::deny(&client, id).await,
        Command::Describe(Describe::Agent { uid }) => agents::describe(&client, uid).await,
        Command::Watch(Watch::Agents { selector, status, output }) => {
            command::watch::agents(&client, selector, &status, output.format).await
        }
        Command::Label(Label::Agent { uid, changes }) => agents::label(&client, uid, &changes).await,
        Command::Apply { files, gathering, dry_run, message } => {
            apply::apply(&client, &files, gathering, dry_run, &message).await
        }
        Command::Rollout(rollout) => self::rollout(rollout, &client).await,
        Command::Override { policy, to, what, message, r#for, dry_run } => {
            let how = command::overrides::How { message, expires: r#for, is_dry: dry_run };
            command::overrides::change(&client, policy, to, what, how).await
        }
        Command::Get(Get::Overrides { policy, agent, output }) => {
            command::overrides::list(&client, policy, agent, output.format).await
        }
        Command::Get(Get::Rollouts { output }) => command::rollouts::list(&client, output.format).await,
        Command::History(History::Policy { name, output }) => policies::history(&client, name, output.format).await,
        Command::Delete(Delete::Policy { name, etag }) => policies::delete(&client, name, etag).await,
        Command::Delete(Delete::PackageFile { sha256 }) => package_files::delete(&client, sha256).await,
        Command::Upload { files } => package_files::upload(&client, &files).await,
        Command::Forget(Forget::Agent { uid, force }) => agents::forget(&client, uid, force).await,
        Command::Agent(Agent::Config { uid, effective, diff, output }) => {
            agent_config::show(&client, uid, agent_config::Part::of(effective, diff), output.format).await
        }
        Command::Agent(Agent::Health { uid, history, output }) => {
            command::health::show(&client, uid, history, output.format).await
        }
        Command::Agent(Agent::Packages { uid, output }) => agent_packages::show(&client, uid, output.format).await,
        Command::Agent(Agent::Components { uid, output }) => {
            command::components::show(&client, uid, output.format).await
        }
        Command::Agent(Agent::Retry { uid }) => agents::retry(&client, uid).await,
        Command::Restart { to, rate, no_wait, output } => {
            commands::restart(&client, to, rate, no_wait, output.format).await
        }
        Command::Send { to, data, no_wait, output } => commands::send(&client, to, data, no_wait, output.format).await,
        Command::Messages { capability, selector, output } => {
            commands::messages(&client, capability, selector, output.format).await
        }
        Command::Fleet { output } => fleet::summary(&client, output.format).await,
        Command::Token(Token::Create { kind, name, expires }) => tokens::create(&client, kind, name, expires).await,
        Command::Token(Token::List { output }) => tokens::list(&client, output.format).await,
        Command::Token(Token::Revoke { id_or_name }) => tokens::revoke(&client, id_or_name).await,
        Command::Completion { .. } | Command::Config(_) | Command::Diff { .. } => Ok(()),
    }
}

async fn rollout(command: Rollout, client: &Client) -> Result<()> {
    use crate::proto::admin::control_rollout_request::Action;
    use command::rollouts::{self, Follow};
    match command {
        Rollout::Status { policy, revision, watch, wait, timeout, output } => {
            let follow = match (watch, wait) {
                (_, true) => Follow::Wait { timeout },
                (true, _) => Follow::Watch,
                _ => Follow::No,
            };
            rollouts::status(client, policy, revision.unwrap_or(0), follow, output.format).await
        }
        Rollout::History { policy, output } => rollouts::history(client, policy, output.format).await,
        Rollout::Pause { policy } => rollouts::control(client, policy, Action::Pause).await,
        Rollout::Resume { policy } => rollouts::control(client, policy, Action::Resume).await,
        Rollout::Promote { policy, full: false } => rollouts::control(client, policy, Action::Promote).await,
        Rollout::Promote { policy, full: true } => rollouts::control(client, policy, Action::PromoteFully).await,
        Rollout::Abort { policy } => rollouts::control(client, policy, Action::Abort).await,
        Rollout::Undo { policy, to_revision, message } => rollouts::undo(client, policy, to_revision, message).await,
    }
}
