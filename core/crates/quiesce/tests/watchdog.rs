//! The watchdog against real parts: loop-mounted file systems, SQLite, scripts, a guest agent, and
//! agents that die.
//!
//! A test is skipped, with a message, if a tool or permission is missing. A guard thaws and
//! unmounts every mount, because a writer on a frozen mount cannot be killed.

mod parts;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hrl::{ErrorKind, Quiesce, QuiesceRequest};
use hrl_quiesce::{Applications, InOrder, set_watchdog};
use parts::{FakeGuest, Guest, Mount, cannot_mount, missing, wait_until};

const SECOND: Duration = Duration::from_secs(1);
/// Longest time from a death to the release that follows it.
const AT_ONCE: Duration = Duration::from_secs(3);

fn applications(specs: &[String]) -> Applications {
    set_watchdog([env!("CARGO_BIN_EXE_hrl-watchdog")]);
    Applications::parse(specs).expect("specifications")
}

fn request(limit: Duration) -> QuiesceRequest {
    QuiesceRequest::new("disk", limit)
}

#[allow(clippy::disallowed_methods, reason = "a test measures how long a real process takes")]
fn now() -> Instant {
    Instant::now()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A script application that records its calls.
fn noting(log: &Path, pre: &str) -> String {
    let log = log.display();
    format!("script:?pre=echo pre $HRL_VOLUME >>{log}; {pre}&post=echo $HRL_PHASE >>{log}")
}

#[test]
fn a_file_system_is_frozen_between_quiesce_and_release() {
    if cannot_mount(&["mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let frozen = applications(&[mount.spec()]);
    frozen.quiesce(&request(5 * SECOND)).expect("freeze");
    frozen.still_quiesced().expect("frozen");
    let writer = mount.writer("a");
    std::thread::sleep(SECOND / 5);
    assert!(!writer.is_finished(), "a write to a frozen file system went through");
    frozen.release().expect("thaw");
    writer.join().expect("writer").expect("write");
    frozen.release().expect("nothing to release");
    // A freeze of another program must not be undone.
    run("fsfreeze", &["-f", &mount.text()]);
    let error = frozen.quiesce(&request(5 * SECOND)).expect_err("frozen already");
    let _ = frozen.release();
    assert!(error.to_string().contains("it is frozen already"), "{error}");
    assert!(mount.is_frozen());
    run("fsfreeze", &["-u", &mount.text()]);
}

#[test]
fn a_file_system_that_the_agent_writes_to_is_refused() {
    if cannot_mount(&["mkfs.ext4"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let frozen = applications(&[mount.spec()]);
    let state = mount.path().join("state");
    std::fs::create_dir(&state).expect("directory");
    let mut request = request(SECOND);
    request.written.push(state.clone());
    let error = frozen.quiesce(&request).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("would wait for itself"), "{error}");
    assert!(!mount.is_frozen());
    let inside = applications(&[format!("fs:{}", state.display())]);
    let error = inside.quiesce(&self::request(SECOND)).expect_err("refused");
    assert!(error.to_string().contains("expected a mount point"), "{error}");
}

#[test]
fn promise_8_applications_are_released_at_the_limit() {
    if cannot_mount(&["mkfs.ext4", "sqlite3"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let database = mount.sqlite();
    let log = mount.outside("log");
    let three =
        applications(&[mount.spec(), noting(&log, ""), format!("sqlite:{}", database.display())]);
    let start = now();
    three.quiesce(&request(2 * SECOND)).expect("quiesce");
    assert_eq!(lines(&log), ["pre disk"]);
    assert!(mount.is_frozen());
    // No release is requested.
    wait_until(AT_ONCE, || !mount.is_frozen()).expect("thawed");
    let took = start.elapsed();
    assert!(took > SECOND && took < 3 * SECOND, "{took:?}");
    three.still_quiesced().expect_err("it was released");
    wait_until(AT_ONCE, || lines(&log).len() == 2).expect("post was run");
    let error = three.release().expect_err("not quiesced to the end");
    assert!(error.to_string().contains("time limit"), "{error}");
    mount.insert(&database).expect("the lock is gone");
    assert_eq!(lines(&log), ["pre disk", "post"]);
}

#[test]
fn a_lock_of_sqlite_keeps_writers_out_until_the_release() {
    if missing(&["sqlite3"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let database = directory.path().join("a.db");
    parts::make_sqlite(&database);
    let sqlite = applications(&[format!("sqlite:{}", database.display())]);
    sqlite.quiesce(&request(5 * SECOND)).expect("lock");
    parts::insert(&database).expect_err("locked");
    let log = std::fs::metadata(directory.path().join("a.db-wal")).map_or(0, |found| found.len());
    assert_eq!(log, 0, "the log was emptied into the database");
    sqlite.release().expect("unlock");
    parts::insert(&database).expect("unlocked");
    let absent = applications(&[format!("sqlite:{}.no", database.display())]);
    let error = absent.quiesce(&request(SECOND)).expect_err("absent");
    let _ = absent.release();
    assert!(error.to_string().contains("a.db.no"), "{error}");
    assert!(!directory.path().join("a.db.no").exists());
}

#[test]
fn a_lock_is_lost_with_its_client() {
    if missing(&["sqlite3", "pkill"]) {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let database = directory.path().join("lost.db");
    parts::make_sqlite(&database);
    let sqlite = applications(&[format!("sqlite:{}", database.display())]);
    sqlite.quiesce(&request(10 * SECOND)).expect("lock");
    // The loss must be noticed at the very end too, even if nobody checked in between.
    run("pkill", &["-9", "-f", &format!("^sqlite3 .*{}", database.display())]);
    let error = sqlite.release().expect_err("lost");
    assert!(error.to_string().contains("its client ended"), "{error}");
    sqlite.quiesce(&request(10 * SECOND)).expect("lock");
    run("pkill", &["-9", "-f", &format!("^sqlite3 .*{}", database.display())]);
    wait_until(AT_ONCE, || sqlite.still_quiesced().is_err()).expect("noticed");
    sqlite.release().expect_err("lost");
}

#[test]
fn hooks_that_fail_or_hang_are_killed_and_followed_by_post() {
    let directory = tempfile::tempdir().expect("directory");
    let log = directory.path().join("log");
    let failing = applications(&[noting(&log, "echo no space >%262; exit 3")]);
    let error = failing.quiesce(&request(5 * SECOND)).expect_err("it fails");
    assert!(error.to_string().contains("exit status: 3, saying \"no space\""), "{error}");
    failing.release().expect("nothing is quiesced");
    assert_eq!(lines(&log), ["pre disk", "post"]);

    std::fs::remove_file(&log).expect("remove");
    let marker = directory.path().join("alive");
    // The shell's child survives unless the whole group is killed.
    let pre = format!("(sleep 2; touch {}) %26 sleep 60", marker.display());
    let hanging = applications(&[format!("{}&limit-ms=500", noting(&log, &pre))]);
    let start = now();
    let error = hanging.quiesce(&request(20 * SECOND)).expect_err("it hangs");
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    assert!(error.to_string().contains("time limit"), "{error}");
    let _ = hanging.release();
    assert_eq!(lines(&log), ["pre disk", "post"]);
    std::thread::sleep(2 * SECOND);
    assert!(!marker.exists(), "a child of the hook outlived it");

    // An executable gets the phase as its argument, and a hanging post is killed as well.
    let hook = directory.path().join("hook");
    parts::executable(
        &hook,
        "#!/bin/sh\n[ $1 = $HRL_PHASE ] || exit 9\n[ $1 = pre ] || sleep 60\n",
    );
    let hook = applications(&[format!("script:{}?limit-ms=300", hook.display())]);
    hook.quiesce(&request(5 * SECOND)).expect("pre");
    let error = hook.release().expect_err("post hangs");
    assert!(error.to_string().contains("post of script:"), "{error}");
}

#[test]
fn the_first_failure_releases_what_was_quiesced_before() {
    if cannot_mount(&["mkfs.ext4", "sqlite3"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let database = mount.sqlite();
    let both = applications(&[
        format!("qemu-ga:{}", mount.outside("no.sock").display()),
        format!("sqlite:{}", database.display()),
    ]);
    let error = both.quiesce(&request(5 * SECOND)).expect_err("no such socket");
    assert!(error.to_string().contains("no.sock"), "{error}");
    let _ = both.release();
    mount.insert(&database).expect("not locked");
    // The same across two kinds of provider.
    let log = mount.outside("log");
    let first = Arc::new(applications(&[noting(&log, "")]));
    let composed = InOrder::new(vec![first, Arc::new(both)]);
    composed.quiesce(&request(5 * SECOND)).expect_err("the second fails");
    let _ = composed.release();
    assert_eq!(lines(&log), ["pre disk", "post"]);
}

#[test]
fn without_a_watchdog_nothing_is_quiesced() {
    // In a separate process, because the watchdog's command is a setting of the process.
    let directory = tempfile::tempdir().expect("directory");
    let log = directory.path().join("log");
    let said = agent(&[noting(&log, "")], "none", "stay").stdin(Stdio::null()).output();
    let said = String::from_utf8_lossy(&said.expect("agent").stdout).into_owned();
    assert!(said.contains("refused: cannot start the watchdog"), "{said}");
    assert!(!log.exists());
}

/// This program again, as an agent that quiesces and then follows commands.
fn agent(specs: &[String], watchdog: &str, act: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("program"));
    command
        .args(["child_agent", "--exact", "--nocapture"])
        .env("HRL_TEST_SPECS", specs.join("\n"))
        .env("HRL_TEST_WATCHDOG", watchdog)
        .env("HRL_TEST_ACT", act)
        .stdout(Stdio::piped());
    command
}

#[test]
fn child_agent() {
    let Ok(specs) = std::env::var("HRL_TEST_SPECS") else { return };
    match std::env::var("HRL_TEST_WATCHDOG").expect("watchdog").as_str() {
        "" => set_watchdog([env!("CARGO_BIN_EXE_hrl-watchdog")]),
        other => set_watchdog([other]),
    }
    let act = std::env::var("HRL_TEST_ACT").expect("act");
    let applications = Applications::parse(specs.lines()).expect("specifications");
    let say = |text: &str| {
        println!("\n{text}");
        std::io::stdout().flush().expect("flush");
    };
    match applications.quiesce(&request(4 * SECOND)) {
        Ok(()) => say("quiesced"),
        Err(error) => {
            say(&format!("refused: {error}"));
            let _ = applications.release();
            return;
        }
    }
    if act == "release" {
        let _ = applications.release();
        say("released");
    }
    std::thread::sleep(60 * SECOND);
}

/// A child process, killed and reaped when dropped.
struct Killed(Child);

impl Killed {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("agent"))
    }

    fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.0.id().to_string()]);
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn promise_8_freezes_end_when_the_agent_is_killed_at_any_step() {
    if cannot_mount(&["mkfs.ext4", "sqlite3"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let database = mount.sqlite();
    let log = mount.outside("log");
    // A slow hook turns instants into steps of measurable length.
    let slow = noting(&log, "sleep 0.2");
    let specs = [slow, format!("sqlite:{}", database.display()), mount.spec()];
    let kill_after = |millis: u64, signal: &str, act: &str| {
        let _ = std::fs::remove_file(&log);
        let agent = Killed::start(agent(&specs, "", act));
        std::thread::sleep(Duration::from_millis(millis));
        agent.signal(signal);
        let stopped = now();
        if signal == "-9" {
            drop(agent);
        }
        let free = || !mount.is_frozen() && mount.insert(&database).is_ok();
        let noted = || lines(&log).iter().filter(|line| *line == "post").count();
        let done = || lines(&log).is_empty() || noted() == 1;
        wait_until(6 * SECOND, || free() && done()).unwrap_or_else(|()| {
            panic!("after {signal} at {millis} ms: {:?}", lines(&log));
        });
        stopped.elapsed()
    };
    // Steps: ready, hook, prepare, quiesce, quiesced, release.
    for millis in [1, 5, 10, 20, 50, 100, 150, 200, 250, 300, 400, 600] {
        for act in ["stay", "release"] {
            let took = kill_after(millis, "-9", act);
            assert!(took < AT_ONCE, "killed at {millis} ms: {took:?}");
        }
    }
    // A stopped agent is waited for until the limit.
    kill_after(700, "-STOP", "stay");
}

#[test]
fn promise_8_the_agent_releases_what_a_killed_watchdog_had_quiesced() {
    if cannot_mount(&["mkfs.ext4", "pkill"]) {
        return;
    }
    let mount = Mount::new("ext4");
    let log = mount.outside("log");
    let both = applications(&[mount.spec(), noting(&log, "")]);
    both.quiesce(&request(10 * SECOND)).expect("quiesce");
    assert!(mount.is_frozen());
    run("pkill", &["-9", "-P", &std::process::id().to_string(), "hrl-watchdog"]);
    wait_until(AT_ONCE, || both.still_quiesced().is_err()).expect("noticed");
    both.release().expect_err("no point");
    assert!(!mount.is_frozen());
    assert_eq!(lines(&log), ["pre disk", "post"]);
}

#[test]
fn a_guest_is_frozen_and_thawed_by_its_agent() {
    let directory = tempfile::tempdir().expect("directory");
    let guest = FakeGuest::start(&directory.path().join("qga"), Guest::default());
    let by_agent = applications(&[guest.spec()]);
    by_agent.quiesce(&request(5 * SECOND)).expect("freeze");
    assert!(guest.is_frozen());
    by_agent.release().expect("thaw");
    assert!(!guest.is_frozen());

    // A guest that is frozen by another, unable, silent or lost is not quiesced, and is thawed if
    // we froze it.
    let cases: [(Guest, &str); 4] = [
        (
            Guest { frozen: true, ..Guest::default() },
            "expected a guest that is thawed, found frozen",
        ),
        (
            Guest { fails: "guest-fsfreeze-freeze", ..Guest::default() },
            "guest-fsfreeze-freeze failed: found no \"luck\"",
        ),
        (Guest { silent: "guest-fsfreeze-status", ..Guest::default() }, "limit"),
        (Guest { file_systems: 0, ..Guest::default() }, "no file system"),
    ];
    for (number, (guest, expected)) in cases.into_iter().enumerate() {
        let was = guest.frozen;
        let guest = FakeGuest::start(&directory.path().join(format!("qga{number}")), guest);
        let by_agent = applications(&[guest.spec()]);
        let error = by_agent.quiesce(&request(SECOND)).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        let _ = by_agent.release();
        assert_eq!(guest.is_frozen(), was, "{expected}");
    }
    // If another program thaws the guest, the release reports it.
    by_agent.quiesce(&request(5 * SECOND)).expect("freeze");
    guest.thaw();
    let error = by_agent.release().expect_err("not frozen all the time");
    assert!(error.to_string().contains("expected a guest that is frozen"), "{error}");
    // An agent that answered too late has frozen all the same.
    let slow = Guest { slow: SECOND * 3 / 2, ..Guest::default() };
    let guest = FakeGuest::start(&directory.path().join("slow"), slow);
    let by_agent = applications(&[guest.spec()]);
    by_agent.quiesce(&request(SECOND)).expect_err("too late");
    let _ = by_agent.release();
    wait_until(10 * SECOND, || guest.asked("guest-fsfreeze-thaw") && !guest.is_frozen())
        .expect("thawed");
}

#[test]
fn writes_to_redis_wait_and_earlier_ones_are_on_disk() {
    if missing(&["redis-server", "redis-cli"]) {
        return;
    }
    for (appends, how) in [("no", "rdb_saves"), ("yes", "")] {
        let redis = Redis::start(appends);
        let socket = redis.socket();
        if appends == "yes" {
            // Without WAITAOF only a later freeze, or this setting, makes the file durable.
            redis.ask(&["CONFIG", "SET", "appendfsync", "always"]);
        }
        redis.ask(&["SET", "key", "before"]);
        let paused = applications(&[format!("redis:{socket}")]);
        paused.quiesce(&request(5 * SECOND)).expect("pause");
        if how == "rdb_saves" {
            let saved = std::fs::read(redis.directory.path().join("dump.rdb")).expect("saved");
            assert!(saved.windows(6).any(|bytes| bytes == b"before"));
        }
        let mut writer = Command::new("redis-cli");
        let mut writer = writer.args(["-s", &socket, "SET", "key", "after"]).spawn().expect("cli");
        std::thread::sleep(SECOND / 2);
        assert_eq!(redis.ask(&["GET", "key"]), "before");
        paused.release().expect("go on");
        assert!(writer.wait().expect("writer").success());
        assert_eq!(redis.ask(&["GET", "key"]), "after");
    }
}

/// A server with its own directory.
struct Redis {
    directory: tempfile::TempDir,
    server: Child,
}

impl Redis {
    fn start(appends: &str) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().display().to_string();
        let server = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", &format!("{path}/s"), "--dir", &path])
            .args(["--save", "", "--appendonly", appends])
            .stdout(Stdio::null())
            .spawn()
            .expect("server");
        let redis = Self { directory, server };
        wait_until(AT_ONCE, || Path::new(&redis.socket()).exists()).expect("it listens");
        redis
    }

    fn socket(&self) -> String {
        self.directory.path().join("s").display().to_string()
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-s", &self.socket()]).args(words).output();
        parts::text(&output.expect("redis-cli")).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}
