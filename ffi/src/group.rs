//! Consistency groups: coordinators, members, and the points that they make. Without the feature `tls` nothing can be started,
//! but points can be listed.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use engine::{GroupMark, GroupPoint};

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, In, Out, Text, versioned};
use crate::points::{HRL_ID_CHARS, HRL_LABEL_CHARS, HRL_NAME_CHARS, kind_code, visit};
use crate::protection::{CallbackQuiesce, hrl_protection, hrl_quiesce_callbacks};
use crate::vault::hrl_vault;

/// The place of a group point in one member.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_group_mark {
    /// Name of the volume.
    pub volume: [c_char; HRL_NAME_CHARS],
    /// Identity of the recovery point in it, in hexadecimal digits.
    pub point: [c_char; HRL_ID_CHARS],
    /// Its place in the write order of the volume.
    pub sequence: u64,
    /// When it was marked, by the clock of its machine, in nanoseconds since 1970 in UTC.
    pub time_ns: i64,
}

impl From<&GroupMark> for hrl_group_mark {
    fn from(mark: &GroupMark) -> Self {
        Self {
            volume: handle::fixed_text(&mark.volume),
            point: handle::fixed_text(&mark.point.to_string()),
            sequence: mark.sequence.0,
            time_ns: mark.time.0,
        }
    }
}

/// One cut across the volumes of a group.
#[repr(C)]
pub struct hrl_group_point {
    /// Identity, in hexadecimal digits: every member can be restored or viewed at it.
    pub id: [c_char; HRL_ID_CHARS],
    /// A `hrl_point_kind`.
    pub kind: u32,
    /// When the coordinator began it, in nanoseconds since 1970 in UTC.
    pub time_ns: i64,
    /// Name of the group.
    pub group: [c_char; HRL_NAME_CHARS],
    /// Text of who marked it.
    pub label: [c_char; HRL_LABEL_CHARS],
    /// Members that it was made of; all can be restored to this cut when `mark_count` is as many.
    pub members: u32,
    /// Where it is in each member.
    pub marks: *const hrl_group_mark,
    /// Number of `marks`.
    pub mark_count: usize,
    /// Longest hold of a member's writers, in microseconds; 0 for a point found in a vault.
    pub held_us: u64,
}

/// Is given one group point, which lives until it returns with its marks; returns false to stop.
pub type hrl_group_point_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, point: *const hrl_group_point) -> bool>;

/// Gives points to a callback until it has enough.
fn visit_points(
    points: &[GroupPoint],
    callback: hrl_group_point_fn,
    user: *mut c_void,
) -> engine::Result<()> {
    let marks: Vec<Vec<hrl_group_mark>> =
        points.iter().map(|point| point.marks.iter().map(Into::into).collect()).collect();
    let points = points.iter().zip(&marks).map(|(point, marks)| hrl_group_point {
        id: handle::fixed_text(&point.id.to_string()),
        kind: kind_code(point.kind),
        time_ns: point.time.0,
        group: handle::fixed_text(&point.group),
        label: handle::fixed_text(&point.label),
        members: u32::from(point.members),
        marks: marks.as_ptr(),
        mark_count: marks.len(),
        held_us: point.held.map_or(0, |held| u64::try_from(held.as_micros()).unwrap_or(u64::MAX)),
    });
    visit(points, callback, user)
}

/// Gives every group point of a vault that was committed, oldest first, each once, to `visit` on the calling thread.
/// Statuses: HRL_ERROR_WRONG_KEY, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_group_points(
    vault: Option<&hrl_vault>,
    visit: hrl_group_point_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| visit_points(&handle::given(vault, "vault")?.inner.group_points()?, visit, user))
}

