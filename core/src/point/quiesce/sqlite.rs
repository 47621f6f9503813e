//! `sqlite:PATH`: the write lock of a SQLite database.
//!
//! The write-ahead log is checkpointed into the database, then `BEGIN IMMEDIATE` keeps writers out; readers go on. What
//! was written is synced, so that the point is whole without a freeze of the file system too. The client is `sqlite3`.
//! Options: `user`, the user of the system to run it as, `client`, another program.

use std::path::{Path, PathBuf};

use super::child::quiet_as;
use super::provider::{Deadline, Hold, Occasion, Prepared, Provider, Rank};
use super::session::Session;
use super::spec::Spec;
use crate::error::{Error, ErrorKind, Result};

pub(super) struct Sqlite {
    name: String,
    path: PathBuf,
    client: String,
    user: Option<String>,
}

impl Sqlite {
    pub(super) fn new(spec: Spec) -> Result<Self> {
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
        let mut command = quiet_as(self.user.as_deref(), &self.client);
        command.args(["-batch", "-bail"]).arg(&self.path);
        let mut session =
            Session::start(&mut command, &self.name, |mark| format!(".print {mark}"))?;
        // Readers may keep the log from being emptied: that is no failure, it belongs to the database then.
        let statements =
            format!(".timeout {}\nPRAGMA wal_checkpoint(TRUNCATE);", deadline.left().as_millis());
        session.ask(&statements, deadline)?;
        Ok(Box::new(Opened { session, path: self.path.clone(), deadline: deadline.clone() }))
    }
}

struct Opened {
    session: Session,
    path: PathBuf,
    deadline: Deadline,
}

impl Prepared for Opened {
    fn take(mut self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Hold>> {
        self.session.ask("BEGIN IMMEDIATE;", &occasion.deadline)?;
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
        self.session.ask("COMMIT;", &self.deadline.anew(super::RELEASE_LIMIT))?;
        self.session.close();
        Ok(())
    }
}

fn sync(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path);
    file.and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", path.display(), error))
}
