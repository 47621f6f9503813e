//! `redis:SOCKET` or `redis:HOST:PORT`: writes paused, and earlier writes made durable.
//!
//! `CLIENT PAUSE … WRITE` (Redis 6.2) delays every write at the server; the pause expires a little
//! after the limit. An append-only file is synced by `WAITAOF` (Redis 7.2). Earlier versions need
//! `appendfsync always` or a frozen file system. Without such a file the data set is saved
//! (`BGSAVE`) during the pause. Options: `password-file`, `login`.
//!
//! The protocol is RESP 2: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};

use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank, too_late};
use crate::spec::Spec;

/// How much the server's pause outlives the limit, so that the watchdog's release comes first.
const PAUSE_MARGIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// Longest answer, longest array, deepest nesting.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const ARRAY_MAX: usize = 1024;
const DEPTH_MAX: u32 = 4;

pub(crate) struct Redis {
    name: String,
    address: String,
    login: Option<String>,
    password_file: Option<PathBuf>,
}

impl Redis {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        spec.finish(&["password-file", "login"])?;
        if !spec.target.starts_with('/') && !spec.target.contains(':') {
            return Err(spec.bad().expected("/SOCKET or HOST:PORT").found(&spec.target));
        }
        Ok(Self {
            address: spec.target.clone(),
            login: spec.option("login").map(str::to_owned),
            password_file: spec.option("password-file").map(PathBuf::from),
            name: spec.text,
        })
    }

    fn connect(&self, deadline: &Deadline) -> Result<Client> {
        let io = |error| Error::io("connect to", &self.address, error);
        let stream = if self.address.starts_with('/') {
            Stream::Unix(UnixStream::connect(&self.address).map_err(io)?)
        } else {
            Stream::Tcp(TcpStream::connect(&self.address).map_err(io)?)
        };
        let mut client = Client { name: self.name.clone(), stream: BufReader::new(stream) };
        if let Some(path) = &self.password_file {
            let password = std::fs::read_to_string(path)
                .map_err(|error| Error::io("read", path.display(), error))?;
            let mut words = vec!["AUTH"];
            words.extend(self.login.as_deref());
            words.push(password.trim_end_matches('\n'));
            client.ask(&words, deadline)?;
        }
        Ok(client)
    }
}

impl Provider for Redis {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Database
    }

    fn prepare(&self, occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let deadline = &occasion.deadline;
        let mut client = self.connect(deadline)?;
        let setting = |client: &mut Client, name: &str| {
            let found = client.ask(&["CONFIG", "GET", name], deadline)?;
            Ok::<_, Error>(found.texts().last().map(|text| (*text).to_owned()))
        };
        let appends = setting(&mut client, "appendonly")?.as_deref() == Some("yes");
        let always = setting(&mut client, "appendfsync")?.as_deref() == Some("always");
        let durable = match (appends, client.ask(&["WAITAOF", "0", "0", "0"], deadline)) {
            (false, _) => Durable::BySave,
            (true, Ok(_)) => Durable::ByWait,
            (true, Err(_)) if always || occasion.freezes => Durable::Already,
            (true, Err(error)) => {
                return Err(Error::new(ErrorKind::Unsupported, "quiesce", &self.name)
                    .message("its append-only file can be made durable by WAITAOF, `appendfsync always` or a frozen file system")
                    .caused_by(error));
            }
        };
        Ok(Box::new(Connected { client, durable, deadline: deadline.clone() }))
    }
}

/// How earlier writes reach the disk.
#[derive(Clone, Copy)]
enum Durable {
    Already,
    ByWait,
    BySave,
}

struct Connected {
    client: Client,
    durable: Durable,
    deadline: Deadline,
}

impl Connected {
    fn make_durable(&mut self) -> Result<()> {
        let deadline = self.deadline.clone();
        match self.durable {
            Durable::Already => Ok(()),
            Durable::ByWait => {
                let limit = deadline.left().as_millis().to_string();
                match self.client.ask(&["WAITAOF", "1", "0", &limit], &deadline)? {
                    Answer::Array(counts) if matches!(counts.first(), Some(Answer::Number(1))) => {
                        Ok(())
                    }
                    _ => Err(too_late(&self.client.name)),
                }
            }
            Durable::BySave => self.save(&deadline),
        }
    }

    fn save(&mut self, deadline: &Deadline) -> Result<()> {
        self.wait_for_save(deadline)?;
        self.client.ask(&["BGSAVE"], deadline)?;
        let info = self.wait_for_save(deadline)?;
        if info.lines().any(|line| line.trim() == "rdb_last_bgsave_status:ok") {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "quiesce", &self.client.name)
            .message("the server could not save its data set"))
    }

    /// Waits until no save runs, and returns the server's report on its files.
    fn wait_for_save(&mut self, deadline: &Deadline) -> Result<String> {
        loop {
            let answer = self.client.ask(&["INFO", "persistence"], deadline)?;
            let info = answer.texts().concat();
            if info.lines().any(|line| line.trim() == "rdb_bgsave_in_progress:0") {
                return Ok(info);
            }
            deadline.check(&self.client.name)?;
            std::thread::sleep(POLL);
        }
    }
}

