//! What a recovery plan says. `parse` makes it from TOML and is the only way to one, so every value here was checked:
//! names are unique, dependencies have no cycle, counts are within the limits below.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hrl::replica::At;

/// Groups of a plan at most.
pub const GROUPS_MAX: usize = 64;
/// Volumes of a plan at most.
pub const MEMBERS_MAX: usize = 256;
/// Actions of a plan at most.
pub const ACTIONS_MAX: usize = 512;
/// Times that a step is tried at most.
pub const TRIES_MAX: u32 = 100;

/// A recovery plan, as [`Plan::parse`] read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) groups: Vec<Group>,
    pub(super) commit: Commit,
    pub(super) rpo_target: Option<Duration>,
    pub(super) rto_target: Option<Duration>,
}

impl Plan {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TOML that it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its groups, as the file lists them.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// When the failovers of a real run are committed.
    pub fn commit(&self) -> Commit {
        self.commit
    }

    /// What may be lost, by intent: reports say whether it was kept.
    pub fn rpo_target(&self) -> Option<Duration> {
        self.rpo_target
    }

    /// How long it may take, by intent: reports say whether it was kept.
    pub fn rto_target(&self) -> Option<Duration> {
        self.rto_target
    }

    /// Every volume, with the index of its group.
    pub fn members(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.groups
            .iter()
            .enumerate()
            .flat_map(|(at, group)| group.members.iter().map(move |m| (at, m)))
    }
}

/// Volumes that come up in parallel, once all groups of `depends_on` are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Indexes of the groups that have to be done before.
    pub depends_on: Vec<usize>,
    /// Actions before its volumes, one after the other.
    pub before_actions: Vec<Action>,
    /// Its volumes.
    pub members: Vec<Member>,
    /// Actions after its volumes, one after the other.
    pub after_actions: Vec<Action>,
}

/// A volume of a plan and how it comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the volume in the vault.
    pub volume: String,
    /// Which state it comes up at.
    pub at: PlanState,
    /// The disk that a failover fills. Default: up to the host.
    pub disk: Option<PathBuf>,
    /// Directory of the failover's state. A test uses `test-RUN` in it. Default: up to the host.
    pub state: Option<PathBuf>,
    /// Address at which it is served. Default: up to the host.
    pub nbd: Option<String>,
    /// Address at which it is served in a test, so that a test is never taken for the real thing. Default: up to the host.
    pub test_nbd: Option<String>,
    /// How long it may take until the volume is served. Default: 10 minutes.
    pub limit: Duration,
    /// What to do when it does not come up, boot or pass.
    pub on_failure: OnFailure,
    /// What uses the volume once it is served.
    pub boot: Option<Boot>,
    /// A check of it, which ends with 0 when it is good.
    pub verify: Option<Program>,
    /// How long the check may take. Default: 10 minutes.
    pub verify_limit: Duration,
}

/// A program that uses a volume, such as a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// It. Left running unless it ends by itself within `limit`.
    pub command: Program,
    /// Asked again and again until it ends with 0. Without it `command` is awaited and has to end with 0.
    pub ready: Option<Program>,
    /// Ends it when a test is cleaned up, before it is killed.
    pub stop: Option<Program>,
    /// How long it may take until it is ready. Default: 10 minutes.
    pub limit: Duration,
}

/// Which state a member comes up at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanState {
    /// The newest state at the time that it is started.
    Newest,
    /// The newest point whose checks were all good, else the newest one of the best kind that no check found bad.
    NewestGood,
    /// The newest cut, of the named consistency group or of any, that every member of the plan that asks for it has.
    NewestGroup(Option<String>),
    /// This state.
    At(At),
}

impl fmt::Display for PlanState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::NewestGood => f.write_str("newest-good"),
            Self::NewestGroup(None) => f.write_str("newest-group"),
            Self::NewestGroup(Some(group)) => write!(f, "newest-group:{group}"),
            Self::At(at) => write!(f, "{at}"),
        }
    }
}

/// A step that is not a volume's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Its name: unique among the actions before, or after, the volumes of its group.
    pub name: String,
    /// What it is.
    pub task: Task,
    /// How long it may take. Default: 10 minutes for a command, 24 hours for a person.
    pub limit: Duration,
    /// What to do when it fails.
    pub on_failure: OnFailure,
    /// In which runs it is done. Default: in all.
    pub only: Option<Only>,
    /// The volume that `HRL_VOLUME`, `HRL_URI` and `HRL_POINT` are about. Default: that of the group, where it has one.
    pub volume: Option<String>,
    /// More variables of its environment.
    pub environment: BTreeMap<String, String>,
}

/// What an action is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A program that has to end with 0.
    Command(Program),
    /// Something that a person does and approves, or rejects.
    Manual(String),
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(pub(super) Vec<String>);

impl Program {
    /// The program and its arguments, without a shell. `None` when there is no program.
    pub fn from_arguments(arguments: Vec<String>) -> Option<Self> {
        arguments.first().is_some_and(|program| !program.is_empty()).then_some(Self(arguments))
    }

    /// A command line for `/bin/sh`.
    pub fn shell(line: &str) -> Self {
        Self(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()])
    }

    /// The program and its arguments.
    pub fn arguments(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => f.write_str(line),
            arguments => f.write_str(&arguments.join(" ")),
        }
    }
}

/// What happens when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing new begins in the whole run; what is under way ends.
    Stop,
    /// The failure is reported and the run goes on.
    Continue,
    /// It is tried again, `tries` times in all, `pause` apart, and then as with `Stop`.
    Retry {
        /// Times in all.
        tries: u32,
        /// Time between two.
        pause: Duration,
    },
}

impl OnFailure {
    /// Times that a step is tried.
    pub(super) fn tries(self) -> u32 {
        if let Self::Retry { tries, .. } = self { tries } else { 1 }
    }

    pub(super) fn pause(self) -> Duration {
        if let Self::Retry { pause, .. } = self { pause } else { Duration::ZERO }
    }
}

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunMode {
    /// Isolated test failovers, which are cleaned up.
    Test,
    /// Failovers.
    Real,
}

impl RunMode {
    /// Stable lower-case name, that of `HRL_MODE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Real => "real",
        }
    }

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Test, Self::Real].into_iter().find(|mode| mode.name() == name)
    }
}

/// The runs in which an action is done.
pub type Only = RunMode;

/// When the failovers of a real run are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Later, by somebody: each volume's by its host, or all by resuming the run with [`RunOptions::commit`](super::RunOptions::commit).
    Manual,
    /// By the run, once everything else went well.
    Automatic,
}
