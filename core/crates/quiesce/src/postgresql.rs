//! `postgresql:CONNINFO`: a checkpoint before the point.
//!
//! PostgreSQL recovers from any state of its disk in write order, without loss of committed data.
//! An application-consistent point adds a recent checkpoint, so that recovery is short, and the
//! proof that the server was running. The server is not stopped; to stop its writes, freeze its
//! file system too. All tablespaces and the write-ahead log must be on volumes of one point.
//!
//! The client is `psql` and CONNINFO is libpq's; passwords come from `PGPASSFILE` or a service
//! file. Options: `user`, the system's user who runs it (`postgres` for peer authentication);
//! `client`, another client program.

use hrl::Result;

use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank};
use crate::session::{Client, Session};
use crate::spec::Spec;

pub(crate) struct PostgreSql {
    client: Client,
    connection: String,
}

impl PostgreSql {
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        spec.finish(&["user", "client"])?;
        let connection = match spec.target.as_str() {
            "" => "dbname=postgres".to_owned(),
            given => given.to_owned(),
        };
        Ok(Self { client: Client::of(spec, "psql"), connection })
    }
}

impl Provider for PostgreSql {
    fn name(&self) -> String {
        self.client.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let deadline = &occasion.deadline;
        let mut command = self.client.command();
        command
            .args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-d", &self.connection])
            .env("PGCONNECT_TIMEOUT", (deadline.left().as_secs() + 1).to_string())
            .env("PGAPPNAME", "hrl");
        let mut session =
            Session::start(&mut command, &self.client.name, |mark| format!("\\echo {mark}"))?;
        session.ask("CHECKPOINT;", deadline)?;
        Ok(Box::new(Checkpointed { session, deadline: deadline.clone() }))
    }
}

struct Checkpointed {
    session: Session,
    deadline: Deadline,
}

impl Prepared for Checkpointed {
    fn quiesce(self: Box<Self>, _occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        Ok(self)
    }
}

impl Quiesced for Checkpointed {
    fn still_quiesced(&mut self) -> Result<()> {
        self.session.still_quiesced()
    }

    fn release(self: Box<Self>) -> Result<()> {
        let Self { session, deadline } = *self;
        // The answer proves that the server lived until now.
        session.finish("SELECT 1;", &deadline)
    }
}
