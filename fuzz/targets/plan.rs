//! Recovery plans: any TOML, records of a run of any bytes (promise 11), and runs whose store fails
//! and whose hosts refuse.
//!
//! - a plan is refused with its line, or printed from what was understood and read again as the
//!   same plan; a check of it finds or refuses each of its volumes, and steps are numbered in
//!   order;
//! - records are refused, or tell the same report each time, as JSON;
//! - a run that was cut off at any record is resumed to its end: what was recorded as done never
//!   runs again, and nothing begins before what it waits for.
//!
//! An input is one byte (what: 0 a plan, 1 records, 2 a run) and then text, texts each after its
//! length (two bytes), or bytes that say how the run goes.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use hrl::journal::{Body, Mark, PointKind, Record, SegmentWriter};
use hrl::replica::At;
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::vault::{CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{Clock, Error, ErrorKind, ManualClock, PointId, Result, Sequence, Timestamp};
use hrl_fuzz::{Memory, log_params};
use hrl_plan::{
    Action, Boot, Commit, Member, OnFailure, Plan, PlanAt, PlanHost, Program, RunMode, RunOptions,
    RunOutcome, StartRequest, Started, StepKind, StepOutcome, Task, approve, report, resume, run,
    runs,
};
use libfuzzer_sys::fuzz_target;

const VOLUMES: [&str; 4] = ["v0", "v1", "v2", "v3"];
/// Runners until one continues without faults.
const TROUBLES_MAX: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => check_plan(rest),
        1 => check_records(rest),
        _ => check_run(rest),
    }
});

/// A vault with four volumes that share a group point.
static VAULT: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let store = Arc::new(Memory::default());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(1), 1));
    let vault = Vault::create(store.clone(), None, clock.clone()).expect("vault");
    for name in VOLUMES {
        let id = vault.create_volume(name, 64 << 10, 512, false).expect("volume").id;
        let mut params = log_params(64 << 10);
        params.volume = id;
        let mut writer = SegmentWriter::create(Vec::new(), params, None, &*clock).expect("create");
        let group = PointId([9; 16]);
        let mark = |point, kind, label: &str, group| {
            Body::Mark(Mark { point, kind, label: label.to_owned(), group })
        };
        let bodies = [
            mark(PointId([1; 16]), PointKind::Crash, "first", None),
            mark(PointId([2; 16]), PointKind::GroupCrash, "", Some(group)),
            mark(group, PointKind::GroupCrash, "4 shop", Some(group)),
            Body::Flush,
        ];
        for (number, body) in (1..).zip(bodies) {
            let (sequence, time) = (Sequence(number), Timestamp(number as i64 * 1_000_000_000));
            writer.append(&Record { sequence, time, body }).expect("append");
        }
        let (bytes, summary) = writer.close(None).expect("close");
        let object = format!("volumes/{name}/segments/0.hrl");
        store.add(object.clone(), &bytes);
        let source = SourceIdentity { id: [7; 16], host: "alpha".into(), since: Timestamp(3) };
        let mut catalog = vault.replica(name).expect("replica").into_catalog();
        let added = CatalogEdit::Segments(vec![SegmentEntry { object, summary }]);
        let edits = vec![CatalogEdit::Source(source.clone()), added];
        catalog.append(&source, edits).expect("append");
    }
    store.all()
});

fn open_vault() -> (Vault, Arc<Dying>) {
    let store = Arc::new(Dying::default());
    VAULT.iter().for_each(|(name, content)| store.inner.add(name.clone(), content));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(90_000_000_000), 3));
    (Vault::open(store.clone(), None, clock).expect("a vault"), store)
}

/// JSON, as it is printed again.
fn reprint(json: &str) -> Option<String> {
    serde_json::from_str(json).ok().map(|value: serde_json::Value| value.to_string())
}

// --- plans ---