/// How to run a coordinator. Fill it with zeroes, then set what is needed; everything is copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_group_options<'a> {
    /// `sizeof(hrl_group_options)`.
    pub struct_bytes: usize,
    /// Name of the group.
    pub name: Text<'a>,
    /// Directory in which it remembers its members; created when it is absent.
    pub state: Text<'a>,
    /// Directory with the certificates and enrolled clients, as `hrl enroll` makes it.
    pub pki: Text<'a>,
    /// "ADDRESS:PORT"; port 0 takes a free one. NULL: "0.0.0.0:20004".
    pub listen: Text<'a>,
    /// Writers are never held longer than this. 0: 300.
    pub budget_ms: u64,
    /// Crash-consistent points are made this often. 0: on demand only.
    pub interval_ms: u64,
    /// Application-consistent points are made this often. 0: on demand only.
    pub app_interval_ms: u64,
    /// Applications are quiesced within this. 0: 10,000.
    pub quiesce_limit_ms: u64,
}

versioned!(hrl_group_options<'_>);

/// The coordinator of a consistency group. All threads may use it at once.
pub struct hrl_group_coordinator {
    inner: session::Coordinator,
    address: CString,
}

/// Starts a coordinator. Free it with `hrl_group_coordinator_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT (options, certificates), HRL_ERROR_NOT_FOUND, HRL_ERROR_IO, HRL_ERROR_UNSUPPORTED in builds
/// without the feature `tls`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_start(
    options: In<'_, hrl_group_options<'_>>,
    out: Out<'_, *mut hrl_group_coordinator>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let options = options.read("options")?;
        let (inner, address) = session::start(options)?;
        out.give(hrl_group_coordinator { inner, address: handle::c_text(&address) })
    })
}

/// Where it listens, "ADDRESS:PORT"; lives as long as the coordinator. NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_address(
    coordinator: Option<&hrl_group_coordinator>,
) -> *const c_char {
    guard_value(std::ptr::null(), || coordinator.map_or(std::ptr::null(), |c| c.address.as_ptr()))
}

/// Makes a point of the group now, application-consistent with `app`, and gives it to `visit` on the calling thread. `label` may
/// be NULL.
/// Statuses: HRL_ERROR_UNAVAILABLE (the message says which member is in the way), HRL_ERROR_INVALID_INPUT (the label is too long).
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_point(
    coordinator: Option<&hrl_group_coordinator>,
    app: bool,
    label: Text<'_>,
    visit: hrl_group_point_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let coordinator = handle::given(coordinator, "coordinator")?;
        let label = label.optional("label")?.unwrap_or_default();
        visit_points(&[session::point(&coordinator.inner, app, label)?], visit, user)
    })
}

/// Takes a member out that is not coming back. HRL_ERROR_NOT_FOUND when it is none. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_remove(
    coordinator: Option<&hrl_group_coordinator>,
    volume: Text<'_>,
) -> hrl_status {
    guard(|| {
        let coordinator = handle::given(coordinator, "coordinator")?;
        session::remove(&coordinator.inner, volume.read("volume")?)
    })
}

/// Stops a coordinator and frees it; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_free(
    coordinator: Option<Box<hrl_group_coordinator>>,
) {
    guard_value((), || drop(coordinator));
}

/// A volume's membership in a group. All threads may use it at once.
pub struct hrl_group_member {
    inner: session::Member,
}

/// Makes a protected volume a member of `group`, at the first of `count` coordinators ("HOST" or "HOST:PORT", 20004 unless said
/// otherwise) that answers, with the certificate in the directory `identity`. Connects in the background. `application`, which
/// may be NULL, is quiesced for application-consistent points, on a thread of the library, with `user`. Free the member with
/// `hrl_group_member_free`, before the protection.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_NOT_FOUND (the identity), HRL_ERROR_UNSUPPORTED in builds without the feature `tls`.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_join_group(
    protection: Option<&hrl_protection>,
    group: Text<'_>,
    coordinators: *const Text<'_>,
    count: usize,
    identity: Text<'_>,
    application: In<'_, hrl_quiesce_callbacks<'_>>,
    user: *mut c_void,
    out: Out<'_, *mut hrl_group_member>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        // SAFETY: the caller promises that the array has the length beside it.
        let coordinators = unsafe { handle::array(coordinators, count, "coordinators")? }
            .iter()
            .map(|host| host.read("coordinators"))
            .collect::<engine::Result<Vec<_>>>()?;
        let application = application
            .optional()?
            .map(|callbacks| CallbackQuiesce::new(callbacks, user))
            .transpose()?;
        let (group, identity) = (group.read("group")?, identity.read("identity")?);
        let inner = session::join(protection, group, &coordinators, identity, application)?;
        out.give(hrl_group_member { inner })
    })
}

