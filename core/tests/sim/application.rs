//! An application that is quiesced for points, and that may fail to do so.

use std::sync::atomic::{AtomicBool, Ordering};

use hrl::{ErrorKind, Quiesce, QuiesceRequest};

use crate::world::World;

/// An application that is quiesced for points.
pub struct Application {
    pub refuses: bool,
    pub lets_go_early: bool,
    pub held: AtomicBool,
}

impl Application {
    fn failed(what: &str) -> hrl::Error {
        hrl::Error::new(ErrorKind::Unavailable, "quiesce", "application").message(what)
    }
}

impl Quiesce for Application {
    fn name(&self) -> String {
        "application".to_owned()
    }

    fn quiesce(&self, _request: &QuiesceRequest) -> hrl::Result<()> {
        self.held.store(true, Ordering::Relaxed);
        World::current().takes_time();
        if self.refuses { Err(Self::failed("it refuses")) } else { Ok(()) }
    }

    fn release(&self) -> hrl::Result<()> {
        self.held.store(false, Ordering::Relaxed);
        if self.lets_go_early { Err(Self::failed("it went on before")) } else { Ok(()) }
    }
}