fn check_plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let plan = match Plan::parse(text, "plan.toml") {
        Ok(plan) => plan,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.object().starts_with("plan.toml"), "{error}");
            return;
        }
    };
    let printed = print(&plan);
    let again =
        Plan::parse(&printed, "printed").unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert!(print(&again) == printed && same(&plan, &again), "{plan:?}\n{again:?}");

    for mode in [RunMode::Test, RunMode::Real] {
        let steps = plan.steps(mode);
        let mut done = BTreeSet::new();
        for (number, step) in (1..).zip(&steps) {
            assert_eq!(step.number, number);
            assert!(done.insert(&step.id), "{} is there twice", step.id);
            let is_last = |kind| matches!(kind, StepKind::Commit | StepKind::CleanUp);
            let needed = &plan.groups()[step.group].depends_on;
            let late = steps.iter().find(|other| {
                needed.contains(&other.group) && !is_last(other.kind) && other.number > number
            });
            assert!(is_last(step.kind) || late.is_none(), "{} is before {late:?}", step.id);
            assert!(reprint(&step.to_json()).is_some());
        }
    }
    let (vault, _) = open_vault();
    let check = plan.check(&vault).expect("the vault answers");
    assert_eq!(check.members.len() + check.problems.len(), plan.members().count());
    assert_eq!(reprint(&check.to_json()), Some(check.to_json()));
}

fn same(a: &Plan, b: &Plan) -> bool {
    a.name() == b.name()
        && a.groups() == b.groups()
        && a.commit() == b.commit()
        && (a.rpo_target(), a.rto_target()) == (b.rpo_target(), b.rto_target())
}

