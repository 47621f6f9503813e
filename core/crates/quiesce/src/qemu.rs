//! `qemu-ga:SOCKET`: the guest's own file systems, frozen by the QEMU guest agent over its UNIX
//! socket.
//!
//! The socket is a serial line with a history. A byte 0xFF makes the agent forget half a command.
//! `guest-sync-delimited` makes it answer 0xFF and a number that we choose; everything before that
//! is discarded. A guest stays frozen even if its host forgets it, so the socket stays open until
//! the thaw.
//!
//! The protocol: <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use hrl::{Clock, Error, ErrorKind, Result, SystemClock};
use serde_json::Value;

use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank, too_late};
use crate::spec::Spec;

const DELIMITER: u8 = 0xff;
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(crate) struct GuestAgent {
    name: String,
    socket: PathBuf,
}

impl GuestAgent {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        spec.finish(&[])?;
        Ok(Self { socket: spec.absolute_path("the agent's socket")?, name: spec.text })
    }

    fn connect(&self, deadline: &Deadline) -> Result<Client> {
        let stream = UnixStream::connect(&self.socket)
            .map_err(|error| Error::io("connect to", self.socket.display(), error))?;
        let mut client =
            Client { name: self.name.clone(), stream, received: Vec::new(), since_sync: true };
        client.sync(deadline)?;
        Ok(client)
    }
}

impl Provider for GuestAgent {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Guest
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let mut client = self.connect(&occasion.deadline)?;
        client.expect_status("thawed", &occasion.deadline)?;
        Ok(Box::new(Connected { client, deadline: occasion.deadline.clone() }))
    }

    fn rescue(&self, _volume: &str) -> Result<()> {
        let deadline = Deadline::after(SystemClock::shared(), crate::RELEASE_LIMIT);
        self.connect(&deadline)?.call("guest-fsfreeze-thaw", &deadline).map(drop)
    }
}

struct Connected {
    client: Client,
    deadline: Deadline,
}

impl Prepared for Connected {
    fn quiesce(mut self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        let frozen =
            self.client.call("guest-fsfreeze-freeze", &occasion.deadline).and_then(|count| {
                match count.as_u64() {
                    Some(1..) => Ok(()),
                    _ => Err(Error::new(ErrorKind::Unsupported, "quiesce", &self.client.name)
                        .message("the guest has no file system that can be frozen")),
                }
            });
        match frozen {
            Ok(()) => Ok(self),
            Err(error) => {
                // A guest that did not answer in time may still have frozen. The caller gets the
                // first failure.
                let deadline = self.deadline.anew(crate::RELEASE_LIMIT);
                let _ = self.client.sync(&deadline);
                let _ = self.client.call("guest-fsfreeze-thaw", &deadline);
                Err(error)
            }
        }
    }
}

impl Quiesced for Connected {
    fn release(mut self: Box<Self>) -> Result<()> {
        let deadline = self.deadline.anew(crate::RELEASE_LIMIT);
        let frozen = self.client.expect_status("frozen", &deadline);
        // The thaw is sent whatever status the guest reports.
        self.client.call("guest-fsfreeze-thaw", &deadline)?;
        frozen
    }
}

struct Client {
    name: String,
    stream: UnixStream,
    received: Vec<u8>,
    /// Every command since the last synchronisation was answered.
    since_sync: bool,
}

impl Client {
    /// Makes both sides discard earlier bytes.
    fn sync(&mut self, deadline: &Deadline) -> Result<()> {
        let mut random = [0; 4];
        SystemClock::default().fill_random(&mut random);
        let id = u32::from_le_bytes(random);
        self.received.clear();
        let request =
            format!("{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{id}}}}}\n");
        self.send(&[&[DELIMITER], request.as_bytes()].concat(), deadline)?;
        loop {
            self.receive_until(DELIMITER, deadline)?;
            let line = self.receive_until(b'\n', deadline)?;
            let answer = parse(&String::from_utf8_lossy(&line));
            if answer.and_then(|answer| answer.get("return")?.as_u64()) == Some(id.into()) {
                self.since_sync = true;
                return Ok(());
            }
        }
    }

    fn expect_status(&mut self, expected: &str, deadline: &Deadline) -> Result<()> {
        let status = self.call("guest-fsfreeze-status", deadline)?;
        let found = status.as_str().unwrap_or("no text");
        if found == expected {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "quiesce", &self.name)
            .expected(format_args!("a guest that is {expected}"))
            .found(found))
    }

    /// Sends a command and returns its result.
    fn call(&mut self, command: &str, deadline: &Deadline) -> Result<Value> {
        if !self.since_sync {
            self.sync(deadline)?;
        }
        self.since_sync = false;
        self.send(format!("{{\"execute\":\"{command}\"}}\n").as_bytes(), deadline)?;
        let line = self.receive_until(b'\n', deadline)?;
        self.since_sync = true;
        let text = String::from_utf8_lossy(&line);
        let answer = parse(&text);
        if let Some(value) = answer.as_ref().and_then(|answer| answer.get("return")) {
            return Ok(value.clone());
        }
        let description =
            answer.as_ref().and_then(|answer| answer.get("error")?.get("desc")?.as_str());
        Err(Error::new(ErrorKind::Unavailable, "quiesce", &self.name)
            .message(format_args!("{command} failed"))
            .found(description.unwrap_or(text.trim())))
    }

    fn send(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<()> {
        deadline.check(&self.name)?;
        let io = |error| Error::io("speak with", &self.name, error);
        self.stream.set_write_timeout(Some(at_least(deadline.left()))).map_err(io)?;
        self.stream.write_all(bytes).map_err(io)
    }

    /// Removes and returns the bytes before the next `end`; removes `end` too.
    fn receive_until(&mut self, end: u8, deadline: &Deadline) -> Result<Vec<u8>> {
        let io = |error| Error::io("speak with", &self.name, error);
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == end) {
                let mut taken: Vec<u8> = self.received.drain(..=at).collect();
                taken.pop();
                return Ok(taken);
            }
            if self.received.len() > ANSWER_BYTES_MAX {
                return Err(Error::new(ErrorKind::Corrupt, "understand", &self.name)
                    .expected(format_args!("an answer of at most {ANSWER_BYTES_MAX} bytes")));
            }
            deadline.check(&self.name)?;
            self.stream.set_read_timeout(Some(at_least(deadline.left()))).map_err(io)?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::Unavailable, "quiesce", &self.name)
                        .message("the agent's socket was closed"));
                }
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(too_late(&self.name));
                }
                Err(error) => return Err(io(error)),
            }
        }
    }
}

/// Returns the value of an answer; `None` if it is not JSON.
fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

fn at_least(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}