/// How a member is doing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_group_member_stats {
    /// A coordinator has it as a member now.
    pub connected: bool,
    /// Rounds that held its writers.
    pub rounds: u64,
    /// Group points that were committed.
    pub points: u64,
    /// Longest hold of its writers, in microseconds.
    pub held_max_us: u64,
}

/// How a member is doing. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_member_stats_get(
    member: Option<&hrl_group_member>,
    stats: Out<'_, hrl_group_member_stats>,
) -> hrl_status {
    guard(|| {
        let member = handle::given(member, "member")?;
        stats.put(session::stats(&member.inner), "stats")
    })
}

/// Waits until a coordinator has taken the member in. HRL_ERROR_UNAVAILABLE at the limit says what is in the way. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_member_wait_connected(
    member: Option<&hrl_group_member>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| {
        let member = handle::given(member, "member")?;
        session::wait_connected(&member.inner, Duration::from_millis(limit_ms))
    })
}

/// Leaves the group: its points are made without this volume. HRL_ERROR_UNAVAILABLE when no coordinator confirms it within the
/// limit; then the group still waits for the volume. The member is to be freed all the same. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_member_leave(
    member: Option<&hrl_group_member>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| {
        let member = handle::given(member, "member")?;
        session::leave(&member.inner, Duration::from_millis(limit_ms))
    })
}

/// Ends the connection and frees the member; NULL is fine. The volume stays a member of the group. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_member_free(member: Option<Box<hrl_group_member>>) {
    guard_value((), || drop(member));
}

#[cfg(feature = "tls")]
mod session {
    use std::sync::Arc;
    use std::time::Duration;

    use engine::{GroupPoint, Result};
    use hrl_group::{GroupCoordinator, GroupJoin, GroupMember, GroupOptions};

    use super::{hrl_group_member_stats, hrl_group_options};
    use crate::protection::{CallbackQuiesce, hrl_protection, with};

    pub(super) type Coordinator = GroupCoordinator;
    pub(super) type Member = GroupMember;

    pub(super) fn start(chosen: &hrl_group_options<'_>) -> Result<(Coordinator, String)> {
        let [name, state, pki] =
            [(chosen.name, "name"), (chosen.state, "state"), (chosen.pki, "pki")]
                .map(|(text, what)| text.read(what));
        let millis = Duration::from_millis;
        let mut options = GroupOptions::new(name?, state?, pki?)
            .interval(millis(chosen.interval_ms))
            .app_interval(millis(chosen.app_interval_ms));
        if let Some(listen) = chosen.listen.optional("listen")? {
            options = options.listen(listen);
        }
        if chosen.budget_ms != 0 {
            options = options.budget(millis(chosen.budget_ms));
        }
        if chosen.quiesce_limit_ms != 0 {
            options = options.quiesce_limit(millis(chosen.quiesce_limit_ms));
        }
        let coordinator = options.start()?;
        let address = coordinator.address().to_string();
        Ok((coordinator, address))
    }

    pub(super) fn point(coordinator: &Coordinator, app: bool, label: &str) -> Result<GroupPoint> {
        coordinator.point(app, label)
    }

    pub(super) fn remove(coordinator: &Coordinator, volume: &str) -> Result<()> {
        coordinator.remove(volume)
    }

    pub(super) fn join(
        protection: Option<&hrl_protection>,
        group: &str,
        coordinators: &[&str],
        identity: &str,
        application: Option<CallbackQuiesce>,
    ) -> Result<Member> {
        let mut join = GroupJoin::new(group, coordinators, identity);
        if let Some(application) = application {
            join = join.quiesce(Arc::new(application));
        }
        with(protection, |protection| join.join(protection))
    }

