//! A private PostgreSQL on a port of its own. It syncs its log to disk as a real one does.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{Connection, PgConnection};

use super::{process::free_port, tls::Identity};

pub struct Server {
    binaries: PathBuf,
    /// Holds the data, the socket and the log; readable by the server's user.
    folder: PathBuf,
    port: u16,
    watchdog: Child,
}

/// How to stop a server.
#[derive(Clone, Copy)]
pub enum Stop {
    /// Ends transactions and connections in order.
    Fast,
    /// As a crash: nothing is written out, the next start recovers from the log.
    Immediate,
}

/// Waits for its input to end, as it does however the test ends; then stops the server and removes its folder.
const WATCHDOG: &str = "trap '' INT TERM HUP; read -r _; \"$1/pg_ctl\" -D \"$2/data\" -m immediate stop; rm -rf \"$2\"";

impl Server {
    /// The server that tests of one binary share, each with a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of the caller's own, to be stopped and started at will. It goes when this is dropped.
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// As [`Self::start`], with TLS for those who want it, and at 127.0.0.2, too, which is no name of the certificate.
    pub fn start_with_tls(identity: &Identity) -> Self {
        Self::start_as(Some(identity))
    }

    fn start_as(identity: Option<&Identity>) -> Self {
        let binaries = binaries();
        let folder = tempfile::Builder::new().prefix("muster-postgres-").tempdir().unwrap().keep();
        let user = server_user();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let watchdog = as_user("sh", user, &folder)
            .args(["-c", WATCHDOG, "watchdog"])
            .args([&binaries, &folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Self { binaries, folder, port: free_port(), watchdog };
        server
            .run("initdb", &["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nmax_connections = 200\n",
            server.port,
            server.folder.display(),
        );
        if let Some(identity) = identity {
            let (certificate, key) = identity.write(&server.folder, "server");
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            for file in [&certificate, &key] {
                if let Some((uid, gid)) = user {
                    chown(file, Some(uid), Some(gid)).unwrap();
                }
            }
            settings += &format!(
                "listen_addresses = '127.0.0.1, 127.0.0.2'\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
                certificate.display(),
                key.display()
            );
        }
        let file = server.folder.join("data/postgresql.conf");
        let defaults = fs::read_to_string(&file).unwrap();
        fs::write(file, defaults + &settings).unwrap();
        server.start_again();
        server
    }

    /// Starts a server that was stopped, on the port that it always has.
    pub fn start_again(&self) {
        self.run("pg_ctl", &["-D", "data", "-l", "log", "-w", "start"]);
    }

    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run("pg_ctl", &["-D", "data", "-m", mode, "-w", "stop"]);
    }

    /// The URL of a new, empty database. Its texts sort by language, as many a real one's do.
    pub async fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .expect("a database (PostgreSQL 15 or later, with ICU)");
        connection.close().await.unwrap();
        self.url(&name)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The server's process; its connections are children of it.
    pub fn pid(&self) -> u32 {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().trim().parse().unwrap()
    }

    /// From now on, the plans of what new connections to the database ask are kept; see [`Self::plans`].
    pub async fn explain(&self, database: &str) {
        let mut connection = PgConnection::connect(database).await.unwrap();
        let name = database.rsplit('/').next().unwrap();
        for (setting, value) in [
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_buffers", "on"),
            ("auto_explain.log_timing", "off"),
        ] {
            let statement = format!("ALTER DATABASE {name} SET {setting} = '{value}'");
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// The slowest plan of each statement, with how often it ran.
    pub fn plans(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap();
        let mut slowest = std::collections::BTreeMap::<String, (f64, u32, String)>::new();
        for entry in log.split("LOG:  duration: ").skip(1) {
            let Some((ms, plan)) = entry.split_once(" ms  plan:\n") else { continue };
            let ms: f64 = ms.parse().unwrap();
            // Its lines are indented; what follows belongs to the next entry.
            let lines: Vec<&str> = plan.lines().take_while(|line| line.starts_with('\t')).collect();
            let statement = lines.iter().take_while(|line| !line.contains("(cost=")).copied().collect::<Vec<_>>();
            let found = slowest.entry(statement.join("\n")).or_default();
            found.1 += 1;
            if ms >= found.0 {
                (found.0, found.2) = (ms, lines.join("\n"));
            }
        }
        let mut plans: Vec<_> = slowest.into_values().collect();
        plans.sort_by(|a, b| b.0.total_cmp(&a.0));
        plans.iter().map(|(ms, runs, plan)| format!("{runs} times, at most {ms} ms:\n{plan}\n\n")).collect()
    }

    /// Runs one of PostgreSQL's programs in the folder.
    fn run(&self, program: &str, arguments: &[&str]) {
        // Its output goes to a file: the server that pg_ctl starts would hold a pipe open.
        let log = fs::File::create(self.folder.join(format!("{program}.log"))).unwrap();
        let status = as_user(self.binaries.join(program), server_user(), &self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // A Ctrl-C for the test is not one for the server.
            .process_group(0)
            .status()
            .unwrap();
        if !status.success() {
            let read = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
            panic!("{program} {arguments:?}: {status}\n{}\n{}", read(&format!("{program}.log")), read("log"));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// PostgreSQL refuses to run as root: then its own user does it.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Option<Vec<&str>> =
        users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == "postgres");
    let fields = fields.expect("the user `postgres`: PostgreSQL's server does not run as root");
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn as_user(program: impl AsRef<std::ffi::OsStr>, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Where `initdb` and `pg_ctl` are: in the search path, or where Debian puts them, the newest version first.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
    folders
        .into_iter()
        .find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists())
        .expect("PostgreSQL's server: install it (Debian and Ubuntu: apt-get install postgresql)")
}