fn text(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c < ' ' || c == '\u{7f}' => format!("\\u{:04X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

fn time(time: Duration) -> String {
    format!("\"{}ms\"", time.as_millis())
}

fn program(program: &Program) -> String {
    let arguments: Vec<_> = program.arguments().iter().map(|argument| text(argument)).collect();
    format!("[{}]", arguments.join(", "))
}

fn state(state: &PlanAt) -> String {
    text(&match state {
        PlanAt::At(At::Sequence(sequence)) => sequence.to_string(),
        PlanAt::At(At::Point(point)) => point.to_string(),
        PlanAt::At(At::PointPrefix(digits)) => format!("point:{digits}"),
        PlanAt::At(At::Label(label)) => format!("label:{label}"),
        other => other.to_string(),
    })
}

/// Prints a plan with every value stated.
fn print(plan: &Plan) -> String {
    let mut out = format!("name = {}\n", text(plan.name()));
    let commit = if plan.commit() == Commit::Manual { "manual" } else { "automatic" };
    let _ = writeln!(out, "commit = \"{commit}\"");
    for (key, target) in [("rpo_target", plan.rpo_target()), ("rto_target", plan.rto_target())] {
        if let Some(target) = target {
            let _ = writeln!(out, "{key} = {}", time(target));
        }
    }
    for group in plan.groups() {
        let needed: Vec<_> =
            group.depends_on.iter().map(|at| text(&plan.groups()[*at].name)).collect();
        let (name, needed) = (text(&group.name), needed.join(", "));
        let _ = writeln!(out, "[[group]]\nname = {name}\ndepends_on = [{needed}]");
        group.members.iter().for_each(|member| print_member(&mut out, member));
        for (table, actions) in [("before", &group.before_actions), ("after", &group.after_actions)]
        {
            for action in actions {
                let _ = writeln!(out, "[[group.{table}]]");
                print_action(&mut out, action);
            }
        }
    }
    out
}

fn print_member(out: &mut String, member: &Member) {
    let _ = writeln!(out, "[[group.member]]\nvolume = {}", text(&member.volume));
    let _ = writeln!(out, "at = {}", state(&member.at));
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let optional = [
        ("disk", path(&member.disk)),
        ("state", path(&member.state)),
        ("nbd", member.nbd.clone()),
        ("test_nbd", member.test_nbd.clone()),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = {}", text(&value));
        }
    }
    let _ = writeln!(out, "limit = {}", time(member.limit));
    let _ = writeln!(out, "verify_limit = {}", time(member.verify_limit));
    print_on_failure(out, member.on_failure);
    if let Some(verify) = &member.verify {
        let _ = writeln!(out, "verify = {}", program(verify));
    }
    if let Some(Boot { command, ready, stop, limit }) = &member.boot {
        let mut parts = vec![format!("command = {}", program(command))];
        parts.push(format!("limit = {}", time(*limit)));
        parts.extend(ready.iter().map(|ready| format!("ready = {}", program(ready))));
        parts.extend(stop.iter().map(|stop| format!("stop = {}", program(stop))));
        let _ = writeln!(out, "boot = {{ {} }}", parts.join(", "));
    }
}

fn print_action(out: &mut String, action: &Action) {
    let _ = writeln!(out, "name = {}\nlimit = {}", text(&action.name), time(action.limit));
    let _ = match &action.task {
        Task::Command(command) => writeln!(out, "command = {}", program(command)),
        Task::Manual(what) => writeln!(out, "manual = {}", text(what)),
    };
    print_on_failure(out, action.on_failure);
    if let Some(only) = action.only {
        let _ = writeln!(out, "only = {}", text(only.name()));
    }
    if let Some(volume) = &action.volume {
        let _ = writeln!(out, "volume = {}", text(volume));
    }
    let variables = action.environment.iter();
    let variables: Vec<_> = variables.map(|(k, v)| format!("{k} = {}", text(v))).collect();
    let _ = writeln!(out, "env = {{ {} }}", variables.join(", "));
}

fn print_on_failure(out: &mut String, on_failure: OnFailure) {
    let _ = match on_failure {
        OnFailure::Stop => writeln!(out, "on_failure = \"stop\""),
        OnFailure::Continue => writeln!(out, "on_failure = \"continue\""),
        OnFailure::Retry { tries, pause } => {
            writeln!(out, "on_failure = \"retry\"\ntries = {tries}\npause = {}", time(pause))
        }
    };
}

// --- records ---

fn check_records(mut bytes: &[u8]) {
    let (vault, store) = open_vault();
    for number in 1.. {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { break };
        let (record, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        store.inner.add(format!("plans/r/{number:06}"), record);
        bytes = rest;
    }
    let told = report(&vault, "r");
    let _ = approve(&vault, "r", "1", true, "me", "");
    let Ok(told) = told else { return };
    assert_eq!(runs(&vault).expect("the vault answers"), ["r"]);
    let json = told.to_json();
    assert_eq!(reprint(&json).as_ref(), Some(&json), "a report is JSON");
    assert_eq!(report(&vault, "r").expect("told before").to_json(), json);
}

// --- runs ---

const PLAN: &str = r#"
name = "p"
at = "newest-group:shop"
[[group]]
name = "first"
[[group.member]]
volume = "v0"
[[group.member]]
volume = "v1"
[[group]]
name = "second"
[[group.member]]
volume = "v2"
at = "label:first"
[[group]]
name = "beside"
depends_on = []
[[group.member]]
volume = "v3"
at = "newest"
"#;

/// A store that dies under a runner.
#[derive(Default)]
struct Dying {
    inner: Memory,
    /// Records that are still written; negative: none, and nothing is answered.
    left: AtomicI64,
    /// Whether it has died, or can.
    is_mortal: std::sync::atomic::AtomicBool,
    /// The last record is written, but the runner gets no answer.
    loses_the_answer: std::sync::atomic::AtomicBool,
}

impl Dying {
    fn dead(&self, name: &str) -> Result<()> {
        if self.is_mortal.load(Ordering::SeqCst) && self.left.load(Ordering::SeqCst) < 0 {
            return Err(Error::new(ErrorKind::Unavailable, "ask", name));
        }
        Ok(())
    }

    /// Returns the numbers of the steps that were recorded as done.
    fn done(&self) -> BTreeSet<u32> {
        let all = self.inner.all();
        let records = all.iter().filter(|(name, _)| name.starts_with("plans/r/"));
        let texts = records.map(|(_, content)| String::from_utf8_lossy(content).into_owned());
        let field = |text: &str, name: &str| {
            let (_, after) = text.split_once(&format!("\"{name}\":"))?;
            Some(after.split([',', '}']).next()?.trim_matches('"').to_owned())
        };
        let ended = texts.filter(|text| text.starts_with("{\"kind\":\"end\""));
        let done = ended.filter(|text| field(text, "outcome").is_some_and(|o| o == "done"));
        done.filter_map(|text| field(&text, "step")?.parse().ok()).collect()
    }
}

impl Store for Dying {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.dead(name)?;
        let counts = self.is_mortal.load(Ordering::SeqCst) && name.starts_with("plans/");
        if counts && self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            if self.loses_the_answer.load(Ordering::SeqCst) {
                self.inner.put(name, content)?;
            }
            return Err(Error::new(ErrorKind::Unavailable, "put", name));
        }
        self.inner.put(name, content)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.dead(name)?;
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.dead(prefix)?;
        self.inner.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.dead(name)?;
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.dead(name)?;
        self.inner.delete(name)
    }
}

