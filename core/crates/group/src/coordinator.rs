//! The coordinator of a group: takes members in, remembers them, and makes points of the group, by schedule and on demand.
//!
//! Invariants: who is a member is written down durably before it is told so, and stays written down until it leaves or is
//! removed; a round is made of exactly those, so a member that is away means no point, and never one without it. A client may
//! join with the volumes that its certificate was enrolled for, and no others. One thread does everything and never waits for
//! one member.
//!
//! Behaviour on failure: a member that breaks the protocol, falls silent or is lost is dropped, which ends a round that needs
//! it; it comes back by itself. A commitment that a member has not confirmed is said again when it is back.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::journal::LABEL_BYTES_MAX;
use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Error, ErrorKind, Event, EventKind, GroupPoint, PointId, Result};
use hrl_tls::rustls::ServerConfig;
use hrl_tls::{find_client, fingerprint, server_config};

use crate::link::{Link, Wake};
use crate::random;
use crate::round::{Output, Plan, Round};
use crate::wire::{PROTOCOL, ToCoordinator, ToMember};
use crate::{GroupOptions, members};

/// Most members of a group.
pub const MEMBERS_MAX: usize = 64;
/// Most connections, those of clients that are no members yet included.
const CONNECTIONS_MAX: usize = 2 * MEMBERS_MAX;
/// A client says who it is within this.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Members are asked this often whether they are there.
const PING_INTERVAL: Duration = Duration::from_secs(4);
/// A member from which nothing comes for this long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Commitments kept for a member that is away.
const COMMITMENTS_MAX: usize = 64;
/// Holds remembered for the percentiles.
const HOLDS_KEPT: usize = 4096;
/// Points waiting for their turn.
const WAITING_MAX: usize = 16;

/// How a group is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its members, by volume.
    pub members: Vec<GroupMemberStatus>,
    /// Points made since the start.
    pub points: u64,
    /// Rounds that made none.
    pub failures: u64,
    /// The newest point.
    pub newest: Option<GroupPoint>,
    /// Why the newest round made no point; empty when it did.
    pub problem: String,
    /// Median of the longest holds of the rounds of late.
    pub held_p50: Duration,
    /// 99th percentile of them.
    pub held_p99: Duration,
    /// The longest.
    pub held_max: Duration,
}

/// How a member is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMemberStatus {
    /// Its volume.
    pub volume: String,
    /// Its address, while it is connected.
    pub address: Option<String>,
    /// Commitments that it has not confirmed.
    pub unconfirmed: u64,
}

/// A running coordinator; it stops when it is dropped. May be used from any thread.
pub struct GroupCoordinator {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Point { app: bool, label: String, answer: mpsc::Sender<Result<GroupPoint>> },
    Remove { volume: String, answer: mpsc::Sender<Result<()>> },
    Stop,
}

struct Shared {
    commands: Mutex<VecDeque<Command>>,
    status: Mutex<GroupStatus>,
    wake: Wake,
}

