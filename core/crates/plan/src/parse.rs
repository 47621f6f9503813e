//! Parses TOML to a [`Plan`]: every key is known, every value is checked, and so is the plan as a
//! whole.
//!
//! ```toml
//! name = "shop"
//! at = "newest-group:shop"        # what members take that say nothing
//! commit = "manual"               # or "automatic"
//! rpo_target = "15m"
//! rto_target = "1h"
//!
//! [[group]]
//! name = "database"
//! [[group.before]]
//! name = "fence"
//! command = ["fence-site", "old"]
//! limit = "60s"
//! on_failure = "retry"
//! tries = 5
//! only = "real"
//! [[group.member]]
//! volume = "db-root"
//! state = "/var/lib/hrl/failover/db"
//! disk = "/srv/db.img"
//! boot = { command = "start-vm db \"$HRL_URI\"", ready = "pg_isready -h db", limit = "5m" }
//!
//! [[group]]                       # after the group before it, unless `depends_on` says otherwise
//! name = "web"
//! depends_on = ["database"]
//! [[group.member]]
//! volume = "web-root"
//! state = "/var/lib/hrl/failover/web"
//! [[group.after]]
//! name = "dns"
//! manual = "Point www.example.net at the recovery site."
//! limit = "2h"
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::definition::{
    ACTIONS_MAX, Action, Boot, Commit, GROUPS_MAX, Group, MEMBERS_MAX, Member, OnFailure, Plan,
    PlanAt, Program, RunMode, TRIES_MAX, Task,
};
use super::fields::is_name;
use super::order::find_cycle;
use super::table::{Document, Table, Value};
use hrl::replica::At;
use hrl::{Error, ErrorKind, Result};

const STEP_LIMIT: Duration = Duration::from_secs(600);
const MANUAL_LIMIT: Duration = Duration::from_secs(86_400);
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// Longest name of a plan, group or action.
const NAME_BYTES_MAX: usize = 64;
const NAME: &str = "1 to 64 of A-Z a-z 0-9 . _ - that do not begin with a dot";
const STATE: &str =
    "newest, newest-good, newest-group, newest-group:NAME, a point, sequence, time or label";

impl Plan {
    /// Parses a plan. Errors call the text `name`, such as the path of its file.
    ///
    /// `InvalidInput` identifies the key, its line, what was expected and what was found. For
    /// circular dependencies it lists the groups.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let document = Document::new(name, text)?;
        let parsed = document.parse()?;
        let table = Table::root(&document, &parsed);
        let at = state_of(table.get("at"), &PlanAt::Newest)?;
        let plan = Self {
            name: name_of(&table.need("name", NAME)?)?,
            text: text.to_owned(),
            commit: one_of(
                table.get("commit"),
                &[("manual", Commit::Manual), ("automatic", Commit::Automatic)],
            )?
            .unwrap_or(Commit::Manual),
            rpo_target: table.get("rpo_target").map(|value| value.duration()).transpose()?,
            rto_target: table.get("rto_target").map(|value| value.duration()).transpose()?,
            groups: groups(&table, &at)?,
        };
        table.finish()?;
        plan.check_counts(name)?;
        Ok(plan)
    }

    fn check_counts(&self, name: &str) -> Result<()> {
        let actions = self.groups.iter().map(|g| g.before_actions.len() + g.after_actions.len());
        let counts = [
            ("groups", self.groups.len(), GROUPS_MAX),
            ("members", self.members().count(), MEMBERS_MAX),
            ("actions", actions.sum(), ACTIONS_MAX),
        ];
        let above = counts.into_iter().find(|(_, count, most)| count > most);
        above.map_or(Ok(()), |(what, count, most)| {
            Err(Error::new(ErrorKind::InvalidInput, "read plan", name)
                .expected(format_args!("at most {most} {what}"))
                .found(count))
        })
    }
}

/// Volumes, disks, state directories and addresses of the members so far; none may occur twice.
type Taken = [HashSet<String>; 5];

