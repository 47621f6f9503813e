//! `postgresql:CONNINFO`: a checkpoint before the point.
//!
//! Any state of PostgreSQL's disk in write order is one that it recovers from, without loss of what was committed; what an
//! application-consistent point adds is a recent checkpoint, so that recovery is short, and the proof that the server was
//! there. It is not stopped: where writes are to stop, freeze its file system as well. All tablespaces and the
//! write-ahead log must be on volumes of one point.
//!
//! The client is `psql`; CONNINFO is libpq's, its passwords come from `PGPASSFILE` or a service file. Options: `user`, the
//! user of the system to run it as (`postgres` for peer authentication), `client`, another program.

use hrl::Result;

use crate::child::quiet_as;
use crate::provider::{Deadline, Hold, Occasion, Prepared, Provider, Rank};
use crate::session::Session;
use crate::spec::Spec;

pub(crate) struct PostgreSql {
    name: String,
    connection: String,
    client: String,
    user: Option<String>,
}

impl PostgreSql {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        spec.finish(&["user", "client"])?;
        let connection = match spec.target.as_str() {
            "" => "dbname=postgres".to_owned(),
            given => given.to_owned(),
        };
        Ok(Self {
            client: spec.option("client").unwrap_or("psql").to_owned(),
            user: spec.option("user").map(str::to_owned),
            name: spec.text,
            connection,
        })
    }
}

impl Provider for PostgreSql {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let deadline = &occasion.deadline;
        let mut command = quiet_as(self.user.as_deref(), &self.client);
        command
            .args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-d", &self.connection])
            .env("PGCONNECT_TIMEOUT", (deadline.left().as_secs() + 1).to_string())
            .env("PGAPPNAME", "hrl");
        let mut session =
            Session::start(&mut command, &self.name, |mark| format!("\\echo {mark}"))?;
        session.ask("CHECKPOINT;", deadline)?;
        Ok(Box::new(Checkpointed { session, deadline: deadline.clone() }))
    }
}

struct Checkpointed {
    session: Session,
    deadline: Deadline,
}

impl Prepared for Checkpointed {
    fn take(self: Box<Self>, _occasion: &Occasion) -> Result<Box<dyn Hold>> {
        Ok(self)
    }
}

impl Hold for Checkpointed {
    fn intact(&mut self) -> Result<()> {
        self.session.intact()
    }

    fn release(mut self: Box<Self>) -> Result<()> {
        // The server lived until now.
        self.session.ask("SELECT 1;", &self.deadline.anew(crate::RELEASE_LIMIT))?;
        self.session.close();
        Ok(())
    }
}
