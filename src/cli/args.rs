//! The arguments of `musterctl`.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::output::Format;
use crate::model::{ContentHash, status::Status};

/// Sees and steers a fleet of telemetry agents through Muster's admin API.
#[derive(Parser)]
#[command(name = "musterctl", version, arg_required_else_help = true)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Whom to talk to. A flag comes before the environment, and that before the context.
#[derive(ClapArgs, Default)]
pub struct Global {
    /// Admin API, as URL or host:port [env: MUSTER_SERVER] [default: http://127.0.0.1:4321]
    #[arg(long, global = true)]
    pub server: Option<String>,
    /// Operator token [env: MUSTER_TOKEN]
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// File with the operator token [env: MUSTER_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Data folder of a `muster standalone` on this machine, for its operator.token [env: MUSTER_DATA_DIR] [default:
    /// ./muster-data]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show agents, policies or package files
    #[command(subcommand)]
    Get(Get),
    /// Show all that is known of one thing
    #[command(subcommand)]
    Describe(Describe),
    /// Follow changes as they happen
    #[command(subcommand)]
    Watch(Watch),
    /// Set or remove labels
    #[command(subcommand)]
    Label(Label),
    /// Make or change the policies that manifests describe: all of them together, or none
    Apply {
        /// Manifest files (YAML or JSON, one or more documents), or folders of them (*.yaml, *.yml, *.json); - is stdin
        #[arg(short = 'f', long = "filename", value_name = "FILE|FOLDER", required = true, num_args = 1..)]
        files: Vec<String>,
        #[command(flatten)]
        gathering: Gathering,
        /// Say what would happen, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Why; kept with the revisions
        #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
        message: String,
    },
    /// Show how two revisions of a policy differ, or what applying manifests would change: exit code 0 if nothing, 1 if anything,
    /// 2 for errors
    Diff {
        #[arg(required_unless_present = "files")]
        policy: Option<String>,
        /// From this revision [default: the stable one]
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
        /// To this revision [default: the newest]
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
        /// Manifest files or folders, as for apply: each policy's newest revision is compared with its manifest
        #[arg(short = 'f', long = "filename", value_name = "FILE|FOLDER", num_args = 1.., conflicts_with = "policy")]
        files: Vec<String>,
        #[command(flatten)]
        gathering: Gathering,
        #[command(flatten)]
        output: Output,
    },
    /// How the changes of policies go out, and what to do about it
    #[command(subcommand)]
    Rollout(Rollout),
    /// Have agents keep a revision of a policy whatever rollouts do
    Override {
        policy: String,
        #[command(flatten)]
        to: Recipients,
        #[command(flatten)]
        what: OverrideWhat,
        /// Why; kept with the override
        #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
        message: String,
        /// After which it goes by itself, such as 24h; never if left out
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "clear")]
        r#for: Option<Duration>,
        /// Say how many agents it concerns, and change nothing
        #[arg(long, conflicts_with = "clear")]
        dry_run: bool,
    },
    /// Show former revisions
    #[command(subcommand)]
    History(History),
    /// Delete a policy or a package file
    #[command(subcommand)]
    Delete(Delete),
    /// Upload files of packages, for policies to offer; one that is there already stays
    Upload {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Drop what is stored of an agent that is gone for good
    #[command(subcommand)]
    Forget(Forget),
    /// What one agent should run, how it is, and what it is made of
    #[command(subcommand)]
    Agent(Agent),
    /// Have agents restart; each that can gets the command once
    Restart {
        #[command(flatten)]
        to: Recipients,
        /// Agents a second over the whole fleet [default: 100]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        rate: u32,
        /// Do not wait until all have been told
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Send a custom message to agents that announced its capability
    Send {
        #[command(flatten)]
        to: Recipients,
        #[command(flatten)]
        data: Data,
        /// Do not wait until all have been told
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Follow the custom messages that agents send; json is an object a line
    Messages {
        /// Only of this custom capability
        #[arg(long, default_value = "", hide_default_value = true)]
        capability: String,
        /// Only of agents that match
        #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
        selector: String,
        #[command(flatten)]
        output: Output,
    },
    /// Have an agent issued the certificate that it asked for
    #[command(subcommand)]
    Approve(Approve),
    /// Deny an agent the certificate that it asked for, or revoke one that it has
    #[command(subcommand)]
    Deny(Deny),
    /// Summarise the fleet
    Fleet {
        #[command(flatten)]
        output: Output,
    },
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(Token),
    /// Servers and tokens by name, in a file ($MUSTER_CONFIG or ~/.config/muster/config.yaml)
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

/// Which manifests there are, and whether they are all.
#[derive(ClapArgs, Clone, Copy)]
pub struct Gathering {
    /// Look into folders within folders
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Delete every policy of the deployment that is not among the manifests
    #[arg(long)]
    pub prune: bool,
}

#[derive(ClapArgs)]
pub struct Output {
    /// How to show the answer
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// One agent, or those that a selector matches.
#[derive(ClapArgs)]
pub struct Recipients {
    #[arg(required_unless_present = "selector")]
    pub uid: Option<String>,
    /// All agents that match, such as: os.type = linux; an empty one matches every agent
    #[arg(short = 'l', long, conflicts_with = "uid")]
    pub selector: Option<String>,
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
pub struct OverrideWhat {
    /// Pin the agents to this revision
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Hold each agent on the revision that it should have now
    #[arg(long)]
    pub hold: bool,
    /// Let them have again what is right for them
    #[arg(long)]
    pub clear: bool,
}

/// What a custom message says.
#[derive(ClapArgs)]
pub struct Data {
    /// Custom capability, such as com.example.pause/v2
    #[arg(long)]
    pub capability: String,
    /// Kind of message
    #[arg(long = "type", value_name = "TYPE")]
    pub r#type: String,
    /// The payload
    #[arg(long, value_name = "TEXT")]
    pub data: Option<String>,
    /// File with the payload; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub data_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Get {
    /// All agents, or those that a selector matches
    Agents {
        /// Such as: os.type = linux, env in (prod, staging), !legacy
        #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
        selector: String,
        /// Only with one of these, such as: failed,drifted
        #[arg(long, value_delimiter = ',')]
        status: Vec<Status>,
        #[command(flatten)]
        output: Output,
    },
    /// One agent
    Agent {
        uid: String,
        #[command(flatten)]
        output: Output,
    },
    /// All policies
    Policies {
        #[command(flatten)]
        output: Output,
    },
    /// All rollouts, newest first
    Rollouts {
        #[command(flatten)]
        output: Output,
    },
    /// Agents that keep a revision of a policy whatever rollouts do
    Overrides {
        /// Only of this policy
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        policy: String,
        /// Only of this agent
        #[arg(long, value_name = "UID", default_value = "", hide_default_value = true)]
        agent: String,
        #[command(flatten)]
        output: Output,
    },
    /// All uploaded package files
    PackageFiles {
        #[command(flatten)]
        output: Output,
    },
    /// Certificates that agents asked for
    Certificates {
        /// Only of this agent
        #[arg(long, value_name = "UID", default_value = "", hide_default_value = true)]
        agent: String,
        /// Only in this state
        #[arg(long, value_enum)]
        state: Option<CertificateState>,
        #[command(flatten)]
        output: Output,
    },
    /// One policy; with json and yaml, its files too
    Policy {
        name: String,
        /// This revision of it [default: the newest]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        revision: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand)]
pub enum Rollout {
    /// A rollout of a policy
    Status {
        policy: String,
        /// The rollout of this revision; the newest if left out
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// Follow it until it has ended
        #[arg(long, conflicts_with = "wait")]
        watch: bool,
        /// Follow it until it has ended or is paused: exit code 0 if it succeeded, 3 if it was rolled back or aborted, 4 if it is
        /// paused, 5 after the time-out
        #[arg(long)]
        wait: bool,
        /// How long to wait, such as 5m; for ever if left out
        #[arg(long, value_parser = humantime::parse_duration, requires = "wait")]
        timeout: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// All rollouts of a policy, newest first
    History {
        policy: String,
        #[command(flatten)]
        output: Output,
    },
    /// Have nothing further happen by itself
    Pause { policy: String },
    /// Go on where it was paused; failures up to now count no longer
    Resume { policy: String },
    /// Go on to the next step, whatever this one waits for
    Promote {
        policy: String,
        /// Pass over all further steps
        #[arg(long)]
        full: bool,
    },
    /// End it: every agent gets the stable revision
    Abort { policy: String },
    /// Bring agents back to what they had before
    Undo {
        policy: String,
        /// Back to this revision
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
        /// Why
        #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
        message: String,
    },
}

#[derive(Subcommand)]
pub enum Approve {
    /// A request for a certificate
    Certificate { id: String },
}

#[derive(Subcommand)]
pub enum Deny {
    /// A request for a certificate, or a certificate
    Certificate { id: String },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum CertificateState {
    Pending,
    Denied,
    Issued,
    Superseded,
    Revoked,
}

#[derive(Subcommand)]
pub enum Describe {
    /// An agent
    Agent { uid: String },
}

#[derive(Subcommand)]
pub enum Watch {
    /// Agents, as they are and as they change; json is an object a line
    Agents {
        #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
        selector: String,
        /// Only with one of these, such as: failed,drifted
        #[arg(long, value_delimiter = ',')]
        status: Vec<Status>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand)]
pub enum Label {
    /// An agent's labels
    Agent {
        uid: String,
        /// KEY=VALUE sets a label, KEY- removes one
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum History {
    /// A policy's revisions, newest first
    Policy {
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand)]
pub enum Delete {
    /// A policy
    Policy {
        name: String,
        /// Only if the policy has this etag, as `get policy` shows it
        #[arg(long)]
        etag: Option<String>,
    },
    /// An uploaded file that no policy offers
    PackageFile {
        #[arg(value_name = "SHA256", value_parser = sha256)]
        sha256: ContentHash,
    },
}

fn sha256(text: &str) -> Result<ContentHash, String> {
    text.parse().map_err(|_| "must be 64 hexadecimal digits".to_owned())
}

#[derive(Subcommand)]
pub enum Forget {
    /// An agent, with its labels; it is known again when it reports again
    Agent {
        uid: String,
        /// Also when it is connected
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand)]
pub enum Agent {
    /// The files that an agent should run, and the policy that each came from
    Config {
        uid: String,
        /// What the agent says that it runs
        #[arg(long)]
        effective: bool,
        /// The difference from what it runs to what it should run
        #[arg(long, conflicts_with = "effective")]
        diff: bool,
        #[command(flatten)]
        output: Output,
    },
    /// The health of an agent and its components
    Health {
        uid: String,
        /// How it changed, newest first
        #[arg(long)]
        history: bool,
        #[command(flatten)]
        output: Output,
    },
    /// What an agent is built from
    Components {
        uid: String,
        #[command(flatten)]
        output: Output,
    },
    /// Offer an agent again what it should have, of every kind, although it refused it or has drifted from it
    Retry { uid: String },
    /// The packages that an agent should have, the policy that each came from, and what it says of them
    Packages {
        uid: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand)]
pub enum Token {
    /// Make a token, and print it alone on stdout
    Create {
        kind: TokenKind,
        /// Its name, for you to know it by
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// How long it is good, such as 30d; for ever if left out
        #[arg(long, value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// All tokens, without their text
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a token worthless
    Revoke {
        /// Its id or its name
        #[arg(value_name = "TOKEN")]
        id_or_name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TokenKind {
    /// Lets agents connect
    Agent,
    /// Lets operators use the admin API
    Operator,
}

#[derive(Subcommand)]
pub enum Config {
    /// Make or change a context from --server, and --token or --token-file
    SetContext { name: String },
    /// Make a context the current one
    UseContext { name: String },
    /// All contexts
    GetContexts {
        #[command(flatten)]
        output: Output,
    },
}