fn groups(table: &Table<'_, '_>, at: &PlanAt) -> Result<Vec<Group>> {
    let tables = table.tables("group")?;
    if tables.is_empty() {
        return Err(table.wrong("group").expected("one [[group]] or more").found("none"));
    }
    let mut names: Vec<String> = Vec::new();
    for group in &tables {
        let value = group.need("name", NAME)?;
        let name = name_of(&value)?;
        if names.contains(&name) {
            return Err(value.wrong("a name that no other group has"));
        }
        names.push(name);
    }
    let mut taken = Taken::default();
    let groups: Vec<_> = tables
        .iter()
        .enumerate()
        .map(|(index, table)| group(table, index, &names, at, &mut taken))
        .collect::<Result<_>>()?;
    if let Some(cycle) = find_cycle(&groups) {
        let path: Vec<_> = cycle.iter().map(|at| names[*at].as_str()).collect();
        return Err(tables[cycle[0]]
            .wrong("depends_on")
            .expected("groups that do not wait for each other")
            .found(format_args!("{} after {}", path.join(" after "), path[0])));
    }
    Ok(groups)
}

fn group(
    table: &Table<'_, '_>,
    index: usize,
    names: &[String],
    at: &PlanAt,
    taken: &mut Taken,
) -> Result<Group> {
    let depends_on = match table.get("depends_on") {
        Some(value) => {
            value.items()?.iter().map(|item| position(item, names)).collect::<Result<_>>()?
        }
        None => index.checked_sub(1).into_iter().collect(),
    };
    let at = state_of(table.get("at"), at)?;
    let members: Vec<_> = table
        .tables("member")?
        .iter()
        .map(|table| member(table, &at, taken))
        .collect::<Result<_>>()?;
    let names_of: Vec<_> = members.iter().map(|member| member.volume.clone()).collect();
    let group = Group {
        name: names[index].clone(),
        depends_on,
        before_actions: actions(&table.tables("before")?, &names_of)?,
        members,
        after_actions: actions(&table.tables("after")?, &names_of)?,
    };
    table.finish()?;
    Ok(group)
}

fn position(value: &Value<'_, '_>, names: &[String]) -> Result<usize> {
    let name = value.text()?;
    let found = names.iter().position(|known| known == name);
    found.ok_or_else(|| value.wrong(&format!("one of the groups [{}]", names.join(", "))))
}

fn member(table: &Table<'_, '_>, at: &PlanAt, taken: &mut Taken) -> Result<Member> {
    let volume = table.need("volume", "the name of a volume")?.text()?.to_owned();
    for (at, key) in ["volume", "disk", "state", "nbd", "test_nbd"].into_iter().enumerate() {
        if let Some(value) = table.get(key) {
            if !taken[at].insert(value.text()?.to_owned()) {
                return Err(value.wrong("what no other member of the plan has"));
            }
        }
    }
    let path = |key| Ok::<_, Error>(table.text(key)?.map(PathBuf::from));
    let verify = table.get("verify").map(|value| program(&value)).transpose()?;
    let member = Member {
        volume,
        at: state_of(table.get("at"), at)?,
        disk: path("disk")?,
        state: path("state")?,
        nbd: table.text("nbd")?.map(str::to_owned),
        test_nbd: table.text("test_nbd")?.map(str::to_owned),
        limit: table.duration("limit", STEP_LIMIT)?,
        on_failure: on_failure(table, true)?,
        boot: table.get("boot").map(|value| boot(&value.table()?)).transpose()?,
        verify,
        verify_limit: table.duration("verify_limit", STEP_LIMIT)?,
    };
    table.finish()?;
    Ok(member)
}

fn boot(table: &Table<'_, '_>) -> Result<Boot> {
    let optional = |key| table.get(key).map(|value| program(&value)).transpose();
    let boot = Boot {
        command: program(&table.need("command", "a command")?)?,
        ready: optional("ready")?,
        stop: optional("stop")?,
        limit: table.duration("limit", STEP_LIMIT)?,
    };
    table.finish()?;
    Ok(boot)
}

fn actions(tables: &[Table<'_, '_>], members: &[String]) -> Result<Vec<Action>> {
    let mut names = HashSet::new();
    let mut found = Vec::new();
    for (at, table) in tables.iter().enumerate() {
        let value = table.get("name");
        let name = value.as_ref().map_or(Ok((at + 1).to_string()), name_of)?;
        if !names.insert(name.clone()) {
            let error = value.map_or_else(|| table.wrong("name"), |value| value.error());
            return Err(error.expected("a name that no other action here has").found(name));
        }
        found.push(action(table, name, members)?);
        table.finish()?;
    }
    Ok(found)
}

