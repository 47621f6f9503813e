//! The coordinator of a group: admits members, remembers them, and makes points of the group on
//! schedule and on demand.
//!
//! Invariants: a member is recorded durably before its admission is confirmed, and stays recorded
//! until it leaves or is removed. A round consists of exactly the recorded members: if one is away,
//! no point is made. A client may join only with volumes that its certificate was enrolled for and
//! that the list of members names, if there is one. One thread does everything and never waits for a
//! single member.
//!
//! Behaviour on failure: a member that breaks the protocol, falls silent or is lost is dropped,
//! which ends a round that needs it. The member reconnects by itself. A commitment that a member
//! has not confirmed is sent again.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::device::{Files, SystemFiles};
use hrl::journal::LABEL_BYTES_MAX;
use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Error, ErrorKind, Event, EventKind, GroupPoint, PointId, Result};
use hrl_tls::rustls::ServerConfig;
use hrl_tls::{find_client, server_config};

use crate::link::{Link, Wake};
use crate::members::MEMBERS_MAX;
use crate::random;
use crate::round::{Output, Plan, Round};
use crate::wire::{PROTOCOL, ToCoordinator, ToMember};
use crate::{GroupOptions, members};

/// Most connections, including those of clients that are not members yet.
const CONNECTIONS_MAX: usize = 2 * MEMBERS_MAX;
/// A client must introduce itself within this time.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How often members are pinged.
const PING_INTERVAL: Duration = Duration::from_secs(4);
/// A member that sends nothing for this long is lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Unconfirmed commitments stored for each member.
const COMMITMENTS_MAX: usize = 64;
/// Barrier times stored for the percentiles.
const BARRIER_TIMES_MAX: usize = 4096;
/// Requested points that wait for their round.
const WAITING_MAX: usize = 16;

/// State of a group, as [`GroupCoordinator::status`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// The members, by volume.
    pub members: Vec<GroupMemberStatus>,
    /// Points made since the start.
    pub points: u64,
    /// Rounds that made no point.
    pub failures: u64,
    /// The newest point.
    pub newest: Option<GroupPoint>,
    /// Why the newest round made no point; empty if it made one.
    pub problem: String,
    /// Median over recent rounds of the longest time that a member's barrier was up.
    pub held_p50: Duration,
    /// 99th percentile of the same times.
    pub held_p99: Duration,
    /// Maximum of the same times.
    pub held_max: Duration,
}

/// State of a member, as [`GroupStatus`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMemberStatus {
    /// Volume of the member.
    pub volume: String,
    /// Network address, while the member is connected.
    pub address: Option<String>,
    /// Commitments that the member has not confirmed.
    pub unconfirmed: u64,
}

/// A running coordinator, usable from any thread. Dropping it stops it.
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
        SystemFiles
            .create_directory(directory)
            .map_err(|error| Error::io("create directory", directory.display(), error))?;
        let io = |error| Error::io("listen on", &options.listen, error);
        let listener = TcpListener::bind(&options.listen).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let wake = Wake::new().map_err(io)?;
        let mut members = members::read(directory)?;
        if let Some(listed) = &options.members {
            members.retain(|volume| listed.contains(volume));
        }
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
            barrier_times: VecDeque::new(),
            options,
        };
        coordinator.publish_members();
        let thread = std::thread::Builder::new()
            .name("hrl-coordinator".into())
            .spawn(move || coordinator.run())
            .map_err(|error| Error::io("run group", "thread", error))?;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    /// Returns the address on which the coordinator listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a point of the group now, application-consistent with `app`. Returns when every
    /// member's mark is durable on its machine. An `Unavailable` error identifies the member that
    /// prevented the point.
    pub fn point(&self, app: bool, label: &str) -> Result<GroupPoint> {
        if label.len() > LABEL_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "mark group point", "label")
                .expected(format_args!("at most {LABEL_BYTES_MAX} bytes"))
                .found(label.len()));
        }
        let label = label.to_owned();
        self.ask(|answer| Command::Point { app, label, answer })
    }

    /// Removes a member that is not coming back. `NotFound` if there is no such member.
    pub fn remove(&self, volume: &str) -> Result<()> {
        self.ask(|answer| Command::Remove { volume: volume.to_owned(), answer })
    }

    /// Returns how the group is doing.
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
            // A panicked thread returns nothing.
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
    /// The volume, once the client is a member.
    member: Option<String>,
    since: Duration,
    heard: Duration,
    /// Drop the connection once everything is sent.
    is_leaving: bool,
}

/// A requested point.
struct Wanted {
    app: bool,
    label: String,
    answer: Option<mpsc::Sender<Result<GroupPoint>>>,
}

/// What the coordinator's thread owns.
struct Coordinator {
    shared: Arc<Shared>,
    options: GroupOptions,
    tls: Arc<ServerConfig>,
    listener: TcpListener,
    clients: Vec<Client>,
    /// Members, and the commitments that each has not confirmed.
    members: BTreeMap<String, VecDeque<ToMember>>,
    round: Option<(Round, Wanted)>,
    rounds: u64,
    waiting: VecDeque<Wanted>,
    /// When the last scheduled crash- and application-consistent points began.
    last: [Duration; 2],
    pinged: Duration,
    barrier_times: VecDeque<Duration>,
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