    pub(super) fn stats(member: &Member) -> hrl_group_member_stats {
        let stats = member.stats();
        hrl_group_member_stats {
            connected: stats.connected,
            rounds: stats.rounds,
            points: stats.points,
            held_max_us: u64::try_from(stats.held_max.as_micros()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn wait_connected(member: &Member, limit: Duration) -> Result<()> {
        member.wait_connected(limit)
    }

    pub(super) fn leave(member: &Member, limit: Duration) -> Result<()> {
        member.leave(limit)
    }
}

#[cfg(not(feature = "tls"))]
mod session {
    use std::time::Duration;

    use engine::{Error, ErrorKind, GroupPoint, Result};

    use super::{hrl_group_member_stats, hrl_group_options};
    use crate::protection::{CallbackQuiesce, hrl_protection};

    /// Nothing can be started, so there is none.
    pub(super) enum Coordinator {}
    pub(super) enum Member {}

    pub(super) fn start(chosen: &hrl_group_options<'_>) -> Result<(Coordinator, String)> {
        Err(unsupported(chosen.name.read("name")?))
    }

    pub(super) fn point(coordinator: &Coordinator, _: bool, _: &str) -> Result<GroupPoint> {
        match *coordinator {}
    }

    pub(super) fn remove(coordinator: &Coordinator, _: &str) -> Result<()> {
        match *coordinator {}
    }

    pub(super) fn join(
        _: Option<&hrl_protection>,
        group: &str,
        _: &[&str],
        _: &str,
        _: Option<CallbackQuiesce>,
    ) -> Result<Member> {
        Err(unsupported(group))
    }

    pub(super) fn stats(member: &Member) -> hrl_group_member_stats {
        match *member {}
    }

    pub(super) fn wait_connected(member: &Member, _: Duration) -> Result<()> {
        match *member {}
    }

    pub(super) fn leave(member: &Member, _: Duration) -> Result<()> {
        match *member {}
    }

    fn unsupported(group: &str) -> Error {
        Error::new(ErrorKind::Unsupported, "use group", group)
            .message("this build has no TLS (feature tls)")
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use std::ffi::CStr;
    use std::path::Path;
    use std::ptr::null_mut;

    use super::*;
    use crate::boundary::{HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE, HRL_OK};
    use crate::device::{hrl_device_free, hrl_device_open_file};
    use crate::protection::{
        hrl_protection_free, hrl_protection_open, hrl_protection_options_free,
        hrl_protection_options_new, hrl_protection_stop, hrl_protection_wait_ordered,
    };
    use crate::store::{hrl_store_free, hrl_store_open_directory};
    use crate::vault::{hrl_vault_create, hrl_vault_free};

    fn text(text: impl AsRef<str>) -> CString {
        handle::c_text(text.as_ref())
    }

    fn check(status: hrl_status) {
        assert!(status == HRL_OK, "status {status}");
    }

    /// Writes down what it is given as `ID GROUP LABEL MEMBERS VOLUME`.
    unsafe extern "C" fn note(user: *mut c_void, point: *const hrl_group_point) -> bool {
        // SAFETY: the test gives a String, and the library a point with its marks.
        let (notes, point, mark) =
            unsafe { (&mut *user.cast::<Vec<String>>(), &*point, &*(*point).marks) };
        let show = |text: *const c_char| {
            // SAFETY: fixed texts end with a zero.
            unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8").to_owned()
        };
        let texts =
            [&point.id[..], &point.group, &point.label, &mark.volume].map(|t| show(t.as_ptr()));
        notes.push(format!("{} {} of {}", texts.join(" "), point.mark_count, point.members));
        true
    }

    fn protect(directory: &Path, vault: Option<&hrl_vault>, volume: &str) -> *mut hrl_protection {
        let [disk, state] = ["disk", "state"]
            .map(|kind| text(directory.join(format!("{kind}-{volume}")).to_string_lossy()));
        let (mut device, mut options, mut protection) = (null_mut(), null_mut(), null_mut());
        // SAFETY: every pointer is what the header asks for.
        unsafe {
            check(hrl_device_open_file(
                Text::from_c(&disk),
                0,
                1 << 20,
                Out::from_mut(&mut device),
            ));
            let name = text(volume);
            check(hrl_protection_options_new(
                Text::from_c(&name),
                device.as_ref(),
                vault,
                Text::from_c(&state),
                Out::from_mut(&mut options),
            ));
            check(hrl_protection_open(options.as_ref(), Out::from_mut(&mut protection)));
            check(hrl_protection_wait_ordered(protection.as_ref(), 60_000));
            hrl_protection_options_free(Some(Box::from_raw(options)));
            hrl_device_free(Some(Box::from_raw(device)));
        }
        protection
    }

    #[test]
    fn a_group_by_the_c_api() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let directory = directory.path();
        let (pki, bundle) = (directory.join("pki"), directory.join("identity"));
        hrl_tls::create_authority(&pki, &["localhost".into()]).expect("authority");
        hrl_tls::enroll_client(&pki, "web", &["web".into()], &bundle).expect("enroll");
        let [pki, identity, vault_path, state] =
            [pki, bundle, directory.join("vault"), directory.join("group")]
                .map(|path| text(path.to_string_lossy()));
        let (group, listen) = (text("shop"), text("127.0.0.1:0"));
        let (mut store, mut vault, mut coordinator, mut member) =
            (null_mut(), null_mut(), null_mut(), null_mut());
        let options = hrl_group_options {
            struct_bytes: size_of::<hrl_group_options<'_>>(),
            name: Text::from_c(&group),
            state: Text::from_c(&state),
            pki: Text::from_c(&pki),
            listen: Text::from_c(&listen),
            budget_ms: 0,
            interval_ms: 0,
            app_interval_ms: 0,
            quiesce_limit_ms: 0,
        };
        let mut notes: Vec<String> = Vec::new();
        let user = (&raw mut notes).cast();
        // SAFETY: every pointer is what the header asks for.
        unsafe {
            check(hrl_store_open_directory(
                Text::from_c(&vault_path),
                true,
                Out::from_mut(&mut store),
            ));
            check(hrl_vault_create(store.as_ref(), None, Out::from_mut(&mut vault)));
            let protection = protect(directory, vault.as_ref(), "web");
            check(hrl_group_coordinator_start(
                In::from_ref(&options),
                Out::from_mut(&mut coordinator),
            ));
            let address = CStr::from_ptr(hrl_group_coordinator_address(coordinator.as_ref()));
            let port = address.to_str().expect("UTF-8").rsplit(':').next().expect("a port");
            let at = text(format!("localhost:{port}"));
            let hosts = [Text::from_c(&at)];
            check(hrl_protection_join_group(
                protection.as_ref(),
                Text::from_c(&group),
                hosts.as_ptr(),
                1,
                Text::from_c(&identity),
                In::none(),
                null_mut(),
                Out::from_mut(&mut member),
            ));
            check(hrl_group_member_wait_connected(member.as_ref(), 60_000));
            let label = text("nightly");
            let made = hrl_group_coordinator_point(
                coordinator.as_ref(),
                false,
                Text::from_c(&label),
                Some(note),
                user,
            );
            check(made);
            let mut stats = std::mem::zeroed();
            check(hrl_group_member_stats_get(member.as_ref(), Out::from_mut(&mut stats)));
            assert!(stats.connected && stats.rounds == 1);
            check(hrl_group_member_leave(member.as_ref(), 60_000));
            hrl_group_member_free(Some(Box::from_raw(member)));
            let gone = text("web");
            let status = hrl_group_coordinator_remove(coordinator.as_ref(), Text::from_c(&gone));
            assert_eq!(status, HRL_ERROR_NOT_FOUND);
            let status = hrl_group_coordinator_point(
                coordinator.as_ref(),
                false,
                Text::none(),
                Some(note),
                user,
            );
            assert_eq!(status, HRL_ERROR_UNAVAILABLE, "nobody is left");
            check(hrl_protection_stop(protection.as_ref(), 60_000));
            hrl_protection_free(Some(Box::from_raw(protection)));
            check(hrl_vault_group_points(vault.as_ref(), Some(note), user));
            hrl_group_coordinator_free(Some(Box::from_raw(coordinator)));
            hrl_vault_free(Some(Box::from_raw(vault)));
            hrl_store_free(Some(Box::from_raw(store)));
        }
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[0], notes[1], "made and found again");
        assert!(notes[0].ends_with(" shop nightly web 1 of 1"), "{notes:?}");
    }
}