/// Does nothing, or refuses; detects calls that must not happen.
#[derive(Default)]
struct Host {
    /// A bit for each volume: refuse to start it, or to commit or clean it up.
    refuses: (u8, u8),
    /// Kinds and volumes that were recorded as done when the runner began.
    done: BTreeSet<(&'static str, String)>,
    up: Mutex<BTreeSet<String>>,
}

impl Host {
    fn asked(&self, what: &'static str, member: &Member, refuses: u8) -> Result<()> {
        let volume = &member.volume;
        assert!(!self.done.contains(&(what, volume.clone())), "{what} of {volume} runs again");
        let number = VOLUMES.iter().position(|known| known == volume).expect("one of the plan's");
        if refuses >> number & 1 == 1 {
            return Err(Error::new(ErrorKind::Io, "bring up", volume));
        }
        Ok(())
    }
}

impl PlanHost for Host {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started> {
        let mut up = self.up.lock().expect("no panic under it");
        let ready = up.contains("v0") && up.contains("v1");
        assert!(member.volume != "v2" || ready, "the second group is before the first");
        self.asked("start", member, self.refuses.0)?;
        up.insert(member.volume.clone());
        let uri = format!("nbd://{}/{}", member.volume, request.at_text());
        Ok(Started { uri, point: None, sequence: Sequence(2), point_time: Timestamp(2) })
    }

    fn commit(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        self.asked("commit", member, self.refuses.1)
    }

    fn clean_up(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        self.asked("clean-up", member, self.refuses.1)
    }
}

fn check_run(bytes: &[u8]) {
    let plan = Plan::parse(PLAN, "plan.toml").expect("a plan");
    let (vault, store) = open_vault();
    let config = bytes.first().copied().unwrap_or(0);
    let mode = if config & 1 == 0 { RunMode::Test } else { RunMode::Real };
    let options = RunOptions {
        run: Some("r".into()),
        mode,
        planned: config & 2 == 2,
        commit: config & 4 == 4,
        take_over: true,
        plan: Some(&plan),
        ..RunOptions::default()
    };
    let steps = plan.steps(mode);
    let mut up = BTreeSet::new();
    let troubles = bytes.get(1..).unwrap_or_default().chunks_exact(3).take(TROUBLES_MAX);
    let troubles: Vec<_> = troubles.map(|t| Some([t[0], t[1], t[2]])).chain([None]).collect();
    for trouble in troubles {
        let numbers = store.done();
        let done = steps.iter().filter(|step| numbers.contains(&step.number));
        let done = done.filter_map(|step| Some((step.kind.name(), step.volume.clone()?))).collect();
        let [puts, start, end] = trouble.unwrap_or_default();
        store.left.store(i64::from(puts % 32), Ordering::SeqCst);
        store.is_mortal.store(trouble.is_some() && puts < 128, Ordering::SeqCst);
        store.loses_the_answer.store(puts & 64 == 64, Ordering::SeqCst);
        let host = Host { refuses: (start & start >> 4, end & end >> 4), done, up: Mutex::new(up) };
        let is_begun = store.inner.all().contains_key("plans/r/000001");
        let told = if is_begun {
            resume(&vault, "r", &host, &options)
        } else {
            run(&plan, &vault, &host, &options)
        };
        up = host.up.into_inner().expect("no panic under it");
        store.is_mortal.store(false, Ordering::SeqCst);
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                // A record without an answer looks like another runner's.
                let known = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced);
                assert!(trouble.is_some() && known, "{error}");
                continue;
            }
        };
        let again = report(&vault, "r").expect("it was recorded");
        assert_eq!(again.to_json(), told.to_json(), "what is told is what was recorded");
        let failed = told.steps.iter().any(|step| step.outcome.is_failure());
        assert!(told.outcome != RunOutcome::Done || !failed, "a failure is told");
        if trouble.is_none() && mode == RunMode::Real {
            assert_eq!(told.outcome, RunOutcome::Done);
            let is_done = |step: &StepOutcome| *step == StepOutcome::Done;
            let starts = told.steps.iter().filter(|step| step.kind == StepKind::Start);
            assert!(starts.clone().count() == 4 && starts.clone().all(|s| is_done(&s.outcome)));
        }
    }
}
