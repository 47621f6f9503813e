//! PostgreSQL with its data on a mounted disk: a numbered row for each acknowledged transaction, and
//! transfers beside them, whose sums show whether a state is complete.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Progress;

const SERVER: &str = "-c listen_addresses='' -c shared_buffers=16MB -c max_wal_size=48MB -c min_wal_size=32MB \
                      -c wal_recycle=on -c checkpoint_timeout=30s";

/// Returns the newest version's directory of programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.pop()
}

/// A running server, stopped at once at the end.
pub struct Server {
    programs: PathBuf,
    data: PathBuf,
    sockets: tempfile::TempDir,
}

impl Server {
    /// Makes a cluster on a mounted disk, and starts it; `None`, and says so, without its programs.
    pub fn create(mount: &Path) -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("not run: no PostgreSQL");
            return None;
        };
        let server = Self::at(programs, mount);
        let data = server.data.display().to_string();
        server.as_postgres("initdb", &["-D", &data, "-A", "trust", "-N", "--data-checksums"]);
        server.start();
        server
            .psql("CREATE EXTENSION amcheck; CREATE TABLE numbers (n BIGINT PRIMARY KEY, x TEXT)");
        let connection = server.connection();
        let filled = server.run("pgbench", &["-i", "-q", "-s", "1", &connection]);
        assert!(filled.status.success(), "{filled:?}");
        // initdb does not sync the new cluster, and points are of acknowledged states.
        assert!(Command::new("sync").arg("-f").arg(mount).status().expect("sync").success());
        Some(server)
    }

    /// Starts what a mounted disk has, which is its recovery.
    pub fn open(mount: &Path) -> Self {
        let server = Self::at(programs().expect("PostgreSQL"), mount);
        // As on another machine, where the process of the lock file does not run.
        let _ = std::fs::remove_file(server.data.join("postmaster.pid"));
        server.start();
        server
    }

    fn at(programs: PathBuf, mount: &Path) -> Self {
        let sockets = tempfile::tempdir_in("/tmp").expect("directory");
        for path in [sockets.path(), mount, mount.parent().expect("a parent")] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("mode");
        }
        Self { programs, data: mount.join("pg"), sockets }
    }

    fn start(&self) {
        let log = self.sockets.path().join("log");
        let options = format!("{SERVER} -k {}", self.sockets.path().display());
        let (data, log) = (self.data.display().to_string(), log.display().to_string());
        self.as_postgres("pg_ctl", &["-D", &data, "-o", &options, "-l", &log, "-w", "-s", "start"]);
    }

    /// Runs a program as the user of the server.
    fn as_postgres(&self, program: &str, arguments: &[&str]) {
        let path = self.programs.join(program);
        let ran = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(path)
            .args(arguments)
            .current_dir("/")
            .output()
            .expect("runuser");
        let log = std::fs::read_to_string(self.sockets.path().join("log")).unwrap_or_default();
        assert!(ran.status.success(), "{program}: {}{log}", String::from_utf8_lossy(&ran.stderr));
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(self.programs.join(program)).args(arguments).output().expect("a program")
    }

    fn connection(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.sockets.path().display())
    }

    pub fn psql(&self, statements: &str) -> String {
        let found = self.run("psql", &["-XqAt", "-d", &self.connection(), "-c", statements]);
        assert!(found.status.success(), "{statements}: {found:?}");
        String::from_utf8(found.stdout).expect("text").trim().to_owned()
    }

    /// Begins to transfer money between accounts.
    pub fn transfers(&self) -> Transfers {
        let child = Command::new(self.programs.join("pgbench"))
            .args(["-n", "-c", "2", "-T", "100000", &self.connection()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbench");
        Transfers(child)
    }

    /// Returns what inserts numbered rows, each once the one before is acknowledged.
    pub fn rows(&self) -> Rows {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &self.connection()]);
        let child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql");
        Rows(child)
    }

    /// Checks each page, each index, the sums and the rows of a state.
    pub fn check(&self, (done, begun): (u64, u64), what: &str) {
        let host = self.sockets.path().display().to_string();
        let arguments = ["-h", &host, "-U", "postgres", "-d", "postgres", "--heapallindexed"];
        let found = self.run("pg_amcheck", &arguments);
        assert!(found.status.success(), "{what}: {found:?}");
        let sums = self.psql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
        );
        let mut sums = sums.split('|');
        let first = sums.next().expect("a sum");
        assert!(sums.all(|sum| sum == first), "{what}: a transfer is there in part");
        let rows = self.psql("SELECT count(*), coalesce(max(n), 0) FROM numbers");
        let (count, newest) = rows.split_once('|').expect("two numbers");
        assert_eq!(count, newest, "{what}: rows are missing");
        let newest: u64 = newest.parse().expect("a number");
        assert!(
            (done..=begun).contains(&newest),
            "{what}: row {newest}, done {done}, begun {begun}"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data.display().to_string();
        let arguments = ["-D", &data, "-m", "immediate", "-w", "-s", "stop"];
        let program = self.programs.join("pg_ctl");
        let mut stop = Command::new("runuser");
        stop.args(["-u", "postgres", "--"]).arg(program).args(arguments);
        let _ = stop.current_dir("/").stderr(Stdio::null()).status();
    }
}

/// Ends with its process.
pub struct Transfers(Child);

impl Drop for Transfers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Rows(Child);

impl Rows {
    pub fn insert(&mut self, progress: &Progress, stopping: &AtomicBool) {
        let mut input = self.0.stdin.take().expect("a pipe");
        let mut output = BufReader::new(self.0.stdout.take().expect("a pipe"));
        let mut number = 0;
        while !stopping.load(Ordering::Relaxed) {
            number += 1;
            progress.begin(number);
            let row =
                format!("INSERT INTO numbers VALUES ({number}, repeat('x', 500)) RETURNING n;");
            writeln!(input, "{row}").and_then(|()| input.flush()).expect("psql");
            let mut line = String::new();
            output.read_line(&mut line).expect("psql");
            assert_eq!(line.trim(), number.to_string());
            progress.end(number);
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
