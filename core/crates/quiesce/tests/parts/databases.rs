//! PostgreSQL, MariaDB and SQLite with their data on one mount, under load, and the checks of
//! restored data.
//!
//! Each moves money from one account to another, so the sum shows whether a state is complete.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{missing, run, text, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const MARIADB: &[&str] = &[
    "--user=mysql",
    "--skip-networking",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-data-file-path=ibdata1:8M:autoextend",
];

/// Returns the directory of PostgreSQL's programs.
fn postgresql() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.pop()
}

pub fn cannot_run() -> bool {
    if postgresql().is_none() {
        eprintln!("skipped: postgresql is not installed");
        return true;
    }
    missing(&["mariadbd", "mariadb", "sqlite3", "runuser"])
}

/// Servers with their files under `root`, and their sockets in a separate directory.
pub struct Databases {
    root: PathBuf,
    sockets: tempfile::TempDir,
    mariadb: Option<Child>,
}

impl Databases {
    /// Creates all three under an empty directory, and starts them.
    pub fn create(root: &Path) -> Self {
        let databases = Self::at(root);
        let pg = databases.path("pg");
        as_user(
            "postgres",
            &program("initdb"),
            &["-D", &pg, "-A", "trust", "-N", "--data-checksums"],
        );
        let data = format!("--datadir={}", databases.path("my"));
        let arguments = [&["--no-defaults", &data, "--skip-test-db"], MARIADB].concat();
        run("mariadb-install-db", &arguments);
        let mut databases = databases.start();
        databases.fill();
        // initdb does not sync the new cluster, but crash-consistent points are of synced clusters.
        run("sync", &["-f", &root.display().to_string()]);
        databases
    }

    /// Starts the servers as on another machine: no process named in a lock file exists.
    pub fn open(root: &Path) -> Self {
        let _ = std::fs::remove_file(root.join("pg/postmaster.pid"));
        Self::at(root).start()
    }

    fn at(root: &Path) -> Self {
        let sockets = tempfile::tempdir_in("/tmp").expect("directory");
        for path in [sockets.path(), root] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("mode");
        }
        Self { root: root.to_owned(), sockets, mariadb: None }
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn socket(&self, name: &str) -> String {
        self.sockets.path().join(name).display().to_string()
    }

    pub fn sqlite(&self) -> PathBuf {
        self.root.join("lite.db")
    }

    /// Returns the specifications that quiesce them, in the wrong order.
    pub fn specs(&self) -> Vec<String> {
        vec![
            format!("fs:{}", self.root.display()),
            format!("sqlite:{}", self.sqlite().display()),
            format!("postgresql:{}", self.connection()),
            format!("mariadb:?socket={}&login=root", self.socket("my.sock")),
        ]
    }

