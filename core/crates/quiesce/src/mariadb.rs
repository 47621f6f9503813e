//! `mariadb:` and `mysql:`: commits stopped by the server's own backup lock.
//!
//! MariaDB takes `BACKUP STAGE BLOCK_COMMIT`, which also writes out tables without transactions.
//! MySQL lacks it and takes `FLUSH TABLES WITH READ LOCK`. The lock belongs to the connection of a
//! client that stays open. Waiting for running statements ends at the limit.
//!
//! Options: `defaults-file` (contains user and password), `socket`, `host`, `port`, `login` (the
//! user in the database), `user` (the system's user who runs the client), `client` (another client
//! program).

use std::process::Command;

use hrl::Result;

use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank};
use crate::session::{Client, Session};
use crate::spec::Spec;

pub(crate) struct MariaDb {
    client: Client,
    arguments: Vec<String>,
}

impl MariaDb {
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        spec.finish(&["defaults-file", "socket", "host", "port", "login", "user", "client"])?;
        if !spec.target.is_empty() {
            return Err(spec.bad().expected("options such as ?socket=PATH").found(&spec.target));
        }
        // The client accepts `defaults-extra-file` only as its first argument.
        let mut arguments = Vec::new();
        let given = [
            ("defaults-file", "defaults-extra-file"),
            ("socket", "socket"),
            ("host", "host"),
            ("port", "port"),
            ("login", "user"),
        ];
        for (option, argument) in given {
            arguments.extend(spec.option(option).map(|value| format!("--{argument}={value}")));
        }
        Ok(Self { client: Client::of(spec, &spec.kind), arguments })
    }

    fn command(&self, deadline: &Deadline) -> Command {
        let mut command = self.client.command();
        command
            .args(&self.arguments)
            .args(["--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect"])
            .arg(format!("--connect-timeout={}", deadline.left().as_secs() + 1));
        command
    }
}

impl Provider for MariaDb {
    fn name(&self) -> String {
        self.client.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let deadline = &occasion.deadline;
        let echo = |mark: &str| format!("SELECT '{mark}';");
        let mut session = Session::start(&mut self.command(deadline), &self.client.name, echo)?;
        let version = session.ask("SELECT VERSION();", deadline)?.join(" ");
        let seconds = deadline.left().as_secs().max(1);
        let statement = format!(
            "SET SESSION lock_wait_timeout={seconds}; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;"
        );
        session.ask(&statement, deadline)?;
        Ok(Box::new(Connected {
            session,
            deadline: deadline.clone(),
            stages: version.contains("MariaDB"),
        }))
    }
}

struct Connected {
    session: Session,
    deadline: Deadline,
    /// The server knows `BACKUP STAGE`.
    stages: bool,
}

impl Prepared for Connected {
    fn quiesce(mut self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        let lock = if self.stages {
            "BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT;"
        } else {
            "FLUSH TABLES WITH READ LOCK;"
        };
        self.session.ask(lock, &occasion.deadline)?;
        Ok(self)
    }
}

impl Quiesced for Connected {
    fn still_quiesced(&mut self) -> Result<()> {
        self.session.still_quiesced()
    }

    fn release(self: Box<Self>) -> Result<()> {
        let Self { session, deadline, stages } = *self;
        // The client does not reconnect, so this fails if the locking connection was lost.
        session.finish(if stages { "BACKUP STAGE END;" } else { "UNLOCK TABLES;" }, &deadline)
    }
}
