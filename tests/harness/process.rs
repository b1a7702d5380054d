//! The command as a process, the way a user runs it: arguments in, output and exit code out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

/// A folder of its own to run the command in.
pub struct Workplace {
    folder: tempfile::TempDir,
    program: PathBuf,
    environment: BTreeMap<&'static str, String>,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Workplace {
    /// Makes an empty folder. `program` is the path of the command under test.
    pub fn new(program: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, program: program.into(), environment: BTreeMap::new() }
    }

    /// Gives these variables to every command from now on.
    #[must_use]
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("write a test file");
        path
    }

    /// Returns the command with these words, ready to be changed and started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        command.envs(&self.environment);
        command
    }

    /// Runs the command to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        finish(&mut self.command(words))
    }

    /// Runs the command, which must succeed, and returns its standard output.
    pub fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "headwater {}\n{}{}", words.join(" "), said.out, said.err);
        said.out
    }

    /// Runs a query and returns its rows.
    pub fn rows(&self, sql: &str, lake: &str) -> Vec<Value> {
        let out = self.ok(&["query", sql, "--lake", lake, "--output", "json"]);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// Runs a query that gives one value.
    pub fn value(&self, sql: &str, lake: &str) -> Value {
        let rows = self.rows(sql, lake);
        let [row] = rows.as_slice() else { panic!("{} rows instead of one", rows.len()) };
        let values = row.as_object().expect("a row is an object");
        values.values().next().expect("it has a column").clone()
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Said {
    let output = command.output().expect("start the command under test");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that runs in the background, with its log lines as they come. Killed when dropped.
pub struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    /// Starts a command; its standard error is read line by line.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start the command");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for the next log line; `None` when the process has ended.
    pub fn line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// Waits for a log line that contains `text`; fails when the process ends without one.
    pub fn line_with(&self, text: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.line() {
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with `{text}`:\n{}", seen.join("\n"))
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for the end, which must be a success.
    pub fn succeed(mut self) {
        // Its last line comes before it has ended: nobody waits for a process that waits for a reader.
        let lines: Vec<String> = self.lines.iter().collect();
        let status = self.child.wait().expect("wait for the command");
        assert!(status.success(), "{status}:\n{}", lines.join("\n"));
    }

    /// Waits for the end.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("wait for the command")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a folder of real input; tests that need one say that they are skipped where it is missing.
pub fn real_input(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED: {name} is not on this machine");
    None
}
