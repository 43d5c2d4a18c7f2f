//! Runs a validator, and ends it with everything that it began.

use std::{
    fmt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{self, Child},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Config,
    capture::Capture,
    command::{self, Command},
    folder::{File, Folder},
};

/// What was said and not read yet when it ends. Only a process that left the group can hold the pipe longer.
const LAST_WORDS: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 16 * 1024;

/// Why a revision did not pass.
#[derive(Debug)]
pub enum Failure {
    Refused {
        how: String,
        output: String,
    },
    TimedOut(Duration),
    /// It was ended for the processor's time that it took.
    TooMuchWork,
    TooMuchOutput,
    NotFound(String),
    NotRun(std::io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { how, output } if output.is_empty() => {
                write!(f, "the validator refused it ({how}), and did not say why")
            }
            Self::Refused { how, output } => write!(f, "the validator refused it ({how}):\n{output}"),
            Self::TimedOut(limit) => {
                let limit = humantime::format_duration(*limit);
                write!(f, "the validator had not come to an end after {limit}, and was ended; see validate-timeout")
            }
            Self::TooMuchWork => f.write_str("the validator took more of the processor's time than validate-timeout"),
            Self::TooMuchOutput => f.write_str("the validator said more than 1 MiB, and was ended"),
            Self::NotFound(program) => write!(f, "the validator was not found: {program:?} is not there any more"),
            Self::NotRun(error) => write!(f, "the validator could not be run: {error}"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::NotRun(error)
    }
}

/// Ends all processes of a group that is still there.
struct Group(Option<Pid>);

impl Group {
    fn end(&self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nothing, if it ends with success. Everything that it began is ended, also if the caller goes away.
pub async fn run(config: &Config, command: &Command, files: Vec<File>, deadline: Instant) -> Result<(), Failure> {
    let program = command.find_program().ok_or_else(|| Failure::NotFound(command.program().to_owned()))?;
    let written = tokio::task::spawn_blocking(move || Folder::write(files)).await;
    let folder = written.map_err(std::io::Error::other)??;
    let Some(arguments) = command.arguments(folder.path(), &folder.files) else { return Ok(()) };
    let (mut said, child) = start(config, &program, &arguments, folder.path())?;
    let mut capture = Capture::default();
    let ended = watch(child, &mut said, &mut capture, deadline).await?;
    let Some(status) = ended else { return Err(Failure::TimedOut(config.timeout)) };
    judge(status, capture.text(folder.path()))
}

/// A child in a group of its own, and what all that is in there says.
fn start(
    config: &Config,
    program: &Path,
    arguments: &[String],
    folder: &Path,
) -> Result<(pipe::Receiver, Child), Failure> {
    let (reader, writer) = std::io::pipe()?;
    // A process that goes through more than this of the processor's time than there is of any is not about to end.
    let cpu_seconds = config.timeout.as_secs().saturating_add(1);
    let child = process::Command::new(&config.launcher)
        .arg("limited")
        .args(["--memory-bytes", &config.memory_bytes.to_string(), "--cpu-seconds", &cpu_seconds.to_string(), "--"])
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", command::path())
        .env("HOME", folder)
        .env("TMPDIR", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer))
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, child))
}

/// How it ended; `None` if it was ended at `deadline`.
async fn watch(
    mut child: Child,
    said: &mut pipe::Receiver,
    capture: &mut Capture,
    deadline: Instant,
) -> Result<Option<ExitStatus>, Failure> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.ok_or_else(|| std::io::Error::other("it has no process id"))?;
    let mut group = Group(Some(pid));
    // The child stays as it is until its group has been ended: until then nobody else can have its number.
    let mut exit = tokio::task::spawn_blocking(move || {
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map(drop)
    });
    let (mut is_open, mut is_late) = (true, false);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        tokio::select! {
            read = said.read(&mut buffer), if is_open => match read {
                Ok(0) | Err(_) => is_open = false,
                Ok(bytes) if !capture.take(&buffer[..bytes]) => return Err(Failure::TooMuchOutput),
                Ok(_) => {}
            },
            _ = &mut exit => break,
            () = sleep_until(deadline), if !is_late => {
                is_late = true;
                group.end();
            }
        }
    }
    group.end();
    if is_open {
        let rest = async {
            while let Ok(bytes) = said.read(&mut buffer).await {
                if bytes == 0 || !capture.take(&buffer[..bytes]) {
                    break;
                }
            }
        };
        let _ = timeout(LAST_WORDS, rest).await;
    }
    group.0 = None;
    let status = child.wait().await?;
    Ok((!is_late).then_some(status))
}

fn judge(status: ExitStatus, output: String) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    if status.success() {
        return Ok(());
    }
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return Err(Failure::TooMuchWork);
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    Err(Failure::Refused { how, output })
}
