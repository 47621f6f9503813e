//! Points of a mounted disk under a metadata load and SQLite: each mounts, recovers, passes fsck and
//! the database's own check, and has exactly what was acknowledged before the cut began.
//!
//! Needs root, loop devices, BPF and the programs of the file systems; without them the tests say so
//! and pass. `HRL_ATTACH_POINTS` is the number of points.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod parts;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::replica::RecoveryPoint;
use hrl_attach::AttachmentOptions;

use parts::mounted::{Site, crash_point, point_after};
use parts::{Disk, Mount, Progress, setting};

const BYTES: u64 = 384 << 20;
const MINUTE: Duration = Duration::from_secs(60);
/// Files that are there at once.
const FILES: u64 = 50;

/// Makes, syncs, renames and removes files.
fn churn(root: &Path, progress: &Progress, stopping: &AtomicBool) {
    let directory = root.join("files");
    std::fs::create_dir_all(&directory).expect("directory");
    let mut number = 0;
    while !stopping.load(Ordering::Relaxed) {
        number += 1;
        progress.begin(number);
        let temporary = directory.join("new");
        let mut file = File::create(&temporary).expect("file");
        let text = format!("{number}\n").repeat(1 + (number % 200) as usize);
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).expect("write");
        std::fs::rename(&temporary, directory.join(format!("f{number}"))).expect("rename");
        if number > FILES {
            std::fs::remove_file(directory.join(format!("f{}", number - FILES))).expect("remove");
        }
        File::open(&directory).and_then(|directory| directory.sync_all()).expect("sync");
        progress.end(number);
    }
}

/// A database with one row for each number.
struct Database {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Database {
    fn open(path: &Path) -> Option<Self> {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut database = Self { child, input, output };
        database.run("PRAGMA journal_mode=WAL;");
        database.run(
            "PRAGMA synchronous=FULL; CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB); SELECT 1;",
        );
        Some(database)
    }

    /// Runs statements that give one line.
    fn run(&mut self, statements: &str) -> String {
        writeln!(self.input, "{statements}").and_then(|()| self.input.flush()).expect("sqlite3");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("sqlite3");
        line.trim().to_owned()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn insert(path: &Path, progress: &Progress, stopping: &AtomicBool) {
    let Some(mut database) = Database::open(path) else { return };
    let mut number = 0;
    while !stopping.load(Ordering::Relaxed) {
        number += 1;
        progress.begin(number);
        let rows = format!("INSERT INTO t VALUES({number}, randomblob(2000)); SELECT {number};");
        assert_eq!(database.run(&rows), number.to_string());
        progress.end(number);
    }
}

/// Writers on a mounted file system, until they are ended.
struct Writers {
    stopping: Arc<AtomicBool>,
    files: Arc<Progress>,
    rows: Arc<Progress>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn begin(root: &Path) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (files, rows) = (Arc::new(Progress::default()), Arc::new(Progress::default()));
        let churning = {
            let (root, files, stopping) = (root.to_owned(), files.clone(), stopping.clone());
            std::thread::spawn(move || churn(&root, &files, &stopping))
        };
        let inserting = {
            let (path, rows, stopping) = (root.join("db"), rows.clone(), stopping.clone());
            std::thread::spawn(move || insert(&path, &rows, &stopping))
        };
        Self { stopping, files, rows, threads: vec![churning, inserting] }
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("writer"));
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A point, and what each writer had done before it and begun after it.
struct Taken {
    point: RecoveryPoint,
    files: (u64, u64),
    rows: (u64, u64),
}

fn points_of(kind: &str) {
    let site = Site::new();
    let Some(disk) = Disk::with_bytes(BYTES) else { return };
    let Some(mount) = Mount::new(&disk.path, kind, &site.at("mnt")) else { return };
    let mut writers = Writers::begin(&mount.path);
    let attached = site.attach(&disk.path, AttachmentOptions::policy);
    let Some(attachment) = attached else { return };
    let taken: Vec<Taken> = (0..setting("HRL_ATTACH_POINTS", 3))
        .map(|_| {
            let done = || (writers.files.done(), writers.rows.done());
            let (point, (files, rows)) = point_after(|| crash_point(&attachment), done);
            let (files, rows) = ((files, writers.files.begun()), (rows, writers.rows.begun()));
            Taken { point, files, rows }
        })
        .collect();
    println!(
        "{kind}: {:?}, {} files, {} rows",
        attachment.stats(),
        writers.files.done(),
        writers.rows.done()
    );
    attachment.stop(MINUTE).expect("stop");
    writers.end();
    // Two file systems with one identity are one to Btrfs.
    drop(mount);
    drop(disk);
    for taken in &taken {
        check(kind, &site, taken);
    }
}

/// Restores a point, mounts it and checks all of it.
fn check(kind: &str, site: &Site, taken: &Taken) {
    let what = format!("{kind}, point {}", taken.point.sequence);
    let (mount, disk) = site.mounted(&taken.point, &what);
    check_files(&mount.path.join("files"), taken.files, &what);
    check_rows(&mount.path.join("db"), taken.rows, &what);
    drop(mount);
    let fsck: &[&str] = match kind {
        "ext4" => &["e2fsck", "-fn"],
        "xfs" => &["xfs_repair", "-n"],
        _ => &["btrfs", "check", "--readonly"],
    };
    let found = Command::new(fsck[0]).args(&fsck[1..]).arg(&disk.path).output().expect("fsck");
    assert!(found.status.success(), "{what}: {found:?}");
}

fn check_files(directory: &Path, (done, begun): (u64, u64), what: &str) {
    if done == 0 {
        return;
    }
    for number in begun.saturating_sub(FILES - 1).max(1)..=done {
        let path = directory.join(format!("f{number}"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{what}: {}: {error}", path.display()));
        assert_eq!(text, format!("{number}\n").repeat(1 + (number % 200) as usize), "{what}");
    }
    for entry in std::fs::read_dir(directory).expect("directory").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        let number: u64 = name.strip_prefix('f').map_or(0, |text| text.parse().expect("a number"));
        assert!(number <= begun, "{what}: {name} of {begun}");
    }
}

fn check_rows(path: &Path, (done, begun): (u64, u64), what: &str) {
    if done == 0 {
        return;
    }
    let statements = "PRAGMA integrity_check; SELECT count(*), max(n) FROM t;";
    let found = Command::new("sqlite3").arg(path).arg(statements).output().expect("sqlite3");
    let text = String::from_utf8(found.stdout).expect("text");
    let (check, rows) = text.trim().split_once('\n').unwrap_or_else(|| panic!("{what}: {text}"));
    assert_eq!(check, "ok", "{what}");
    let (count, newest) = rows.split_once('|').expect("two numbers");
    assert_eq!(count, newest, "{what}: rows are missing");
    let newest: u64 = newest.parse().expect("a number");
    assert!((done..=begun).contains(&newest), "{what}: row {newest}, done {done}, begun {begun}");
}

#[test]
fn promise_14_points_of_a_mounted_ext4_have_what_was_acknowledged() {
    points_of("ext4");
}

#[test]
fn promise_14_points_of_a_mounted_xfs_have_what_was_acknowledged() {
    points_of("xfs");
}

#[test]
fn promise_14_points_of_a_mounted_btrfs_have_what_was_acknowledged() {
    points_of("btrfs");
}
