//! Recovery plans as values. Only `parse` makes them, so every value was checked: names are unique,
//! dependencies have no cycle, and counts are within the limits below.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hrl::replica::At;

/// Most groups of a plan.
pub const GROUPS_MAX: usize = 64;
/// Most volumes of a plan.
pub const MEMBERS_MAX: usize = 256;
/// Most actions of a plan.
pub const ACTIONS_MAX: usize = 512;
/// Most tries of a step.
pub const TRIES_MAX: u32 = 100;

/// A recovery plan, made by [`Plan::parse`].
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
    /// Returns the name of the plan.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the TOML of the plan.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the groups, in the order of the file.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns when the failovers of a real run are committed.
    pub fn commit(&self) -> Commit {
        self.commit
    }

    /// Returns how much may be lost by intention. Reports say whether a run met it.
    pub fn rpo_target(&self) -> Option<Duration> {
        self.rpo_target
    }

    /// Returns how long a run may take by intention. Reports say whether a run met it.
    pub fn rto_target(&self) -> Option<Duration> {
        self.rto_target
    }

    /// Returns every volume, with the index of its group.
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
    /// Name of the group.
    pub name: String,
    /// Indexes of the groups that must be done before.
    pub depends_on: Vec<usize>,
    /// Actions before the volumes, one after the other.
    pub before_actions: Vec<Action>,
    /// The volumes.
    pub members: Vec<Member>,
    /// Actions after the volumes, one after the other.
    pub after_actions: Vec<Action>,
}

/// A volume of a plan and how it comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the volume in the vault.
    pub volume: String,
    /// Recovery state to come up at.
    pub at: PlanAt,
    /// The disk that a failover fills. Default: up to the host.
    pub disk: Option<PathBuf>,
    /// State directory of the failover. A test uses `test-RUN` in it. Default: up to the host.
    pub state: Option<PathBuf>,
    /// Address at which the volume is served. Default: up to the host.
    pub nbd: Option<String>,
    /// Address at which a test serves the volume, so that it is never mistaken for the real one.
    /// Default: up to the host.
    pub test_nbd: Option<String>,
    /// How long it may take until the volume is served. Default: 10 minutes.
    pub limit: Duration,
    /// What to do if the volume fails to come up, boot or pass its check.
    pub on_failure: OnFailure,
    /// The program that uses the volume once it is served.
    pub boot: Option<Boot>,
    /// A check of the volume, which ends with 0 if it is good.
    pub verify: Option<Program>,
    /// How long the check may take. Default: 10 minutes.
    pub verify_limit: Duration,
}

/// A program that uses a volume, such as a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The program. Left running unless it ends by itself within `limit`.
    pub command: Program,
    /// Asked repeatedly until it ends with 0. Without it `command` itself must end with 0.
    pub ready: Option<Program>,
    /// Ends `command` when a test is cleaned up, before it is killed.
    pub stop: Option<Program>,
    /// How long it may take until the program is ready. Default: 10 minutes.
    pub limit: Duration,
}

/// The recovery state that a plan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanAt {
    /// The newest state when the member is started.
    Newest,
    /// The newest point whose checks were all good; without one, the newest of the best kind that
    /// no check found bad.
    NewestGood,
    /// The newest cut that every member asking for it has: of the named consistency group, or of
    /// any.
    NewestGroup(Option<String>),
    /// The given state.
    At(At),
}

impl fmt::Display for PlanAt {
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

/// A step that does not belong to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Name, unique among the actions before, or after, the volumes of its group.
    pub name: String,
    /// What to do.
    pub task: Task,
    /// How long it may take. Default: 10 minutes for a command, 24 hours for a person.
    pub limit: Duration,
    /// What to do if it fails.
    pub on_failure: OnFailure,
    /// The mode of the runs that do it. Default: all.
    pub only: Option<Only>,
    /// The volume of `HRL_VOLUME`, `HRL_URI` and `HRL_POINT`. Default: the group's volume, if it
    /// has only one.
    pub volume: Option<String>,
    /// Further environment variables.
    pub environment: BTreeMap<String, String>,
}

/// The kinds of actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A program that must end with 0.
    Command(Program),
    /// Work of a person, who then approves or rejects the step.
    Manual(String),
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(pub(super) Vec<String>);

impl Program {
    /// Makes a program that runs without a shell. `None` if `arguments` has no program.
    pub fn from_arguments(arguments: Vec<String>) -> Option<Self> {
        arguments.first().is_some_and(|program| !program.is_empty()).then_some(Self(arguments))
    }

    /// Makes a program from a command line for `/bin/sh`.
    pub fn shell(line: &str) -> Self {
        Self(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()])
    }

    /// Returns the program and its arguments.
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

/// What happens if a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The run begins nothing new and ends once everything under way has ended.
    Stop,
    /// The failure is reported and the run continues.
    Continue,
    /// The step is tried `tries` times in all, `pause` apart; then as `Stop`.
    Retry {
        /// Tries in all.
        tries: u32,
        /// Time between two tries.
        pause: Duration,
    },
}

impl OnFailure {
    /// Returns how often a step is tried.
    pub(super) fn tries(self) -> u32 {
        if let Self::Retry { tries, .. } = self { tries } else { 1 }
    }

    pub(super) fn pause(self) -> Duration {
        if let Self::Retry { pause, .. } = self { pause } else { Duration::ZERO }
    }
}

/// The kinds of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunMode {
    /// Isolated test failovers, which are cleaned up.
    Test,
    /// Failovers.
    Real,
}

impl RunMode {
    /// Returns the stable lower-case name, as in `HRL_MODE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Real => "real",
        }
    }

    /// Returns the mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Test, Self::Real].into_iter().find(|mode| mode.name() == name)
    }
}

/// The mode of the runs that do an action.
pub type Only = RunMode;

/// When the failovers of a real run are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Later: each volume's by its host, or all by resuming the run with
    /// [`RunOptions::commit`](super::RunOptions::commit).
    Manual,
    /// By the run, once everything else went well.
    Automatic,
}
