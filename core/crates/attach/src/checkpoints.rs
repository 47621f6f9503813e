//! Checkpoints of a disk: what changed between one and another, for backup programs. No data is kept.
//!
//! A checkpoint begins a new epoch of the tracker, writes what changed in the old one into a file of
//! the state directory, and clears it in the maps once the file is durable. If the process dies in
//! between, the marks are either in the file or still in the maps.
//!
//! Invariants: each change that was completed before a checkpoint is in its set or an earlier one. A
//! request under way at a checkpoint is in the set after it, whatever is read meanwhile. So a backup
//! program makes a checkpoint first and reads afterwards.
//!
//! Each set is audited. If the audit fails, the set is the whole disk, and says why. What an audit
//! found is accepted after the record of its checkpoint is durable, so a failure is found again after
//! a crash. If requests were missed, another epoch begins after the audit: the next set is exact.
//!
//! Every call opens the state again, under a lock, so any number of processes may use it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hrl::{Clock, Error, ErrorKind, Extent, ExtentSet, Result, SystemClock, Timestamp};

use super::disk::{self, Disk};
use super::program::Fault;
use super::record::{Everything, Record, Session, sync_directory};
use super::sys;
use super::tracker::{Audit, Tracker};

const NAME_BYTES_MAX: usize = 64;

/// Options of tracking.
#[derive(Clone, Debug)]
pub struct TrackOptions {
    /// Directory of the checkpoints of all disks. Default `/var/lib/hrl/track`.
    pub state: PathBuf,
    /// Directory in bpffs for what outlives the process. Default `/sys/fs/bpf`.
    pub pins: PathBuf,
}

impl Default for TrackOptions {
    fn default() -> Self {
        Self { state: "/var/lib/hrl/track".into(), pins: "/sys/fs/bpf".into() }
    }
}

/// A named instant of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// Time at which it was made.
    pub time: Timestamp,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Bytes that changed since the checkpoint before it, or since tracking began.
    pub bytes_changed: u64,
    /// Reason why those are the whole disk; `None` if they are exact.
    pub everything: Option<Everything>,
    /// Whether changes since it are known. They are not if the machine has booted since.
    pub is_current: bool,
}

/// What changed between two checkpoints, or since one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskChanges {
    /// Name of the earlier checkpoint.
    pub from: String,
    /// Name of the later one; `None` for now.
    pub to: Option<String>,
    /// The extents: whole blocks of [`crate::BLOCK_BYTES`], but for the end of the disk.
    pub extents: ExtentSet,
    /// Reason why they are the whole disk; `None` if they are exact.
    pub everything: Option<Everything>,
}

/// How a disk is tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackStatus {
    /// The kernel's name of the disk, such as `sda`.
    pub disk: String,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Time at which tracking began.
    pub since: Timestamp,
    /// Memory of the maps in bytes.
    pub memory_bytes: u64,
    /// Bytes that changed since the last checkpoint, or since tracking began.
    pub bytes_changed: u64,
    /// Reason why it is not tracked any more; `None` if it is.
    pub lost: Option<String>,
}

/// The checkpoints of a disk or partition. May be used from any thread.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    disk: PathBuf,
    name: String,
    directory: PathBuf,
    pins: PathBuf,
}

impl Checkpoints {
    /// Begins to track a disk or partition. It is tracked until [`Checkpoints::stop`], or until the
    /// machine boots, whatever processes end.
    ///
    /// `AlreadyExists` if it is tracked with this state directory. Otherwise the errors of
    /// [`Tracker::attach`].
    pub fn start(disk: &Path, options: &TrackOptions) -> Result<Self> {
        Self::start_with(disk, options, Fault::None)
    }

    /// Does the same as `start`, with programs that have a fault, for tests that must find it.
    #[doc(hidden)]
    pub fn start_with(disk: &Path, options: &TrackOptions, fault: Fault) -> Result<Self> {
        let it = Self::of(disk, options)?;
        let failed = |error| Error::io("create", it.directory.display(), error);
        DirBuilder::new().mode(0o700).recursive(true).create(&it.directory).map_err(failed)?;
        let _lock = it.lock()?;
        if it.session().is_ok_and(|session| it.tracker(&session).is_ok()) {
            return Err(Error::new(ErrorKind::AlreadyExists, "track", disk.display())
                .message("it is tracked already"));
        }
        Tracker::detach(&it.pins)?;
        let tracker = Tracker::attach_with(disk, fault)?;
        let since = SystemClock::default().now();
        let session = Session {
            boot: boot()?,
            number: since.0.cast_unsigned(),
            disk: tracker.disk().number,
            start: tracker.disk().start,
            bytes: tracker.disk_bytes(),
            since,
        };
        tracker.set_session(session.number);
        tracker.pin(&it.pins)?;
        if let Err(error) = session.write(&it.session_path()) {
            let _ = Tracker::detach(&it.pins);
            return Err(error);
        }
        Ok(it)
    }