    /// Answers all requests that wait, and lifts the barrier of every member.
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
                // Ends the oldest connection of no member, so that idle sockets cannot fill the table.
                let unknown = self.clients.iter().position(|client| client.member.is_none());
                let Some(oldest) = unknown else { continue };
                self.clients.remove(oldest);
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

    /// Handles what the clients sent. Drops clients that are gone, silent, or break the protocol.
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
            Err(Error::new(ErrorKind::Unavailable, "receive from", client.link.peer())
                .message(format_args!("it sent nothing for {limit:?}")))
        };
        if client.is_leaving && !client.link.wants_write() {
            return Err(Error::new(ErrorKind::Unavailable, "receive from", client.link.peer())
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
                self.publish_members();
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
                return Err(Error::new(ErrorKind::InvalidInput, "receive from", volume)
                    .message("it introduced itself twice"));
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

    /// Admits a client as a member, or sends it the reason why not.
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
                    // The member connected again: its old connection and its part in the round end.
                    self.clients[before].member = None;
                    self.clients[before].is_leaving = true;
                    self.without(&volume, self.options.clock.elapsed());
                }
                self.publish_members();
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
            return Err(Error::new(ErrorKind::InvalidInput, "admit", "client")
                .expected("an introduction first"));
        };
        if *protocol != PROTOCOL {
            return Err(Error::new(ErrorKind::Unsupported, "admit", volume)
                .expected(format_args!("protocol {PROTOCOL}"))
                .found(protocol));
        }
        if *group != self.options.name {
            return Err(Error::new(ErrorKind::NotFound, "admit", volume)
                .expected(format_args!("a member of group {}", self.options.name))
                .found(format_args!("a member of group {group}")));
        }
        let certificate = self.clients[at].link.peer_certificate();
        let client = match certificate {
            Some(certificate) => find_client(&self.options.pki, certificate)?,
            None => None,
        };
        // A member writes points into the volume's journal.
        if !client.is_some_and(|client| client.role.adds() && client.has_volume(volume)) {
            return Err(Error::new(ErrorKind::Denied, "admit", volume)
                .message("the client's certificate is not enrolled for this volume"));
        }
        if self.options.members.as_ref().is_some_and(|listed| !listed.contains(volume)) {
            return Err(Error::new(ErrorKind::Denied, "admit", volume)
                .message("the group's list of members does not name this volume"));
        }
        if !self.members.contains_key(volume) {
            if self.members.len() >= MEMBERS_MAX {
                return Err(Error::new(ErrorKind::Full, "admit", volume)
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
            self.publish_members();
        }
    }

    /// Continues the round without this member, if it can.
    fn without(&mut self, volume: &str, now: Duration) {
        if let Some((round, _)) = &mut self.round {
            let outputs = round.lost(volume, now);
            self.act(outputs);
        }
        self.publish_members();
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
                // One point that waits already is enough.
                if self.waiting.is_empty() {
                    self.want(Wanted { app: number == 1, label: String::new(), answer: None });
                }
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        if self.waiting.len() >= WAITING_MAX {
            let full = Error::new(ErrorKind::Full, "mark group point", &self.options.name)
                .expected(format_args!("at most {WAITING_MAX} points that wait"));
            return answer(wanted, Err(full));
        }
        self.waiting.push_back(wanted);
    }

    /// Begins the next round, unless one is under way.
    fn begin(&mut self, now: Duration) {
        while self.round.is_none() {
            let Some(wanted) = self.waiting.pop_front() else { return };
            let away: Vec<_> =
                self.members.keys().filter(|volume| !self.is_connected(volume)).cloned().collect();
            if !away.is_empty() {
                let error =
                    Error::new(ErrorKind::Unavailable, "mark group point", &self.options.name)
                        .message(format_args!("not connected: {}", away.join(", ")));
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

    /// Carries out what a round asks for.
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
                    self.barrier_times.push_back(held);
                    if self.barrier_times.len() > BARRIER_TIMES_MAX {
                        self.barrier_times.pop_front();
                    }
                }
                let mut sorted: Vec<_> = self.barrier_times.iter().copied().collect();
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
            // A member may have refused a commitment for a while, so it is sent again.
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
            // A broken link is noticed when it is next read.
            let _ = client.link.send(&frame);
        }
    }

    fn send(&mut self, volume: &str, message: &ToMember) {
        let client = self.clients.iter_mut().find(|c| c.member.as_deref() == Some(volume));
        if let Some(client) = client {
            // As in `broadcast`.
            let _ = client.link.send(&message.encode());
        }
    }

    fn is_connected(&self, volume: &str) -> bool {
        self.clients.iter().any(|client| client.member.as_deref() == Some(volume))
    }

    /// Publishes the members in the status.
    fn publish_members(&self) {
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
        // The caller may be gone.
        let _ = answer.send(result);
    }
}