impl GroupCoordinator {
    pub(crate) fn start(options: GroupOptions) -> Result<Self> {
        options.validate()?;
        let tls = server_config(&options.pki, true)?;
        let directory = &options.state;
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::io("create directory", directory.display(), error))?;
        let io = |error| Error::io("listen on", &options.listen, error);
        let listener = TcpListener::bind(&options.listen).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let wake = Wake::new().map_err(io)?;
        let members = members::read(directory)?;
        let shared =
            Arc::new(Shared { commands: Mutex::default(), status: Mutex::default(), wake });
        let now = options.clock.elapsed();
        let coordinator = Coordinator {
            shared: shared.clone(),
            tls,
            listener,
            clients: Vec::new(),
            members: members.into_iter().map(|volume| (volume, VecDeque::new())).collect(),
            round: None,
            rounds: 0,
            waiting: VecDeque::new(),
            last: [now; 2],
            pinged: now,
            holds: VecDeque::new(),
            options,
        };
        coordinator.tell_members();
        let thread = std::thread::Builder::new()
            .name("hrl-coordinator".into())
            .spawn(move || coordinator.run())
            .map_err(|error| Error::io("run group", "thread", error))?;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a point of the group now, application-consistent with `app`; returns when every member's mark is durable on its
    /// machine. `Unavailable` says which member is in the way.
    pub fn point(&self, app: bool, label: &str) -> Result<GroupPoint> {
        if label.len() > LABEL_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "mark group point", "label")
                .expected(format_args!("at most {LABEL_BYTES_MAX} bytes"))
                .found(label.len()));
        }
        let label = label.to_owned();
        self.ask(|answer| Command::Point { app, label, answer })
    }

    /// Takes a member out that is not coming back. `NotFound` when it is none.
    pub fn remove(&self, volume: &str) -> Result<()> {
        self.ask(|answer| Command::Remove { volume: volume.to_owned(), answer })
    }

    /// How the group is doing.
    pub fn status(&self) -> GroupStatus {
        self.shared.status().clone()
    }

    fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, answered) = mpsc::channel();
        self.shared.send(command(answer));
        answered.recv().unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for GroupCoordinator {
    fn drop(&mut self) {
        self.shared.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing to give back.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, GroupStatus> {
        self.status.lock()
    }

    fn send(&self, command: Command) {
        self.commands.lock().push_back(command);
        self.wake.wake();
    }

    fn take(&self) -> Option<Command> {
        self.commands.lock().pop_front()
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "ask", "coordinator").message("it has stopped")
}

/// A connection.
struct Client {
    link: Link,
    /// Its volume, once it is a member.
    member: Option<String>,
    since: Duration,
    heard: Duration,
    /// It is dropped when what was said to it has gone.
    is_leaving: bool,
}

/// A point that is asked for.
struct Wanted {
    app: bool,
    label: String,
    answer: Option<mpsc::Sender<Result<GroupPoint>>>,
}

/// What the thread owns.
struct Coordinator {
    shared: Arc<Shared>,
    options: GroupOptions,
    tls: Arc<ServerConfig>,
    listener: TcpListener,
    clients: Vec<Client>,
    /// Members, and the commitments that they have not confirmed.
    members: BTreeMap<String, VecDeque<ToMember>>,
    round: Option<(Round, Wanted)>,
    rounds: u64,
    waiting: VecDeque<Wanted>,
    /// When the last scheduled crash- and application-consistent points began.
    last: [Duration; 2],
    pinged: Duration,
    holds: VecDeque<Duration>,
}

impl Coordinator {
    fn run(mut self) {
        loop {
            self.wait();
            while let Some(command) = self.shared.take() {
                match command {
                    Command::Stop => return self.stop(),
                    Command::Point { app, label, answer } => {
                        self.want(Wanted { app, label, answer: Some(answer) });
                    }
                    Command::Remove { volume, answer } => {
                        let _ = answer.send(self.remove(&volume));
                    }
                }
            }
            self.accept();
            self.hear();
            let now = self.options.clock.elapsed();
            if let Some((round, _)) = &mut self.round {
                let outputs = round.tick(now);
                self.act(outputs);
            }
            self.ping(now);
            self.schedule(now);
            self.begin(now);
        }
    }

    /// Nobody waits for an answer that never comes, and no member holds its writers for us.
    fn stop(mut self) {
        if let Some((round, wanted)) = self.round.take() {
            if !round.is_over() {
                self.broadcast(&ToMember::Revoke { round: round.number() });
            }
            answer(wanted, Err(stopped()));
        }
        self.waiting.drain(..).for_each(|wanted| answer(wanted, Err(stopped())));
    }

    fn wait(&self) {
        let now = self.options.clock.elapsed();
        let mut until = self.pinged + PING_INTERVAL;
        if let Some((round, _)) = &self.round {
            until = until.min(round.deadline());
        }
        for (interval, last) in self.intervals().into_iter().zip(self.last) {
            if !interval.is_zero() {
                until = until.min(last + interval);
            }
        }
        let links = self.clients.iter().map(|client| &client.link);
        self.shared.wake.wait(Some(&self.listener), links, until.saturating_sub(now));
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.clients.len() >= CONNECTIONS_MAX {
                continue;
            }
            let now = self.options.clock.elapsed();
            if let Ok(link) = Link::accept(socket, &self.tls) {
                self.clients.push(Client {
                    link,
                    member: None,
                    since: now,
                    heard: now,
                    is_leaving: false,
                });
            }
        }
    }

    /// Takes what the clients said; drops those that are gone, silent or break the protocol.
    fn hear(&mut self) {
        let mut at = 0;
        while at < self.clients.len() {
            match self.hear_one(at) {
                Ok(()) => at += 1,
                Err(error) => self.lose(at, &error),
            }
        }
    }

    fn hear_one(&mut self, at: usize) -> Result<()> {
        self.clients[at].link.pump()?;
        while let Some(frame) = self.clients[at].link.take()? {
            let now = self.options.clock.elapsed();
            self.clients[at].heard = now;
            let message = ToCoordinator::decode(&frame)?;
            match self.clients[at].member.clone() {
                Some(volume) => self.heard_member(at, &volume, &message, now)?,
                None => self.welcome(at, &message)?,
            }
        }
        let client = &self.clients[at];
        let now = self.options.clock.elapsed();
        let silent = |limit| {
            Err(Error::new(ErrorKind::Unavailable, "hear from", client.link.peer())
                .message(format_args!("nothing came for {limit:?}")))
        };
        if client.is_leaving && !client.link.wants_write() {
            return Err(Error::new(ErrorKind::Unavailable, "hear from", client.link.peer())
                .message("it left"));
        }
        match &client.member {
            None if now.saturating_sub(client.since) > HELLO_LIMIT => silent(HELLO_LIMIT),
            Some(_) if now.saturating_sub(client.heard) > SILENCE_LIMIT => silent(SILENCE_LIMIT),
            _ => Ok(()),
        }
    }

    fn heard_member(
        &mut self,
        at: usize,
        volume: &str,
        message: &ToCoordinator,
        now: Duration,
    ) -> Result<()> {
        match message {
            ToCoordinator::Pong => {}
            ToCoordinator::Committed { round: confirmed } => {
                if let Some(commitments) = self.members.get_mut(volume) {
                    commitments.retain(
                        |c| !matches!(c, ToMember::Commit { round, .. } if round == confirmed),
                    );
                }
                self.tell_members();
            }
            ToCoordinator::Leave => {
                self.members.remove(volume);
                members::write(&self.options.state, self.members.keys())?;
                self.clients[at].member = None;
                self.clients[at].is_leaving = true;
                self.clients[at].link.send(&ToMember::Left.encode())?;
                self.without(volume, now);
            }
            ToCoordinator::Hello { .. } => {
                return Err(Error::new(ErrorKind::InvalidInput, "hear from", volume)
                    .message("it said hello twice"));
            }
            answer => {
                if let Some((round, _)) = &mut self.round {
                    let outputs = round.heard(volume, answer, now);
                    self.act(outputs);
                }
            }
        }
        Ok(())
    }

    /// Takes a client in as a member, or tells it why not.
    fn welcome(&mut self, at: usize, message: &ToCoordinator) -> Result<()> {
        match self.admit(at, message) {
            Ok(volume) => {
                let before =
                    self.clients.iter().position(|c| c.member.as_deref() == Some(&*volume));
                self.clients[at].member = Some(volume.clone());
                let budget_us = u32::try_from(self.options.budget.as_micros()).unwrap_or(u32::MAX);
                self.clients[at].link.send(&ToMember::Welcome { budget_us }.encode())?;
                for commitment in self.members.get(&volume).into_iter().flatten() {
                    self.clients[at].link.send(&commitment.encode())?;
                }
                if let Some(before) = before {
                    // Its old connection; what it was doing there is over.
                    self.clients[before].member = None;
                    self.clients[before].is_leaving = true;
                    self.without(&volume, self.options.clock.elapsed());
                }
                self.tell_members();
                Ok(())
            }
            Err(error) => {
                self.clients[at].is_leaving = true;
                let refused = ToMember::Refused { reason: error.to_string() };
                self.clients[at].link.send(&refused.encode())
            }
        }
    }

    fn admit(&mut self, at: usize, message: &ToCoordinator) -> Result<String> {
        let ToCoordinator::Hello { protocol, group, volume } = message else {
            return Err(Error::new(ErrorKind::InvalidInput, "take in", "client")
                .expected("that it says who it is"));
        };
        if *protocol != PROTOCOL {
            return Err(Error::new(ErrorKind::Unsupported, "take in", volume)
                .expected(format_args!("protocol {PROTOCOL}"))
                .found(protocol));
        }
        if *group != self.options.name {
            return Err(Error::new(ErrorKind::NotFound, "take in", volume)
                .expected(format_args!("a member of group {}", self.options.name))
                .found(format_args!("one of group {group}")));
        }
        let known = self.clients[at].link.peer_certificate().map(fingerprint);
        let client = match known {
            Some(known) => find_client(&self.options.pki, &known)?,
            None => None,
        };
        if !client.is_some_and(|client| client.volumes.contains(volume)) {
            return Err(Error::new(ErrorKind::Fenced, "take in", volume)
                .message("the client's certificate is not enrolled for this volume"));
        }
        if !self.members.contains_key(volume) {
            if self.members.len() >= MEMBERS_MAX {
                return Err(Error::new(ErrorKind::Full, "take in", volume)
                    .expected(format_args!("at most {MEMBERS_MAX} members")));
            }
            self.members.insert(volume.clone(), VecDeque::new());
            if let Err(error) = members::write(&self.options.state, self.members.keys()) {
                self.members.remove(volume);
                return Err(error);
            }
        }
        Ok(volume.clone())
    }

    fn lose(&mut self, at: usize, error: &Error) {
        let client = self.clients.remove(at);
        if let Some(volume) = client.member {
            self.event(EventKind::TaskFailed, format!("member {volume} is lost: {error}"));
            self.without(&volume, self.options.clock.elapsed());
            self.tell_members();
        }
    }

    /// The round goes on without this member, if it can.
    fn without(&mut self, volume: &str, now: Duration) {
        if let Some((round, _)) = &mut self.round {
            let outputs = round.lost(volume, now);
            self.act(outputs);
        }
        self.tell_members();
    }

    fn remove(&mut self, volume: &str) -> Result<()> {
        let Some(commitments) = self.members.remove(volume) else {
            return Err(Error::new(ErrorKind::NotFound, "remove member", volume)
                .expected(format_args!("one of {:?}", self.members.keys().collect::<Vec<_>>())));
        };
        if let Err(error) = members::write(&self.options.state, self.members.keys()) {
            self.members.insert(volume.to_owned(), commitments);
            return Err(error);
        }
        self.send(volume, &ToMember::Left);
        for client in &mut self.clients {
            if client.member.as_deref() == Some(volume) {
                client.member = None;
                client.is_leaving = true;
            }
        }
        self.without(volume, self.options.clock.elapsed());
        Ok(())
    }

    fn intervals(&self) -> [Duration; 2] {
        [self.options.interval, self.options.app_interval]
    }

    fn schedule(&mut self, now: Duration) {
        for (number, interval) in self.intervals().into_iter().enumerate() {
            if !interval.is_zero() && now >= self.last[number] + interval {
                self.last[number] = now;
                // One that waits already is enough.
                if self.waiting.is_empty() {
                    self.want(Wanted { app: number == 1, label: String::new(), answer: None });
                }
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        if self.waiting.len() >= WAITING_MAX {
            let full = Error::new(ErrorKind::Full, "mark group point", &self.options.name)
                .expected(format_args!("at most {WAITING_MAX} that wait for their turn"));
            return answer(wanted, Err(full));
        }
        self.waiting.push_back(wanted);
    }

    /// Begins the next round, when none is under way.
    fn begin(&mut self, now: Duration) {
        while self.round.is_none() {
            let Some(wanted) = self.waiting.pop_front() else { return };
            let away: Vec<_> =
                self.members.keys().filter(|volume| !self.is_connected(volume)).cloned().collect();
            if !away.is_empty() {
                let error =
                    Error::new(ErrorKind::Unavailable, "mark group point", &self.options.name)
                        .message(format_args!("{} not connected", away.join(", ")));
                self.ended(wanted, Err(error));
                continue;
            }
            self.rounds += 1;
            let clock = &*self.options.clock;
            let plan = Plan {
                number: self.rounds,
                id: PointId::of_group(clock.now(), random(clock)),
                name: self.options.name.clone(),
                app: wanted.app,
                label: wanted.label.clone(),
                members: self.members.keys().cloned().collect(),
                budget: self.options.budget,
                quiesce_limit: self.options.quiesce_limit,
            };
            let (round, outputs) = Round::start(plan, now);
            self.round = Some((round, wanted));
            self.act(outputs);
        }
    }

    /// Does what a round wants.
    fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(volume, message) => {
                    if matches!(message, ToMember::Commit { .. })
                        && let Some(commitments) = self.members.get_mut(&volume)
                    {
                        commitments.push_back(message.clone());
                        if commitments.len() > COMMITMENTS_MAX {
                            commitments.pop_front();
                        }
                    }
                    self.send(&volume, &message);
                }
                Output::Ended(result) => {
                    if let Some((_, wanted)) = self.round.take() {
                        self.ended(wanted, result);
                    }
                }
            }
        }
    }

    fn ended(&mut self, wanted: Wanted, result: Result<GroupPoint>) {
        let kind = if wanted.app { "application" } else { "crash" };
        match &result {
            Ok(point) => {
                if let Some(held) = point.held {
                    self.holds.push_back(held);
                    if self.holds.len() > HOLDS_KEPT {
                        self.holds.pop_front();
                    }
                }
                let mut sorted: Vec<_> = self.holds.iter().copied().collect();
                sorted.sort_unstable();
                let at = |percent: usize| {
                    let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
                    sorted.get(index).copied().unwrap_or_default()
                };
                let mut status = self.shared.status();
                status.points += 1;
                status.newest = Some(point.clone());
                status.problem.clear();
                (status.held_p50, status.held_p99, status.held_max) = (at(50), at(99), at(100));
            }
            Err(error) => {
                {
                    let mut status = self.shared.status();
                    status.failures += 1;
                    status.problem = error.to_string();
                }
                self.event(EventKind::PointSkipped, format!("no {kind}-consistent point: {error}"));
            }
        }
        answer(wanted, result);
    }

    fn ping(&mut self, now: Duration) {
        if now.saturating_sub(self.pinged) >= PING_INTERVAL {
            self.pinged = now;
            self.broadcast(&ToMember::Ping);
            // What was not confirmed by now may have been refused for a time.
            let unconfirmed = self.members.iter().flat_map(|(volume, commitments)| {
                commitments.iter().map(|commitment| (volume.clone(), commitment.clone()))
            });
            for (volume, commitment) in unconfirmed.collect::<Vec<_>>() {
                self.send(&volume, &commitment);
            }
        }
    }

    fn broadcast(&mut self, message: &ToMember) {
        let frame = message.encode();
        for client in self.clients.iter_mut().filter(|client| client.member.is_some()) {
            // A link that fails is found broken when it is next heard.
            let _ = client.link.send(&frame);
        }
    }

    fn send(&mut self, volume: &str, message: &ToMember) {
        let client = self.clients.iter_mut().find(|c| c.member.as_deref() == Some(volume));
        if let Some(client) = client {
            // As above.
            let _ = client.link.send(&message.encode());
        }
    }

    fn is_connected(&self, volume: &str) -> bool {
        self.clients.iter().any(|client| client.member.as_deref() == Some(volume))
    }

    /// Writes the status of the members down for those who ask.
    fn tell_members(&self) {
        let status = |(volume, commitments): (&String, &VecDeque<ToMember>)| GroupMemberStatus {
            volume: volume.clone(),
            address: self
                .clients
                .iter()
                .find(|client| client.member.as_ref() == Some(volume))
                .map(|client| client.link.peer().to_owned()),
            unconfirmed: commitments.len() as u64,
        };
        self.shared.status().members = self.members.iter().map(status).collect();
    }

    fn event(&self, kind: EventKind, message: String) {
        let (time, volume) = (self.options.clock.now(), self.options.name.clone());
        (self.options.events)(&Event { time, volume, kind, message });
    }
}

fn answer(wanted: Wanted, result: Result<GroupPoint>) {
    if let Some(answer) = wanted.answer {
        // Whoever asked may be gone.
        let _ = answer.send(result);
    }
}