    /// Opens the checkpoints of a disk that is tracked, or was tracked before the machine booted.
    ///
    /// `NotFound` if it is not tracked with this state directory.
    pub fn open(disk: &Path, options: &TrackOptions) -> Result<Self> {
        let it = Self::of(disk, options)?;
        if it.session_path().exists() { Ok(it) } else { Err(it.not_tracked()) }
    }

    /// Returns the checkpoints of each disk that is tracked with a state directory.
    pub fn all(options: &TrackOptions) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(&options.state) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", options.state.display(), error)),
        };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let all = names.iter().map(|name| Self::of(&Path::new("/dev").join(name), options));
        Ok(all.flatten().filter(|it| it.session_path().exists()).collect())
    }

    /// Returns the path of the disk.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// Makes a checkpoint: changes after it are apart from those before. Make it first, then read the
    /// disk.
    ///
    /// If what changed since the checkpoint before could not be audited, that set is the whole disk,
    /// and `everything` says why.
    ///
    /// `AlreadyExists` for a name that is taken. `Changed` if the machine has booted since the start,
    /// or the disk is another one.
    pub fn checkpoint(&self, name: &str) -> Result<Checkpoint> {
        check_name(name)?;
        let _lock = self.lock()?;
        let session = self.session()?;
        let records = self.records()?;
        let taken = records.iter().find(|record| record.name == name);
        match taken {
            Some(taken) if taken.session == session.number => {
                return Err(Error::new(ErrorKind::AlreadyExists, "make checkpoint", name));
            }
            // One of before a boot gives its name up.
            Some(taken) => self.remove(&records, taken)?,
            None => {}
        }
        let before = records.iter().rfind(|record| record.session == session.number);
        let mut record = Record {
            number: records.last().map_or(1, |last| last.number + 1),
            name: name.to_owned(),
            session: session.number,
            time: SystemClock::default().now(),
            epoch: 0,
            bytes: session.bytes,
            everything: None,
            changed: ExtentSet::new(),
        };
        if self.is_resized(&session)? {
            self.begin_again(session, &mut record)?;
        } else {
            let tracker = self.tracker(&session)?;
            self.end_epoch(&tracker, before, &mut record)?;
        }
        Ok(shown(&record, Some(record.session)))
    }

    /// Ends the epoch of a tracker with a checkpoint.
    fn end_epoch(
        &self,
        tracker: &Tracker,
        before: Option<&Record>,
        record: &mut Record,
    ) -> Result<()> {
        // What a process left that died in a checkpoint: it is in the record, or it is not.
        match before {
            Some(before) if before.epoch == tracker.epoch() => tracker.clear_left(),
            _ => tracker.move_left(),
        }
        tracker.begin_epoch()?;
        let (audit, base) = tracker.look()?;
        record.everything = of_audit(audit);
        match record.everything {
            None => tracker.left().into_iter().for_each(|extent| record.changed.insert(extent)),
            // A later audit covers both epochs.
            Some(Everything::Unproven) => {}
            // Requests may have been missed after the epoch began. This one begins after the audit,
            // so the next set lacks nothing. The marks may go: the audit fails until it is accepted.
            Some(_) => {
                tracker.clear_left();
                tracker.begin_epoch()?;
            }
        }
        record.epoch = tracker.epoch();
        record.write(&self.directory)?;
        tracker.accept(&base);
        tracker.clear_left();
        Ok(())
    }

    /// Tracks a disk of another size from now on: a checkpoint whose set is the whole disk.
    fn begin_again(&self, session: Session, record: &mut Record) -> Result<()> {
        let tracker = Tracker::attach(&self.disk)?;
        tracker.set_session(session.number);
        record.bytes = tracker.disk_bytes();
        record.everything = Some(Everything::Resized);
        record.epoch = tracker.epoch();
        record.write(&self.directory)?;
        Tracker::detach(&self.pins)?;
        tracker.pin(&self.pins)?;
        let (start, bytes) = (tracker.disk().start, tracker.disk_bytes());
        Session { start, bytes, ..session }.write(&self.session_path())
    }

    /// Returns what changed after checkpoint `from`, up to checkpoint `to`, or up to now.
    ///
    /// `NotFound` for a name that is not known. `Changed` if everything may have changed since `from`,
    /// because the machine has booted or tracking was stopped. `InvalidInput` if `to` is earlier.
    pub fn changes(&self, from: &str, to: Option<&str>) -> Result<DiskChanges> {
        let _lock = self.lock()?;
        let records = self.records()?;
        let from = find(&records, from)?;
        let session = self.session();
        let to = to.map(|name| find(&records, name)).transpose()?;
        if let Some(to) = to.filter(|to| to.number < from.number) {
            return Err(Error::new(ErrorKind::InvalidInput, "find changes", &to.name)
                .expected(format_args!("a checkpoint after {}", from.name))
                .found("an earlier one"));
        }
        let end = match (&session, to) {
            (_, Some(to)) if to.session == from.session => Some(to.number),
            (Ok(session), None) if session.number == from.session => None,
            (Err(error), None) if error.kind() != ErrorKind::Changed => {
                return Err(error.duplicate());
            }
            _ => return Err(everything_since(from).message(BOOTED)),
        };
        let mut found = DiskChanges {
            from: from.name.clone(),
            to: to.map(|to| to.name.clone()),
            extents: ExtentSet::new(),
            everything: None,
        };
        let mut bytes = from.bytes;
        for record in records.iter().filter(|record| {
            record.session == from.session
                && record.number > from.number
                && end.is_none_or(|end| record.number <= end)
        }) {
            bytes = record.bytes;
            found.everything = found.everything.or(record.everything);
            record.changed.iter().for_each(|extent| found.extents.insert(extent));
        }
        if end.is_none() {
            let session = session?;
            if self.is_resized(&session)? {
                bytes = Disk::look_at(&self.disk)?.bytes;
                found.everything = Some(Everything::Resized);
            } else {
                let tracker = self.tracker(&session)?;
                // The next checkpoint's audit finds it again.
                found.everything = found.everything.or(of_audit(tracker.look()?.0));
                for extent in tracker.marked().into_iter().chain(self.unrecorded(&tracker)?) {
                    found.extents.insert(extent);
                }
            }
        }
        if found.everything.is_some() {
            found.extents.insert(Extent { offset: 0, length: bytes });
        }
        Ok(found)
    }

    /// Returns what a checkpoint left in the maps, if its process died before the record was durable.
    fn unrecorded(&self, tracker: &Tracker) -> Result<Vec<Extent>> {
        let last = self.records()?.pop();
        let is_recorded = last
            .is_some_and(|last| last.session == tracker.session() && last.epoch == tracker.epoch());
        Ok(if is_recorded { Vec::new() } else { tracker.left() })
    }

    /// Returns the checkpoints, oldest first.
    pub fn list(&self) -> Result<Vec<Checkpoint>> {
        let _lock = self.lock()?;
        let current = self.session().ok().map(|session| session.number);
        Ok(self.records()?.iter().map(|record| shown(record, current)).collect())
    }

    /// Forgets a checkpoint. Its changes count for the next one, so those since others stay exact.
    pub fn forget(&self, name: &str) -> Result<()> {
        let _lock = self.lock()?;
        let records = self.records()?;
        self.remove(&records, find(&records, name)?)
    }

    fn remove(&self, records: &[Record], gone: &Record) -> Result<()> {
        let mut same = records.iter().filter(|record| record.session == gone.session);
        if let Some(next) = same.find(|record| record.number > gone.number) {
            let mut next = next.clone();
            gone.changed.iter().for_each(|extent| next.changed.insert(extent));
            next.everything = next.everything.or(gone.everything);
            next.write(&self.directory)?;
        }
        let path = self.directory.join(Record::file_name(gone.number));
        fs::remove_file(&path).map_err(|error| Error::io("remove", path.display(), error))?;
        sync_directory(&self.directory)
    }

    /// Returns how the disk is tracked.
    pub fn status(&self) -> Result<TrackStatus> {
        let _lock = self.lock()?;
        let known = Session::read(&self.session_path())?.ok_or_else(|| self.not_tracked())?;
        let opened = self.session().and_then(|session| {
            if self.is_resized(&session)? { Ok(None) } else { self.tracker(&session).map(Some) }
        });
        let mut status = TrackStatus {
            disk: self.name.clone(),
            disk_bytes: known.bytes,
            since: known.since,
            memory_bytes: 0,
            bytes_changed: known.bytes,
            lost: None,
        };
        match opened {
            Ok(Some(tracker)) => {
                status.memory_bytes = tracker.memory_bytes();
                let marked = tracker.marked();
                status.bytes_changed = marked.iter().map(|extent| extent.length).sum();
            }
            // The next checkpoint goes on with the new size.
            Ok(None) => {}
            Err(error) => status.lost = Some(error.to_string()),
        }
        Ok(status)
    }

    /// Stops to track the disk, and forgets its checkpoints. Nothing stays in the kernel.
    pub fn stop(self) -> Result<()> {
        let _lock = self.lock()?;
        Tracker::detach(&self.pins)?;
        fs::remove_dir_all(&self.directory)
            .map_err(|error| Error::io("remove", self.directory.display(), error))
    }

    fn of(disk: &Path, options: &TrackOptions) -> Result<Self> {
        let name = disk::kernel_name(disk);
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "track", disk.display())
                .expected("the path of a disk"));
        }
        let state = std::path::absolute(&options.state)
            .map_err(|error| Error::io("find", options.state.display(), error))?;
        // Names in bpffs have no dots. Programs with other state directories have other names.
        let whose = crc32fast::hash(state.as_os_str().as_encoded_bytes());
        let pins = options.pins.join(format!("hrl-track-{}-{whose:08x}", name.replace('.', "-")));
        Ok(Self { disk: disk.to_owned(), directory: state.join(&name), name, pins })
    }

    fn lock(&self) -> Result<File> {
        let path = self.directory.join("lock");
        let file = File::create(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.not_tracked(),
            _ => Error::io("lock", path.display(), error),
        })?;
        sys::lock(&file).map_err(|error| Error::io("lock", path.display(), error))?;
        Ok(file)
    }

    fn session_path(&self) -> PathBuf {
        self.directory.join("tracked")
    }

    /// Returns what is tracked. `Changed` if the machine has booted since.
    fn session(&self) -> Result<Session> {
        let session = Session::read(&self.session_path())?.ok_or_else(|| self.not_tracked())?;
        if session.boot == boot()? {
            return Ok(session);
        }
        Err(self.lost().message(BOOTED))
    }

    /// Opens the tracker of a session. `Changed` if there is none any more.
    fn tracker(&self, session: &Session) -> Result<Tracker> {
        let tracker =
            Tracker::reopen(&self.pins, &self.disk).map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::Changed => self.lost().caused_by(error),
                _ => error,
            })?;
        if tracker.session() == session.number {
            return Ok(tracker);
        }
        Err(self.lost().message("it was tracked anew since"))
    }

    /// Returns whether it is the disk of the session, with another size.
    fn is_resized(&self, session: &Session) -> Result<bool> {
        let disk = Disk::look_at(&self.disk)?;
        Ok(disk.number == session.disk
            && disk.start == session.start
            && disk.bytes != session.bytes)
    }

    /// Returns the checkpoints, in the order in which they were made.
    fn records(&self) -> Result<Vec<Record>> {
        let failed = |error| Error::io("list", self.directory.display(), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("checkpoint-") && !name.ends_with(".new") {
                found.extend(Record::read(&path)?);
            }
        }
        found.sort_by_key(|record| record.number);
        Ok(found)
    }

    fn not_tracked(&self) -> Error {
        Error::new(ErrorKind::NotFound, "find tracker of", self.disk.display())
            .message("it is not tracked with this state directory: start it first")
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Changed, "find changes of", self.disk.display())
    }
}