    fn connection(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.socket(""))
    }

    fn start(mut self) -> Self {
        let server = format!(
            "-c listen_addresses='' -k {} -c shared_buffers=16MB -c max_wal_size=48MB -c min_wal_size=32MB -c wal_keep_size=0",
            self.socket("")
        );
        let arguments = [
            "-D",
            &self.path("pg"),
            "-o",
            &server,
            "-l",
            &self.socket("pg.log"),
            "-w",
            "-s",
            "start",
        ];
        let started = Command::new("runuser")
            .args(["-u", "postgres", "--", &program("pg_ctl")])
            .args(arguments)
            .output()
            .expect("runuser");
        let log = || std::fs::read_to_string(self.socket("pg.log")).unwrap_or_default();
        assert!(started.status.success(), "{}", log());
        let child = Command::new("mariadbd")
            .args(["--no-defaults", &format!("--datadir={}", self.path("my"))])
            .args([format!("--socket={}", self.socket("my.sock"))])
            .args(MARIADB)
            .stderr(std::fs::File::create(self.socket("my.log")).expect("log"))
            .spawn()
            .expect("mariadbd");
        self.mariadb = Some(child);
        let up = || self.try_mariadb("SELECT 1").is_ok();
        wait_until(PATIENCE, up).unwrap_or_else(|()| {
            panic!("{}", std::fs::read_to_string(self.socket("my.log")).unwrap_or_default())
        });
        self
    }

    fn fill(&mut self) {
        self.psql("CREATE EXTENSION amcheck");
        run(&program("pgbench"), &["-i", "-q", "-s", "1", &self.connection()]);
        let rows = "1),(2),(3),(4),(5),(6),(7),(8";
        self.mariadb(&format!(
            "CREATE DATABASE d; CREATE TABLE d.a (id INT PRIMARY KEY, v INT DEFAULT 0, k INT AS (v) STORED, KEY (k));
             CREATE TABLE d.h (id INT AUTO_INCREMENT PRIMARY KEY, t VARCHAR(200)); INSERT INTO d.a (id) VALUES ({rows})"
        ));
        let schema = format!(
            "PRAGMA journal_mode=WAL; CREATE TABLE a (id INTEGER PRIMARY KEY, v INT DEFAULT 0);
             CREATE INDEX i ON a (v); CREATE TABLE h (t); INSERT INTO a (id) VALUES ({rows});"
        );
        run("sqlite3", &[&self.sqlite().display().to_string(), &schema]);
    }

    fn psql(&self, statement: &str) -> String {
        run("psql", &["-X", "-A", "-t", "-d", &self.connection(), "-c", statement])
            .trim()
            .to_owned()
    }

    fn try_mariadb(&self, statements: &str) -> Result<String, String> {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-u", "root", "-N", "-B", "-e", statements]);
        let output = command.arg(format!("--socket={}", self.socket("my.sock"))).output();
        let output = output.expect("mariadb");
        if output.status.success() {
            Ok(text(&output).trim().to_owned())
        } else {
            Err(text(&output))
        }
    }

    fn mariadb(&self, statements: &str) -> String {
        self.try_mariadb(statements).expect("mariadb")
    }

    /// Begins to write to all three.
    pub fn load(&self) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let mut pgbench = Command::new(program("pgbench"));
        let pgbench = pgbench
            .args(["-n", "-c", "2", "-T", "100000", &self.connection()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbench");
        let mut lite = Command::new("sqlite3");
        lite.arg("-bail").arg(self.sqlite());
        let mut my = Command::new("mariadb");
        my.args(["--no-defaults", "-u", "root", "-B", "d"]);
        my.arg(format!("--socket={}", self.socket("my.sock")));
        let writers = vec![
            transfers(lite, ".timeout 60000\n", "BEGIN IMMEDIATE", &ends),
            transfers(my, "", "START TRANSACTION", &ends),
        ];
        Load { pgbench, writers, ends }
    }

    /// Checks everything that can be checked of the databases. Returns the number of rows in their
    /// histories.
    pub fn check(&self) -> [u64; 3] {
        run(
            &program("pg_amcheck"),
            &["--heapallindexed", "-h", &self.socket(""), "-U", "postgres", "-d", "postgres"],
        );
        let sums = self.psql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
                    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        );
        let parts: Vec<_> = sums.split('|').collect();
        assert!(parts.len() == 4 && parts.iter().all(|sum| *sum == parts[0]), "PostgreSQL: {sums}");
        let checked = self.mariadb("CHECK TABLE d.a, d.h EXTENDED");
        assert!(checked.lines().all(|line| line.ends_with("\tOK")), "MariaDB: {checked}");
        assert_eq!(self.mariadb("SELECT SUM(v) FROM d.a"), "0", "MariaDB");
        let lite = |statement: &str| {
            run("sqlite3", &[&self.sqlite().display().to_string(), statement]).trim().to_owned()
        };
        assert_eq!(lite("PRAGMA integrity_check"), "ok", "SQLite");
        assert_eq!(lite("SELECT sum(v) FROM a"), "0", "SQLite");
        let rows = [
            self.psql("SELECT count(*) FROM pgbench_history"),
            self.mariadb("SELECT COUNT(*) FROM d.h"),
            lite("SELECT count(*) FROM h"),
        ];
        rows.map(|count| count.parse().expect("a count"))
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let stop = ["-D", &self.path("pg"), "-m", "fast", "-w", "-s", "stop"].map(str::to_owned);
        let mut command = Command::new("runuser");
        let _ = command.args(["-u", "postgres", "--", &program("pg_ctl")]).args(stop).output();
        if let Some(mut server) = self.mariadb.take() {
            let _ = self.try_mariadb("SHUTDOWN");
            if wait_for(&mut server).is_none() {
                let _ = server.kill();
                let _ = server.wait();
            }
        }
    }
}

/// Writers at work. Dropping it ends and reaps them.
pub struct Load {
    pgbench: Child,
    writers: Vec<JoinHandle<()>>,
    ends: Arc<AtomicBool>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.pgbench.kill();
        let _ = self.pgbench.wait();
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// Transfers money between accounts until it is ended, through the client's input.
fn transfers(
    mut client: Command,
    first: &str,
    begin: &'static str,
    ends: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let mut client = client
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("client");
    let mut input = client.stdin.take().expect("input");
    let ends = Arc::clone(ends);
    let first = first.to_owned();
    std::thread::spawn(move || {
        let mut sent = input.write_all(first.as_bytes());
        let mut number = 0_u64;
        while sent.is_ok() && !ends.load(Ordering::Relaxed) {
            number += 1;
            let (from, to) = (number % 8 + 1, number / 8 % 8 + 1);
            let note = "x".repeat((number % 190) as usize);
            sent = input.write_all(
                format!(
                    "{begin}; UPDATE a SET v = v - 1 WHERE id = {from}; INSERT INTO h (t) VALUES ('{note}');
                     UPDATE a SET v = v + 1 WHERE id = {to}; COMMIT;\n"
                )
                .as_bytes(),
            );
            // No more than a pipe's content is ahead of the database, which is enough.
            std::thread::sleep(Duration::from_millis(4));
        }
        drop(input);
        let _ = client.wait();
    })
}

fn program(name: &str) -> String {
    postgresql().expect("it was found").join(name).display().to_string()
}

fn as_user(user: &str, program: &str, arguments: &[&str]) {
    run("runuser", &[&["-u", user, "--", program], arguments].concat());
}

fn wait_for(child: &mut Child) -> Option<()> {
    for _ in 0..300 {
        if !matches!(child.try_wait(), Ok(None)) {
            return Some(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}
