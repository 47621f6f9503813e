//! Recovery plans: parsed, checked, run through the embedder's callbacks, approved, reported as
//! JSON.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use ::hrl_plan::{
    self as plan, Member, Plan, PlanHost, RunMode, RunOptions, RunReport, StartRequest, Started,
    StepReport, StopFlag,
};
use engine::{Error, ErrorKind, PointId, Result, Sequence, Timestamp};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::callbacks::{User, needed, outcome};
use crate::handle::{self, In, Out, Text, versioned};
use crate::points::HRL_ID_CHARS;
use crate::vault::hrl_vault;

/// Room for the address of a served volume.
pub const HRL_URI_CHARS: usize = 1024;

/// A recovery plan. All threads may use it at once.
pub struct hrl_plan {
    inner: Plan,
}

/// Asks the step under way to end; see `hrl_plan_stop_is_set`.
pub struct hrl_plan_stop {
    inner: StopFlag,
}

/// Kind of a run.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_plan_mode {
    /// Isolated test failovers, which are cleaned up.
    HRL_PLAN_TEST = 0,
    /// Failovers.
    HRL_PLAN_REAL = 1,
}

/// Request to the host of a plan. Lives until the callback returns.
#[repr(C)]
pub struct hrl_plan_request {
    /// `sizeof(hrl_plan_request)` of the library.
    pub struct_bytes: usize,
    /// Identity of the run.
    pub run: *const c_char,
    /// A `hrl_plan_mode`.
    pub mode: u32,
    /// Whether the source is still there. Then its last bytes come first.
    pub planned: bool,
    /// Name of the volume in the vault.
    pub volume: *const c_char,
    /// Recovery state to come up at, as `hrl_replica_view` takes it.
    pub at: *const c_char,
    /// Disk that a failover fills; NULL if the plan has none.
    pub disk: *const c_char,
    /// State directory of the failover, in a test one of the run's; NULL if the plan has none.
    pub state: *const c_char,
    /// Address at which to serve in this mode; NULL if the plan has none.
    pub nbd: *const c_char,
    /// Limit in milliseconds, which the host keeps.
    pub limit_ms: u64,
    /// Flag to look at now and then with `hrl_plan_stop_is_set`.
    pub stop: *const hrl_plan_stop,
}

/// A volume that is up. All zeroes but `struct_bytes` before the callback fills it.
#[repr(C)]
pub struct hrl_plan_started {
    /// `sizeof(hrl_plan_started)` of the library, which the callback leaves as it is.
    pub struct_bytes: usize,
    /// Address at which it is served: `HRL_URI` of commands.
    pub uri: [c_char; HRL_URI_CHARS],
    /// Recovery point that it came up at, in hexadecimal digits; empty if the state is at no point.
    pub point: [c_char; HRL_ID_CHARS],
    /// Sequence of that state.
    pub sequence: u64,
    /// Time of that state, in nanoseconds since 1970 in UTC.
    pub time_ns: i64,
}

/// Brings the volumes of plans up. The functions return 0 or an errno and must not unwind. They are
/// called from any thread, for different volumes at once.
/// Each may come again for the same run and volume, if the runner was killed before it recorded the
/// answer. Then `start` finds the volume up and starts nothing twice. The others succeed if their
/// work is done.
#[repr(C)]
pub struct hrl_plan_callbacks {
    /// `sizeof(hrl_plan_callbacks)`, so that later versions can add to it.
    pub struct_bytes: usize,
    /// Brings a volume up; returns once it is served.
    pub start: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            request: *const hrl_plan_request,
            started: *mut hrl_plan_started,
        ) -> i32,
    >,
    /// Commits the failover of a volume, of a real run only.
    pub commit:
        Option<unsafe extern "C" fn(user: *mut c_void, request: *const hrl_plan_request) -> i32>,
    /// Takes a test failover down, even if its start failed.
    pub clean_up:
        Option<unsafe extern "C" fn(user: *mut c_void, request: *const hrl_plan_request) -> i32>,
    /// Asked every `poll_ms`: true stops the run, which can be resumed. NULL: never.
    pub stopped: Option<unsafe extern "C" fn(user: *mut c_void) -> bool>,
    /// Receives a run and a step, as JSON, when the step begins and when it has ended. NULL: steps
    /// are not reported.
    pub on_step:
        Option<unsafe extern "C" fn(user: *mut c_void, run: *const c_char, step: *const c_char)>,
}