fn action(table: &Table<'_, '_>, name: String, members: &[String]) -> Result<Action> {
    let task = match (table.get("command"), table.get("manual")) {
        (Some(command), None) => Task::Command(program(&command)?),
        (None, Some(text)) => Task::Manual(text.text()?.to_owned()),
        (found, _) => {
            let found = if found.is_some() { "both" } else { "neither" };
            return Err(table.wrong("command").expected("either command or manual").found(found));
        }
    };
    let is_command = matches!(task, Task::Command(_));
    let mut environment = BTreeMap::new();
    if let Some(value) = table.get("env") {
        for (key, value) in value.table()?.all() {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if key.is_empty() || !key.bytes().all(good) || key.starts_with("HRL_") {
                let error = value.error();
                return Err(error.expected("names of A-Z a-z 0-9 _ that do not begin with HRL_"));
            }
            environment.insert(key.to_owned(), value.text()?.to_owned());
        }
    }
    let limit = if is_command { STEP_LIMIT } else { MANUAL_LIMIT };
    Ok(Action {
        name,
        limit: table.duration("limit", limit)?,
        on_failure: on_failure(table, is_command)?,
        only: one_of(table.get("only"), &[("test", RunMode::Test), ("real", RunMode::Real)])?,
        volume: match table.get("volume") {
            Some(value) if !members.iter().any(|name| value.text().is_ok_and(|v| v == name)) => {
                return Err(
                    value.wrong(&format!("a volume of the group, one of [{}]", members.join(", ")))
                );
            }
            Some(value) => Some(value.text()?.to_owned()),
            None => {
                if let [only] = members {
                    Some(only.clone())
                } else {
                    None
                }
            }
        },
        environment,
        task,
    })
}

fn on_failure(table: &Table<'_, '_>, can_retry: bool) -> Result<OnFailure> {
    let choice = table.get("on_failure");
    let (tries, pause) = (table.get("tries"), table.get("pause"));
    let chosen = choice.as_ref().map(Value::text).transpose()?;
    let found = match chosen {
        None | Some("stop") => OnFailure::Stop,
        Some("continue") => OnFailure::Continue,
        Some("retry") if can_retry => OnFailure::Retry {
            tries: tries.as_ref().map_or(Ok(TRIES), |value| value.number(1..=TRIES_MAX))?,
            pause: pause.as_ref().map_or(Ok(PAUSE), Value::duration)?,
        },
        Some(_) => {
            let choices = if can_retry { "stop, continue or retry" } else { "stop or continue" };
            return choice.map_or(Ok(OnFailure::Stop), |value| Err(value.wrong(choices)));
        }
    };
    match tries.or(pause) {
        Some(value) if !matches!(found, OnFailure::Retry { .. }) => {
            Err(value.error().expected("on_failure = \"retry\" beside it"))
        }
        _ => Ok(found),
    }
}

fn program(value: &Value<'_, '_>) -> Result<Program> {
    let expected = "a command line for the shell, or an array of program and arguments";
    if value.is_text() {
        let line = value.text()?;
        if line.trim().is_empty() {
            return Err(value.wrong(expected));
        }
        return Ok(Program::shell(line));
    }
    let arguments = value.items().map_err(|_| value.wrong(expected))?;
    let arguments: Vec<_> =
        arguments.iter().map(|item| item.text().map(str::to_owned)).collect::<Result<_>>()?;
    Program::from_arguments(arguments).ok_or_else(|| value.wrong(expected))
}

fn state_of(value: Option<Value<'_, '_>>, otherwise: &PlanAt) -> Result<PlanAt> {
    let Some(value) = value else { return Ok(otherwise.clone()) };
    let text = value.text()?;
    Ok(match text {
        "newest" => PlanAt::Newest,
        "newest-good" => PlanAt::NewestGood,
        "newest-group" => PlanAt::NewestGroup(None),
        _ => match text.strip_prefix("newest-group:") {
            Some("") => return Err(value.wrong(STATE)),
            Some(group) => PlanAt::NewestGroup(Some(group.to_owned())),
            None => PlanAt::At(At::parse(text).map_err(|_| value.wrong(STATE))?),
        },
    })
}

fn name_of(value: &Value<'_, '_>) -> Result<String> {
    let name = value.text()?;
    if is_name(name, NAME_BYTES_MAX) { Ok(name.to_owned()) } else { Err(value.wrong(NAME)) }
}

fn one_of<T: Copy>(value: Option<Value<'_, '_>>, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    let text = value.text()?;
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
    found.map(Some).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        value.wrong(&names.join(" or "))
    })
}
