//! Real parts that tests quiesce: mounts that are always thawed and unmounted, databases, a guest
//! agent.

#![allow(dead_code, reason = "each test program uses some")]

pub mod databases;

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub fn missing(tools: &[&str]) -> bool {
    let found = |tool: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    match tools.iter().find(|tool| !found(tool)) {
        Some(tool) => {
            eprintln!("skipped: {tool} is not installed");
            true
        }
        None => false,
    }
}

pub fn cannot_mount(tools: &[&str]) -> bool {
    if missing(tools) || missing(&["losetup", "mount", "fsfreeze"]) {
        return true;
    }
    let user = Command::new("id").arg("-u").output().expect("id");
    let root = user.stdout.trim_ascii() == b"0";
    if !root {
        eprintln!("skipped: a mount needs root");
    }
    !root
}

/// Waits until a condition is met, for up to `limit`.
pub fn wait_until(limit: Duration, so: impl Fn() -> bool) -> Result<(), ()> {
    let pause = Duration::from_millis(20);
    for _ in 0..=limit.as_millis() / pause.as_millis() {
        if so() {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    Err(())
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let text = text(&output);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).expect("write");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("mode");
}

/// A file system on a loop device over its own file.
pub struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    pub fn new(kind: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        let mount = Self { directory };
        let image = mount.outside("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("image");
        run(&format!("mkfs.{kind}"), &["-q", &image.display().to_string()]);
        std::fs::create_dir(mount.path()).expect("directory");
        run("mount", &["-o", "loop", &image.display().to_string(), &mount.text()]);
        mount
    }

    pub fn path(&self) -> PathBuf {
        self.outside("mnt")
    }

    pub fn text(&self) -> String {
        self.path().display().to_string()
    }

    pub fn spec(&self) -> String {
        format!("fs:{}", self.text())
    }

    /// Returns a path beside the mount point, on the file system of the test.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns whether the file system is frozen, by a write on a thread.
    pub fn is_frozen(&self) -> bool {
        let path = self.path().join(format!("probe-{}", std::process::id()));
        let probe = std::thread::spawn(move || std::fs::write(path, "probe"));
        wait_until(Duration::from_millis(300), || probe.is_finished()).is_err()
    }

    pub fn writer(&self, name: &str) -> JoinHandle<std::io::Result<()>> {
        let path = self.path().join(name);
        std::thread::spawn(move || std::fs::write(path, "bytes"))
    }

    pub fn sqlite(&self) -> PathBuf {
        let path = self.path().join("data.db");
        make_sqlite(&path);
        path
    }

    /// Adds a row, unless the file system is frozen or the database locked.
    pub fn insert(&self, database: &Path) -> Result<(), String> {
        if self.is_frozen() { Err("frozen".to_owned()) } else { insert(database) }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Thaws what a test left frozen.
        let _ = Command::new("fsfreeze").arg("-u").arg(self.path()).output();
        for _ in 0..100 {
            let done = Command::new("umount").arg(self.path()).output();
            if done.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

pub fn make_sqlite(path: &Path) {
    let path = path.display().to_string();
    run(
        "sqlite3",
        &[&path, "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);"],
    );
}

/// Adds a row to a database that no one has locked.
pub fn insert(path: &Path) -> Result<(), String> {
    let output = Command::new("sqlite3").arg(path).arg("INSERT INTO t VALUES (2);").output();
    let output = output.expect("sqlite3");
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

/// How a guest agent behaves.
#[derive(Clone, Copy)]
pub struct Guest {
    pub frozen: bool,
    pub file_systems: u32,
    /// The command that fails.
    pub fails: &'static str,
    /// The command that is never answered.
    pub silent: &'static str,
    /// How long a freeze takes.
    pub slow: Duration,
}

impl Default for Guest {
    fn default() -> Self {
        Self { frozen: false, file_systems: 2, fails: "", silent: "", slow: Duration::ZERO }
    }
}

/// A guest agent that behaves like QEMU's: one client at a time, half a line from an earlier
/// client, 0xFF to start again, and only a few commands while frozen.
pub struct FakeGuest {
    path: PathBuf,
    state: Arc<Mutex<(Guest, Vec<String>)>>,
}

impl FakeGuest {
    pub fn start(path: &Path, guest: Guest) -> Self {
        let state = Arc::new(Mutex::new((guest, Vec::new())));
        let listener = UnixListener::bind(path).expect("bind");
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            while let Ok((peer, _)) = listener.accept() {
                serve_guest(peer, &shared);
            }
        });
        Self { path: path.to_owned(), state }
    }

    pub fn spec(&self) -> String {
        format!("qemu-ga:{}", self.path.display())
    }

    pub fn is_frozen(&self) -> bool {
        self.state.lock().expect("no panic").0.frozen
    }

    pub fn thaw(&self) {
        self.state.lock().expect("no panic").0.frozen = false;
    }

    pub fn asked(&self, command: &str) -> bool {
        self.state.lock().expect("no panic").1.iter().any(|asked| asked == command)
    }
}

fn serve_guest(mut peer: UnixStream, state: &Mutex<(Guest, Vec<String>)>) {
    // The half line from an earlier client.
    let mut line = b"{\"execute\": \"guest-".to_vec();
    let mut bytes = [0; 512];
    while let Ok(count @ 1..) = peer.read(&mut bytes) {
        for byte in &bytes[..count] {
            match byte {
                0xff => line.clear(),
                b'\n' => {
                    let answer = answer_as_guest(&String::from_utf8_lossy(&line), state);
                    line.clear();
                    if peer.write_all(&answer).is_err() {
                        return;
                    }
                }
                other => line.push(*other),
            }
        }
    }
}

fn answer_as_guest(line: &str, state: &Mutex<(Guest, Vec<String>)>) -> Vec<u8> {
    let command = line.split('"').nth(3).unwrap_or("").to_owned();
    let guest = {
        let mut state = state.lock().expect("no panic");
        state.1.push(command.clone());
        state.0
    };
    if command == guest.silent {
        return Vec::new();
    }
    let error = |text: &str| {
        format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{text}\"}}}}\n")
            .into_bytes()
    };
    let value = |text: &str| format!("{{\"return\": {text}}}\n").into_bytes();
    if command == guest.fails {
        return error("no \\\"luck\\\"");
    }
    let set = |frozen| state.lock().expect("no panic").0.frozen = frozen;
    match command.as_str() {
        "guest-sync-delimited" => {
            let id = line.rsplit("\"id\":").next().unwrap_or("").trim_end_matches('}');
            [b"stale\n\xff".as_slice(), &value(id)].concat()
        }
        "guest-fsfreeze-status" => value(if guest.frozen { "\"frozen\"" } else { "\"thawed\"" }),
        "guest-fsfreeze-freeze" if guest.frozen => {
            error("Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state")
        }
        "guest-fsfreeze-freeze" => {
            std::thread::sleep(guest.slow);
            set(guest.file_systems > 0);
            value(&guest.file_systems.to_string())
        }
        "guest-fsfreeze-thaw" => {
            set(false);
            value(&guest.file_systems.to_string())
        }
        _ => error("The command has not been found"),
    }
}

/// Returns bytes of a file, for checks of superblocks.
pub fn bytes_at<const N: usize>(path: &Path, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let file = std::fs::File::open(path).expect("open");
    file.read_exact_at(&mut bytes, offset).expect("read");
    bytes
}