versioned!(hrl_plan_callbacks);

/// Options of a run. Fill it with zeroes, then set the fields that you need; everything is copied.
#[repr(C)]
pub struct hrl_plan_options<'a> {
    /// `sizeof(hrl_plan_options)`.
    pub struct_bytes: usize,
    /// Identity of a new run; NULL: plan, time and a random number.
    pub run: Text<'a>,
    /// A `hrl_plan_mode`.
    pub mode: u32,
    /// Whether the source is still there, so that nothing is lost.
    pub planned: bool,
    /// Commit a real run at its end, even if the plan does not. On resuming, commit a run that
    /// waits for it.
    pub commit: bool,
    /// Take a run over although its runner seems to live.
    pub take_over: bool,
    /// Time at which the source failed, in nanoseconds since 1970 in UTC. 0: when the run begins.
    pub failed_at_ns: i64,
    /// Interval for approvals, the stop and other runners. 0: 1,000.
    pub poll_ms: u64,
    /// On resuming: the plan of the run, or NULL. The records must name the same plan, `mode` and
    /// `planned`. Needed in a vault without a key, where anybody who writes to the vault can write
    /// records.
    pub plan: Option<&'a hrl_plan>,
}

versioned!(hrl_plan_options<'_>);

/// Receives a text, which lives until it returns.
pub type hrl_text_fn = Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char)>;

/// Reads a plan, which is TOML. Errors call it `name`. Free it with `hrl_plan_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT. The message has the key, its line, what was expected and what
/// was found. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_parse(
    text: Text<'_>,
    name: Text<'_>,
    out: Out<'_, *mut hrl_plan>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let inner = Plan::parse(text.read("text")?, name.read("name")?)?;
        out.give(hrl_plan { inner })
    })
}

/// Frees the plan; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_free(plan: Option<Box<hrl_plan>>) {
    guard_value((), || drop(plan));
}

/// Finds the state that each volume would come up at, and its loss. Passes it as JSON to
/// `receive`, with the problems that would keep the plan from running.
/// Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_check(
    plan: Option<&hrl_plan>,
    vault: Option<&hrl_vault>,
    receive: hrl_text_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let (plan, vault) = (handle::given(plan, "plan")?, handle::given(vault, "vault")?);
        let receive = needed(receive, "receive")?;
        say(receive, user, &plan.inner.check(&vault.inner)?.to_json());
        Ok(())
    })
}

/// Runs a plan to its end and passes its report, as JSON, to `receive`. A failed step is no error,
/// but the `outcome` of the report. `options` may be NULL: a test.
/// Statuses: those that keep the plan from running, before anything is done.
/// HRL_ERROR_ALREADY_EXISTS if there is a run of this identity. HRL_ERROR_FENCED if another runner
/// took it. Those of the store, after which it can be resumed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_run(
    plan: Option<&hrl_plan>,
    vault: Option<&hrl_vault>,
    callbacks: In<'_, hrl_plan_callbacks>,
    options: In<'_, hrl_plan_options<'_>>,
    receive: hrl_text_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let (plan, vault) = (handle::given(plan, "plan")?, handle::given(vault, "vault")?);
        with_host(callbacks, options, receive, user, |host, options| {
            plan::run(&plan.inner, &vault.inner, host, options)
        })
    })
}