const BOOTED: &str = "everything may have changed: the machine has booted since, or tracking was \
                      started anew. Start it again, make a checkpoint, and read the whole disk";

fn everything_since(from: &Record) -> Error {
    Error::new(ErrorKind::Changed, "find changes since checkpoint", &from.name)
}

/// Returns the checkpoint of a name; the latest, if some were made before a boot.
fn find<'a>(records: &'a [Record], name: &str) -> Result<&'a Record> {
    let found = records.iter().rfind(|record| record.name == name);
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, "find checkpoint", name))
}

fn shown(record: &Record, current: Option<u64>) -> Checkpoint {
    Checkpoint {
        name: record.name.clone(),
        time: record.time,
        disk_bytes: record.bytes,
        bytes_changed: match record.everything {
            None => record.changed.total_bytes(),
            Some(_) => record.bytes,
        },
        everything: record.everything,
        is_current: current == Some(record.session),
    }
}

fn of_audit(audit: Audit) -> Option<Everything> {
    match audit {
        Audit::Clean => None,
        Audit::Missed(sectors) => Some(Everything::Missed(sectors)),
        Audit::Unknown => Some(Everything::Unknown),
        Audit::Unproven => Some(Everything::Unproven),
    }
}

fn check_name(name: &str) -> Result<()> {
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "make checkpoint", format_args!("{name:?}"))
        .expected(format_args!("a name of 1 to {NAME_BYTES_MAX} bytes without control characters")))
}

/// Returns the identity of this boot.
fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::io("read", path, error))
}
