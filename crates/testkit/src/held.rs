//! A server that dies with whoever started it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::JoinHandle,
};

use anyhow::{Context, Result, bail};

/// Whoever ends a whole process group, as a time limit does, ends this shell with it, and a trap lets it clean up first.
/// Starts `$@` in a session and process group of its own, kills the group when told to or when nobody can tell any more, and then
/// removes the directory unless it is to be kept.
const HOLD: &str = r#"trap : HUP INT TERM
dir="$1"; shift
setsid "$@" </dev/null & server=$!
read -r word
kill -s KILL -- "-$server" 2>/dev/null; wait "$server"
[ "$word" = keep ] || rm -rf -- "$dir""#;

/// A server's process and its directory.
#[derive(Debug)]
pub(crate) struct Held {
    directory: PathBuf,
    /// The command, to start it again.
    program: Vec<String>,
    variables: Vec<(String, String)>,
    /// Part of the line that it writes when it takes connections.
    ready: &'static str,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    shell: Child,
    /// A word tells the shell to end the server; so does its end.
    input: ChildStdin,
    /// Reads what the server writes, until nobody is left who could write: only then are its ports free.
    output: Option<JoinHandle<()>>,
}

impl Held {
    /// Starts a server in a new directory; `program` gets the directory's path and says what to run.
    pub(crate) fn start(
        ready: &'static str,
        program: impl FnOnce(&Path) -> Result<(Vec<String>, Vec<(String, String)>)>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("outboard-test-").tempdir()?.keep();
        let (program, variables) = program(&directory)?;
        let mut held = Self { directory, program, variables, ready, running: None };
        held.run()?;
        Ok(held)
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts it again after [`Held::kill`], on what it left behind.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", HOLD, "hold"]).arg(&self.directory).args(&self.program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("there is a /bin/sh")?;
        let input = child.stdin.take().expect("stdin is piped");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        self.running = Some(Running { shell: child, input, output: None });
        let mut said = Vec::new();
        loop {
            let Some(line) = output.next() else { bail!("the server ended:\n{}", said.join("\n")) };
            let line = line.unwrap_or_default();
            if line.contains(self.ready) {
                break;
            }
            said.push(line);
        }
        // Nobody reads any more, and it must not wait for somebody who does.
        let output = std::thread::spawn(move || output.for_each(drop));
        self.running.as_mut().expect("it was started above").output = Some(output);
        Ok(())
    }

    /// `kill -9`, and waits until it is gone; its directory stays.
    pub(crate) fn kill(&mut self) {
        self.end(b"keep\n");
    }

    fn end(&mut self, word: &[u8]) {
        let Some(Running { mut shell, mut input, output }) = self.running.take() else { return };
        // The shell may be gone, and the server with it.
        let _ = input.write_all(word);
        drop(input);
        let _ = shell.wait();
        if let Some(output) = output {
            let _ = output.join();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(b"remove\n");
        // The shell was not there any more if it was killed before.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Ports that nobody uses now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("there is a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// A command's words as owned texts.
pub(crate) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}