/// Goes on with an interrupted run and passes its report to `receive`. If the run is over, only the
/// report. Options of a new run are ignored, unless `options.plan` is given.
/// Statuses: HRL_ERROR_NOT_FOUND. HRL_ERROR_FENCED if its runner lives on this machine or another
/// one takes it. HRL_ERROR_DENIED if the vault has no key and `options.plan` is NULL.
/// HRL_ERROR_INVALID_INPUT if the records name another plan or kind of run. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_resume(
    vault: Option<&hrl_vault>,
    run: Text<'_>,
    callbacks: In<'_, hrl_plan_callbacks>,
    options: In<'_, hrl_plan_options<'_>>,
    receive: hrl_text_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let (vault, run) = (handle::given(vault, "vault")?, run.read("run")?);
        with_host(callbacks, options, receive, user, |host, options| {
            plan::resume(&vault.inner, run, host, options)
        })
    })
}

/// Approves a manual step that waits, or rejects it. `note` may be NULL.
/// Statuses: HRL_ERROR_NOT_FOUND (the message lists the steps that wait), HRL_ERROR_ALREADY_EXISTS
/// (it was decided before). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_approve(
    vault: Option<&hrl_vault>,
    run: Text<'_>,
    step: Text<'_>,
    approved: bool,
    by: Text<'_>,
    note: Text<'_>,
) -> hrl_status {
    guard(|| {
        let vault = handle::given(vault, "vault")?;
        let (run, step) = (run.read("run")?, step.read("step")?);
        let by = by.read("by")?;
        let note = note.optional("note")?.unwrap_or_default();
        plan::approve(&vault.inner, run, step, approved, by, note).map(drop)
    })
}

/// Passes the report of a run, as JSON, to `receive`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_report(
    vault: Option<&hrl_vault>,
    run: Text<'_>,
    receive: hrl_text_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let (vault, run) = (handle::given(vault, "vault")?, run.read("run")?);
        let receive = needed(receive, "receive")?;
        say(receive, user, &plan::report(&vault.inner, run)?.to_json());
        Ok(())
    })
}

/// Returns whether the step under way has to end; false for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_plan_stop_is_set(stop: Option<&hrl_plan_stop>) -> bool {
    guard_value(false, || stop.is_some_and(|stop| stop.inner.is_set()))
}

type Receiver = unsafe extern "C" fn(*mut c_void, *const c_char);
type Asked = unsafe extern "C" fn(*mut c_void, *const hrl_plan_request) -> i32;

fn say(receive: Receiver, user: *mut c_void, text: &str) {
    let text = handle::c_text(text);
    // SAFETY: a function of this type, called as the header says; the text outlives the call.
    unsafe { receive(user, text.as_ptr()) }
}

fn with_host(
    callbacks: In<'_, hrl_plan_callbacks>,
    options: In<'_, hrl_plan_options<'_>>,
    receive: hrl_text_fn,
    user: *mut c_void,
    work: impl FnOnce(&dyn PlanHost, &RunOptions<'_>) -> Result<RunReport>,
) -> Result<()> {
    let callbacks = callbacks.read("callbacks")?;
    let receive = needed(receive, "receive")?;
    let callback_user = User(user);
    let host = CallbackHost {
        start: needed(callbacks.start, "callbacks.start")?,
        commit: needed(callbacks.commit, "callbacks.commit")?,
        clean_up: needed(callbacks.clean_up, "callbacks.clean_up")?,
        user: callback_user,
    };
    let (stopped, callback) = (callbacks.stopped, callbacks.on_step);
    let stop = move || match stopped {
        // SAFETY: a function of this type, called as the header says.
        Some(stopped) => unsafe { stopped(callback_user.pointer()) },
        None => false,
    };
    let on_step = move |run: &str, step: &StepReport| {
        if let Some(call) = callback {
            let (run, step) = (handle::c_text(run), handle::c_text(&step.to_json()));
            // SAFETY: a function of this type, called as the header says; the texts outlive the
            // call.
            unsafe { call(callback_user.pointer(), run.as_ptr(), step.as_ptr()) }
        }
    };
    let mut chosen = match options.optional()? {
        Some(options) => options_from(options)?,
        None => RunOptions::default(),
    };
    chosen.stopped = &stop;
    chosen.on_step = &on_step;
    say(receive, user, &work(&host, &chosen)?.to_json());
    Ok(())
}

fn options_from<'a>(options: &hrl_plan_options<'a>) -> Result<RunOptions<'a>> {
    let mode = match options.mode {
        mode if mode == hrl_plan_mode::HRL_PLAN_TEST as u32 => RunMode::Test,
        mode if mode == hrl_plan_mode::HRL_PLAN_REAL as u32 => RunMode::Real,
        other => {
            return Err(bad_argument("options.mode").expected("a hrl_plan_mode").found(other));
        }
    };
    let poll_ms = if options.poll_ms == 0 { 1_000 } else { options.poll_ms };
    Ok(RunOptions {
        run: options.run.optional("options.run")?.map(str::to_owned),
        mode,
        planned: options.planned,
        failed_at: (options.failed_at_ns != 0).then_some(Timestamp(options.failed_at_ns)),
        commit: options.commit,
        take_over: options.take_over,
        poll: Duration::from_millis(poll_ms),
        plan: options.plan.map(|plan| &plan.inner),
        ..RunOptions::default()
    })
}

