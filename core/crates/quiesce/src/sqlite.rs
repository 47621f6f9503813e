//! `sqlite:PATH`: the write lock of a SQLite database.
//!
//! The write-ahead log is checkpointed into the database as far as other clients permit. Then
//! `BEGIN IMMEDIATE` stops writers, while readers continue. Written data is synced, so the point is
//! complete even if the file system is not frozen.
//!
//! SQLite's locks are not fair, and its own wait soon retries only every 100 ms, so a busy writer
//! could win forever. Short waits are therefore repeated until the deadline. The client is
//! `sqlite3`. Options: `user`, the system's user who runs it; `client`, another client program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};

use crate::child::quiet_as;
use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank};
use crate::session::{Client, Session};
use crate::spec::Spec;

/// Length of one wait for a lock.
const TRY: Duration = Duration::from_millis(10);

pub(crate) struct Sqlite {
    client: Client,
    path: PathBuf,
}

impl Sqlite {
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        spec.finish(&["user", "client"])?;
        let path = spec.absolute_path("the database")?;
        Ok(Self { client: Client::of(spec, "sqlite3"), path })
    }
}

impl Provider for Sqlite {
    fn name(&self) -> String {
        self.client.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        // The client would create a missing database.
        if !self.path.is_file() {
            return Err(Error::new(ErrorKind::NotFound, "quiesce", self.path.display()));
        }
        let Client { name, program, user } = &self.client;
        let mut command = quiet_as(user.as_deref(), "/bin/sh");
        // The client's errors become part of its answers.
        command.args(["-c", r#"exec "$0" "$@" 2>&1"#, program, "-batch"]).arg(&self.path);
        let session = Session::start(&mut command, name, |mark| format!(".print {mark}"))?;
        let (name, path, deadline) = (name.clone(), self.path.clone(), occasion.deadline.clone());
        let mut opened = Opened { session, name, path, deadline };
        // Readers may keep the log from being emptied. That is no failure: it then belongs to the
        // database.
        opened.ask(&format!(".timeout {}\nPRAGMA wal_checkpoint(TRUNCATE);", TRY.as_millis()))?;
        Ok(Box::new(opened))
    }
}

struct Opened {
    session: Session,
    name: String,
    path: PathBuf,
    deadline: Deadline,
}

impl Opened {
    /// Repeats statements until no other client locks the database.
    fn ask(&mut self, statements: &str) -> Result<()> {
        loop {
            let answer = self.session.ask(statements, &self.deadline)?;
            let Some(error) = answer.iter().find(|line| line.to_lowercase().contains("error"))
            else {
                return Ok(());
            };
            if !error.contains("locked") {
                return Err(Error::new(ErrorKind::Unavailable, "quiesce", &self.name).found(error));
            }
        }
    }
}

impl Prepared for Opened {
    fn quiesce(mut self: Box<Self>, _occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        self.ask("BEGIN IMMEDIATE;")?;
        sync(&self.path)?;
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        if log.exists() {
            sync(&log)?;
        }
        Ok(self)
    }
}

impl Quiesced for Opened {
    fn still_quiesced(&mut self) -> Result<()> {
        self.session.still_quiesced()
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        // Fails if the transaction has already ended.
        self.deadline = self.deadline.anew(crate::RELEASE_LIMIT);
        self.ask("COMMIT;")?;
        self.session.close();
        Ok(())
    }
}

fn sync(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path);
    file.and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", path.display(), error))
}
