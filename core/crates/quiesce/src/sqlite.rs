//! `sqlite:PATH`: the write lock of a SQLite database.
//!
//! The write-ahead log is checkpointed into the database as far as others let it, then `BEGIN IMMEDIATE` keeps writers out;
//! readers go on. What was written is synced, so that the point is whole without a freeze of the file system too. Locks of
//! SQLite are not fair, and its own wait tries once in 100 ms after a while: a writer that hardly ever rests would keep it
//! out for ever. So short waits are repeated until the deadline. The client is `sqlite3`.
//! Options: `user`, the user of the system to run it as, `client`, another program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};

use crate::child::quiet_as;
use crate::provider::{Deadline, Hold, Occasion, Prepared, Provider, Rank};
use crate::session::Session;
use crate::spec::Spec;

/// One wait for a lock.
const TRY: Duration = Duration::from_millis(10);

pub(crate) struct Sqlite {
    name: String,
    path: PathBuf,
    client: String,
    user: Option<String>,
}

impl Sqlite {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        spec.finish(&["user", "client"])?;
        Ok(Self {
            path: spec.absolute_path("the database")?,
            client: spec.option("client").unwrap_or("sqlite3").to_owned(),
            user: spec.option("user").map(str::to_owned),
            name: spec.text,
        })
    }
}

impl Provider for Sqlite {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        // The client would make a database that is not there.
        if !self.path.is_file() {
            return Err(Error::new(ErrorKind::NotFound, "quiesce", self.path.display()));
        }
        let deadline = &occasion.deadline;
        let mut command = quiet_as(self.user.as_deref(), "/bin/sh");
        // Its errors become part of its answers.
        command.args(["-c", r#"exec "$0" "$@" 2>&1"#, &self.client, "-batch"]).arg(&self.path);
        let session = Session::start(&mut command, &self.name, |mark| format!(".print {mark}"))?;
        let deadline = deadline.clone();
        let mut opened =
            Opened { session, name: self.name.clone(), path: self.path.clone(), deadline };
        // Others may keep the log from being emptied: that is no failure, it belongs to the database then.
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
    /// Says something until the database is not locked by somebody else.
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
    fn take(mut self: Box<Self>, _occasion: &Occasion) -> Result<Box<dyn Hold>> {
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

impl Hold for Opened {
    fn intact(&mut self) -> Result<()> {
        self.session.intact()
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        // Fails where the transaction has ended already.
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