struct CallbackHost {
    start: unsafe extern "C" fn(*mut c_void, *const hrl_plan_request, *mut hrl_plan_started) -> i32,
    commit: Asked,
    clean_up: Asked,
    user: User,
}

impl CallbackHost {
    /// Calls back with the request as C sees it.
    fn ask(
        member: &Member,
        request: &StartRequest<'_>,
        call: impl FnOnce(*const hrl_plan_request) -> i32,
    ) -> i32 {
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_ref().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok())
        };
        let (run, volume) = (handle::c_text(request.run), handle::c_text(&member.volume));
        let at = handle::c_text(&request.at_text());
        let (disk, state) = (path(&member.disk), path(&request.state));
        let nbd = request.nbd.map(handle::c_text);
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        let stop = hrl_plan_stop { inner: request.stop.clone() };
        let asked = hrl_plan_request {
            struct_bytes: size_of::<hrl_plan_request>(),
            run: run.as_ptr(),
            mode: match request.mode {
                RunMode::Test => hrl_plan_mode::HRL_PLAN_TEST as u32,
                RunMode::Real => hrl_plan_mode::HRL_PLAN_REAL as u32,
            },
            planned: request.planned,
            volume: volume.as_ptr(),
            at: at.as_ptr(),
            disk: pointer(&disk),
            state: pointer(&state),
            nbd: pointer(&nbd),
            limit_ms: u64::try_from(request.limit.as_millis()).unwrap_or(u64::MAX),
            stop: &raw const stop,
        };
        call(&raw const asked)
    }
}

impl PlanHost for CallbackHost {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started> {
        let mut started = hrl_plan_started {
            struct_bytes: size_of::<hrl_plan_started>(),
            uri: [0; HRL_URI_CHARS],
            point: [0; HRL_ID_CHARS],
            sequence: 0,
            time_ns: 0,
        };
        // SAFETY: a function of this type, called as the header says; both structures outlive the
        // call.
        let code = Self::ask(member, request, |request| unsafe {
            (self.start)(self.user.pointer(), request, &raw mut started)
        });
        outcome(code, "start", &member.volume)?;
        let wrong = |expected: &str| {
            Error::new(ErrorKind::InvalidInput, "start", &member.volume).expected(expected)
        };
        let point =
            text_in(&started.point).ok_or_else(|| wrong("a point that ends with a zero"))?;
        let uri = text_in(&started.uri).ok_or_else(|| wrong("an address that ends with a zero"))?;
        Ok(Started {
            uri: uri.to_owned(),
            point: match point {
                "" => None,
                digits => {
                    let point = PointId::parse(digits);
                    Some(point.ok_or_else(|| wrong("32 hexadecimal digits").found(digits))?)
                }
            },
            sequence: Sequence(started.sequence),
            point_time: Timestamp(started.time_ns),
        })
    }