impl Prepared for Connected {
    fn quiesce(mut self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        let pause = (occasion.deadline.left() + PAUSE_MARGIN).as_millis().to_string();
        self.client.ask(&["CLIENT", "PAUSE", &pause, "WRITE"], &occasion.deadline)?;
        match self.make_durable() {
            Ok(()) => Ok(self),
            Err(error) => {
                // The caller gets the first failure.
                let _ = self.release();
                Err(error)
            }
        }
    }
}

impl Quiesced for Connected {
    fn release(mut self: Box<Self>) -> Result<()> {
        let deadline = self.deadline.anew(crate::RELEASE_LIMIT);
        self.client.ask(&["CLIENT", "UNPAUSE"], &deadline).map(drop)
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn limit(&self, limit: Duration) -> std::io::Result<()> {
        let limit = Some(limit.max(Duration::from_millis(1)));
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A value of the protocol, as far as this client needs it.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Text(String),
    Number(i64),
    Array(Vec<Answer>),
}

impl Answer {
    /// Returns all texts in the value, in order.
    fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Number(_) => Vec::new(),
            Self::Array(parts) => parts.iter().flat_map(Self::texts).collect(),
        }
    }
}

struct Client {
    name: String,
    stream: BufReader<Stream>,
}

impl Client {
    fn ask(&mut self, words: &[&str], deadline: &Deadline) -> Result<Answer> {
        let words_sent = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), words_sent.collect::<String>());
        deadline.check(&self.name)?;
        let io = |error| Error::io("speak with", &self.name, error);
        self.stream.get_ref().limit(deadline.left()).map_err(io)?;
        self.stream.get_mut().write_all(request.as_bytes()).map_err(io)?;
        read_answer(&mut self.stream, DEPTH_MAX, &self.name)
    }
}

/// Reads an answer and returns its texts. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn read_redis_answer(mut from: &[u8]) -> Result<Vec<String>> {
    let answer = read_answer(&mut from, DEPTH_MAX, "redis")?;
    Ok(answer.texts().into_iter().map(str::to_owned).collect())
}

fn read_answer(from: &mut impl BufRead, depth: u32, name: &str) -> Result<Answer> {
    let bad = || Error::new(ErrorKind::Corrupt, "understand", name);
    let io = |error| Error::io("speak with", name, error);
    let mut line = Vec::new();
    from.by_ref().take(ANSWER_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(io)?;
    let line = String::from_utf8_lossy(&line);
    let Some(line) = line.strip_suffix("\r\n") else {
        return Err(bad().expected("a line").found("its end"));
    };
    let (kind, rest) = (line.chars().next().unwrap_or(' '), line.get(1..).unwrap_or(""));
    let number = || rest.parse::<i64>().map_err(|_| bad().expected("a number").found(rest));
    match kind {
        '+' => Ok(Answer::Text(rest.to_owned())),
        ':' => number().map(Answer::Number),
        '-' => Err(Error::new(ErrorKind::Unavailable, "quiesce", name).found(rest)),
        '$' => match usize::try_from(number()?) {
            Err(_) => Ok(Answer::Text(String::new())),
            Ok(length) if length > ANSWER_BYTES_MAX => {
                Err(bad().expected(format_args!("at most {ANSWER_BYTES_MAX} bytes")).found(length))
            }
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                from.read_exact(&mut bytes).map_err(io)?;
                Ok(Answer::Text(String::from_utf8_lossy(&bytes[..length]).into_owned()))
            }
        },
        '*' => {
            let count = usize::try_from(number()?).unwrap_or(0);
            if count > ARRAY_MAX || depth == 0 {
                return Err(bad()
                    .expected(format_args!("at most {ARRAY_MAX} values"))
                    .found(count));
            }
            let parts = (0..count).map(|_| read_answer(from, depth - 1, name));
            parts.collect::<Result<_>>().map(Answer::Array)
        }
        _ => Err(bad().expected("a value of RESP 2").found(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut bytes: &[u8]) -> Result<Answer> {
        read_answer(&mut bytes, DEPTH_MAX, "redis")
    }

    #[test]
    fn answers_are_decoded() {
        let answer = read(b"*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n").expect("read");
        assert_eq!(answer.texts(), ["appendonly", "yes"]);
        assert_eq!(
            read(b"*2\r\n:1\r\n:0\r\n").expect("read"),
            Answer::Array(vec![Answer::Number(1), Answer::Number(0)])
        );
        let error = read(b"-NOAUTH Authentication required.\r\n").expect_err("refused");
        assert!(error.to_string().contains("NOAUTH"), "{error}");
    }

    proptest! {
        #[test]
        fn promise_11_any_bytes_are_an_answer_or_an_error(bytes in "[*$:+-]{0,3}[0-9]{0,12}(\r\n)?[*$:+-]{0,3}[0-9]{0,4}(\r\n)?.{0,9}") {
            let _ = read(bytes.as_bytes());
        }
    }
}