    fn commit(&self, member: &Member, request: &StartRequest<'_>) -> Result<()> {
        // SAFETY: a function of this type, called as the header says; the request outlives the
        // call.
        let code = Self::ask(member, request, |request| unsafe {
            (self.commit)(self.user.pointer(), request)
        });
        outcome(code, "commit", &member.volume)
    }

    fn clean_up(&self, member: &Member, request: &StartRequest<'_>) -> Result<()> {
        // SAFETY: a function of this type, called as the header says; the request outlives the
        // call.
        let code = Self::ask(member, request, |request| unsafe {
            (self.clean_up)(self.user.pointer(), request)
        });
        outcome(code, "clean up", &member.volume)
    }
}

/// Returns the text in an array that C filled; `None` if it has no end or is not UTF-8.
fn text_in(array: &[c_char]) -> Option<&str> {
    let bytes = array.iter().position(|c| *c == 0)?;
    // SAFETY: the array has a zero at `bytes`, and lives as long as the text.
    unsafe { CStr::from_ptr(array[..=bytes].as_ptr()) }.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::*;
    use crate::boundary::{
        HRL_ERROR_ALREADY_EXISTS, HRL_ERROR_DENIED, HRL_ERROR_INVALID_INPUT, HRL_ERROR_NOT_FOUND,
        HRL_OK, hrl_error_message,
    };
    use crate::device::{hrl_device_free, hrl_device_new_memory};
    use crate::protection::{
        hrl_protection_free, hrl_protection_open, hrl_protection_options_free,
        hrl_protection_options_new, hrl_protection_stop, hrl_protection_wait_ordered,
    };
    use crate::store::{hrl_store_free, hrl_store_open_directory};
    use crate::vault::{hrl_vault_create, hrl_vault_free};

    fn check(status: hrl_status) {
        assert!(status == HRL_OK, "status {status}");
    }

    fn shown(text: *const c_char) -> String {
        // SAFETY: texts of the library end with a zero.
        unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8").to_owned()
    }

    /// Keeps the texts that it receives.
    unsafe extern "C" fn receive(user: *mut c_void, text: *const c_char) {
        // SAFETY: the test gives its notes.
        unsafe { &*user.cast::<std::sync::Mutex<Vec<String>>>() }
            .lock()
            .expect("lock")
            .push(shown(text));
    }

    unsafe extern "C" fn start(
        user: *mut c_void,
        request: *const hrl_plan_request,
        started: *mut hrl_plan_started,
    ) -> i32 {
        // SAFETY: the library gives both structures.
        let (request, started) = unsafe { (&*request, &mut *started) };
        assert!(request.state.is_null() && request.nbd.is_null() && request.limit_ms == 600_000);
        // SAFETY: as the header asks.
        assert!(!unsafe { hrl_plan_stop_is_set(request.stop.as_ref()) });
        let line = format!("start {} at {}", shown(request.volume), shown(request.at));
        // SAFETY: as in `receive`.
        unsafe { receive(user, handle::c_text(&line).as_ptr()) };
        started.uri = handle::fixed_text("nbd://there");
        started.sequence = 7;
        0
    }

    unsafe extern "C" fn refuse(_: *mut c_void, _: *const hrl_plan_request) -> i32 {
        16
    }

    #[test]
    fn a_plan_by_the_c_api() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let text = |text: &str| handle::c_text(text);
        let [vault_path, state] =
            ["vault", "state"].map(|name| text(&directory.path().join(name).display().to_string()));
        let (mut store, mut vault, mut device) = (null_mut(), null_mut(), null_mut());
        let (mut options, mut protection, mut plan) = (null_mut(), null_mut(), null_mut());
        let (name, run) = (text("db"), text("one"));
        let toml =
            text("name = \"p\"\n[[group]]\nname = \"g\"\n[[group.member]]\nvolume = \"db\"\n");
        let notes = std::sync::Mutex::new(Vec::<String>::new());
        let user = (&raw const notes).cast_mut().cast();
        let callbacks = hrl_plan_callbacks {
            struct_bytes: size_of::<hrl_plan_callbacks>(),
            start: Some(start),
            commit: Some(refuse),
            clean_up: Some(refuse),
            stopped: None,
            on_step: None,
        };
        let chosen = hrl_plan_options {
            struct_bytes: size_of::<hrl_plan_options<'_>>(),
            run: Text::from_c(&run),
            mode: hrl_plan_mode::HRL_PLAN_TEST as u32,
            planned: false,
            commit: false,
            take_over: false,
            failed_at_ns: 0,
            poll_ms: 10,
            plan: None,
        };
        // SAFETY: every pointer is what the header asks for.
        unsafe {
            check(hrl_store_open_directory(
                Text::from_c(&vault_path),
                true,
                Out::from_mut(&mut store),
            ));
            check(hrl_vault_create(store.as_ref(), None, Out::from_mut(&mut vault)));
            check(hrl_device_new_memory(1 << 20, Out::from_mut(&mut device)));
            check(hrl_protection_options_new(
                Text::from_c(&name),
                device.as_ref(),
                vault.as_ref(),
                Text::from_c(&state),
                Out::from_mut(&mut options),
            ));
            check(hrl_protection_open(options.as_ref(), Out::from_mut(&mut protection)));
            check(hrl_protection_wait_ordered(protection.as_ref(), 60_000));
            check(hrl_protection_stop(protection.as_ref(), 60_000));
            hrl_protection_options_free(Some(Box::from_raw(options)));
            hrl_protection_free(Some(Box::from_raw(protection)));
            hrl_device_free(Some(Box::from_raw(device)));

            let bad = hrl_plan_parse(
                Text::from_c(&text("name = 7")),
                Text::from_c(&name),
                Out::from_mut(&mut plan),
            );
            assert_eq!(bad, HRL_ERROR_INVALID_INPUT);
            assert!(shown(hrl_error_message()).contains("line 1"));
            check(hrl_plan_parse(
                Text::from_c(&toml),
                Text::from_c(&name),
                Out::from_mut(&mut plan),
            ));
            check(hrl_plan_check(plan.as_ref(), vault.as_ref(), Some(receive), user));
            let (calls, wanted) = (|| In::from_ref(&callbacks), || In::from_ref(&chosen));
            check(hrl_plan_run(
                plan.as_ref(),
                vault.as_ref(),
                calls(),
                wanted(),
                Some(receive),
                user,
            ));
            check(hrl_plan_report(vault.as_ref(), Text::from_c(&run), Some(receive), user));
            let again =
                hrl_plan_run(plan.as_ref(), vault.as_ref(), calls(), wanted(), Some(receive), user);
            assert_eq!(again, HRL_ERROR_ALREADY_EXISTS);
            let resume = |chosen: &hrl_plan_options<'_>| {
                let run = Text::from_c(&run);
                let chosen = In::from_ref(chosen);
                hrl_plan_resume(vault.as_ref(), run, calls(), chosen, Some(receive), user)
            };
            assert_eq!(resume(&chosen), HRL_ERROR_DENIED, "nobody vouches for the plan");
            check(resume(&hrl_plan_options { plan: plan.as_ref(), ..chosen }));
            let step = text("g/before/1");
            let (run, by) = (Text::from_c(&run), Text::from_c(&name));
            let none =
                hrl_plan_approve(vault.as_ref(), run, Text::from_c(&step), true, by, Text::none());
            assert_eq!(none, HRL_ERROR_NOT_FOUND);
            hrl_plan_free(Some(Box::from_raw(plan)));
            hrl_vault_free(Some(Box::from_raw(vault)));
            hrl_store_free(Some(Box::from_raw(store)));
        }
        let notes = notes.into_inner().expect("notes");
        assert!(notes[0].contains("\"problems\":[]"), "{notes:?}");
        assert_eq!(notes[1], "start db at newest");
        assert!(notes[2].contains("\"uri\":\"nbd://there\""), "{notes:?}");
        assert!(notes[2].contains("\"outcome\":\"failed\"") && notes[2].contains("clean up db"));
        assert_eq!(notes[2], notes[3]);
    }
}
