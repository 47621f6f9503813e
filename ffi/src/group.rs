//! Consistency groups: coordinators, members, and the points that they make. Without the feature
//! `tls` nothing can be started, but points can be listed.

use std::ffi::{CString, c_char, c_void};
use std::time::Duration;

use engine::{GroupMark, GroupPoint};

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, In, Out, Room, Text, versioned};
use crate::points::{HRL_ID_CHARS, HRL_LABEL_CHARS, HRL_NAME_CHARS, visit};
use crate::protection::{CallbackQuiesce, hrl_protection, hrl_quiesce_callbacks};
use crate::replica::{hrl_finding_fn, pass_to};
use crate::report::{micros, report};
use crate::vault::hrl_vault;

report! {
    /// The place of a group point in one member.
    pub struct hrl_group_mark from mark: GroupMark {
        /// Name of the volume.
        volume: [c_char; HRL_NAME_CHARS],
        /// Identity of the recovery point in it, in hexadecimal digits.
        point: [c_char; HRL_ID_CHARS],
        /// Its place in the write order of the volume.
        sequence: u64,
        /// Time of the mark by the clock of its machine, in nanoseconds since 1970 in UTC.
        time_ns: i64 = mark.time,
    }
}

report! {
    /// One cut across the volumes of a group.
    pub struct hrl_group_point from (point, marks): (&GroupPoint, &[hrl_group_mark]) {
        /// Identity, in hexadecimal digits. Every member can be restored or viewed at it.
        id: [c_char; HRL_ID_CHARS] = point.id,
        /// A `hrl_point_kind`.
        kind: u32 = point.kind,
        /// Time at which the coordinator began it, in nanoseconds since 1970 in UTC.
        time_ns: i64 = point.time,
        /// Name of the group.
        group: [c_char; HRL_NAME_CHARS] = point.group,
        /// Label that it was marked with.
        label: [c_char; HRL_LABEL_CHARS] = point.label,
        /// Members that it was made of. All can be restored to this cut if `mark_count` is as many.
        members: u32 = u32::from(point.members),
        /// First mark. Marks may be longer than `sizeof(hrl_group_mark)`: use
        /// `hrl_group_point_mark`.
        marks: *const hrl_group_mark = marks.as_ptr(),
        /// Number of marks.
        mark_count: usize = marks.len(),
        /// Longest barrier of a member, in microseconds; 0 for a point found in a vault.
        held_us: u64 = point.held.map_or(0, micros),
    }
}

/// Returns mark `number` of a point, counted from 0, as long as the point lives. NULL from
/// `mark_count` on, and for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_point_mark(
    point: Option<&hrl_group_point>,
    number: usize,
) -> *const hrl_group_mark {
    guard_value(std::ptr::null(), || match point {
        Some(point) if number < point.mark_count => point.marks.wrapping_add(number),
        _ => std::ptr::null(),
    })
}

/// Receives one group point, which lives until it returns with its marks; returns false to stop.
pub type hrl_group_point_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, point: *const hrl_group_point) -> bool>;

/// Passes points to a callback until it returns false.
fn visit_points(
    points: &[GroupPoint],
    callback: hrl_group_point_fn,
    user: *mut c_void,
) -> engine::Result<()> {
    let marks: Vec<Vec<hrl_group_mark>> =
        points.iter().map(|point| point.marks.iter().map(Into::into).collect()).collect();
    let points = points.iter().zip(&marks);
    visit(points.map(|(point, marks)| hrl_group_point::from(&(point, &marks[..]))), callback, user)
}

/// Passes every committed group point of a vault, oldest first, each once, to `visit` on the
/// calling thread. Volumes that cannot be read hide no other: the name of each and the reason are
/// passed to `unread` before, which may be NULL.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_group_points(
    vault: Option<&hrl_vault>,
    visit: hrl_group_point_fn,
    unread: hrl_finding_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let found = handle::given(vault, "vault")?.inner.group_points()?;
        for volume in &found.unread {
            pass_to(unread, user, &volume.volume, &volume.error.to_string());
        }
        visit_points(&found.points, visit, user)
    })
}

/// Options of a coordinator. Fill it with zeroes, then set the fields that you need; everything is
/// copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_group_options<'a> {
    /// `sizeof(hrl_group_options)`.
    pub struct_bytes: usize,
    /// Name of the group.
    pub name: Text<'a>,
    /// Directory in which it remembers its members; created if it is absent.
    pub state: Text<'a>,
    /// Directory with the certificates and enrolled clients, as `hrl enroll` makes it.
    pub pki: Text<'a>,
    /// "ADDRESS:PORT"; port 0 takes a free one. NULL: "0.0.0.0:20004".
    pub listen: Text<'a>,
    /// Limit of a barrier: writers never wait longer than this. 0: 300.
    pub budget_ms: u64,
    /// Interval of crash-consistent points. 0: on demand only.
    pub interval_ms: u64,
    /// Interval of application-consistent points. 0: on demand only.
    pub app_interval_ms: u64,
    /// Limit for quiescing applications. 0: 10,000.
    pub quiesce_limit_ms: u64,
    /// The volumes that may be members. NULL: any client that is enrolled in `pki` may join with
    /// its volumes, and from then on no point is made without it.
    pub members: *const Text<'a>,
    /// Number of `members`.
    pub member_count: usize,
}

versioned!(hrl_group_options<'_>);

/// The coordinator of a consistency group. All threads may use it at once.
pub struct hrl_group_coordinator {
    inner: session::Coordinator,
    address: CString,
}

/// Starts a coordinator. Free it with `hrl_group_coordinator_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT (options, certificates), HRL_ERROR_NOT_FOUND, HRL_ERROR_IO,
/// HRL_ERROR_UNSUPPORTED in builds without the feature `tls`. Since 0.1.
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

/// Returns the address at which it listens, "ADDRESS:PORT". Valid as long as the coordinator lives;
/// NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_coordinator_address(
    coordinator: Option<&hrl_group_coordinator>,
) -> *const c_char {
    guard_value(std::ptr::null(), || coordinator.map_or(std::ptr::null(), |c| c.address.as_ptr()))
}

/// Makes a point of the group now, application-consistent with `app`, and passes it to `visit` on
/// the calling thread. `label` may be NULL.
/// Statuses: HRL_ERROR_UNAVAILABLE (the message identifies the member that is in the way),
/// HRL_ERROR_INVALID_INPUT (the label is too long). Since 0.1.
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

/// Removes a member that is not coming back. HRL_ERROR_NOT_FOUND if it is no member. Since 0.1.
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

/// Makes a protected volume a member of `group`. Connects in the background to the first of `count`
/// coordinators that answers, with the certificate in the directory `identity`. A coordinator is
/// "HOST" or "HOST:PORT"; the default port is 20004. `application`, which may be NULL, is quiesced
/// for application-consistent points, on a thread of the library, with `user`. `hold_percent` is the
/// greatest share of the time for which the coordinator may hold writers; 0: 10. Free the member with
/// `hrl_group_member_free`, before the protection.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_NOT_FOUND (the identity), HRL_ERROR_UNSUPPORTED in
/// builds without the feature `tls`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_join_group(
    protection: Option<&hrl_protection>,
    group: Text<'_>,
    coordinators: *const Text<'_>,
    count: usize,
    identity: Text<'_>,
    hold_percent: u32,
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
        let inner =
            session::join(protection, group, &coordinators, identity, hold_percent, application)?;
        out.give(hrl_group_member { inner })
    })
}

report! {
    /// Reports the condition of a member.
    pub struct hrl_group_member_stats from (connected, rounds, points, held_max): session::Stats {
        /// Whether a coordinator has it as a member now.
        connected: bool = *connected,
        /// Rounds in which its writers waited at a barrier.
        rounds: u64 = *rounds,
        /// Group points that were committed.
        points: u64 = *points,
        /// Longest barrier of its writers, in microseconds.
        held_max_us: u64 = micros(*held_max),
    }
}

/// Reports the condition of a member. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_group_member_stats_get(
    member: Option<&hrl_group_member>,
    stats: Room<'_, hrl_group_member_stats>,
) -> hrl_status {
    guard(|| {
        let stats = stats.needed("stats")?;
        let member = handle::given(member, "member")?;
        stats.fill(hrl_group_member_stats::from(&session::stats(&member.inner)));
        Ok(())
    })
}

/// Waits until a coordinator has taken the member in. HRL_ERROR_UNAVAILABLE at the limit; the
/// message says why. Since 0.1.
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

/// Leaves the group: its points are made without this volume. Free the member afterwards in any
/// case.
/// Statuses: HRL_ERROR_UNAVAILABLE if no coordinator confirms it within the limit. Then the group
/// still waits for the volume. Since 0.1.
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

/// Ends the connection and frees the member; NULL is fine. The volume stays a member of the group.
/// Since 0.1.
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

    use super::hrl_group_options;
    use crate::handle;
    use crate::protection::{CallbackQuiesce, hrl_protection, with};

    /// Nothing can be started, so there is no value of it.
    pub(super) type Coordinator = GroupCoordinator;
    pub(super) type Member = GroupMember;
    /// Connected, rounds, points, and the longest barrier.
    pub(super) type Stats = (bool, u64, u64, Duration);

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
        if !chosen.members.is_null() {
            // SAFETY: the caller promises that the array has the length beside it.
            let members = unsafe { handle::array(chosen.members, chosen.member_count, "members")? };
            let members = members.iter().map(|volume| volume.read("members"));
            options = options.members(&members.collect::<Result<Vec<_>>>()?);
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
        hold_percent: u32,
        application: Option<CallbackQuiesce>,
    ) -> Result<Member> {
        let mut join = GroupJoin::new(group, coordinators, identity);
        if hold_percent != 0 {
            join = join.hold_share(f64::from(hold_percent) / 100.0);
        }
        if let Some(application) = application {
            join = join.quiesce(Arc::new(application));
        }
        with(protection, |protection| join.join(protection))
    }

    pub(super) fn stats(member: &Member) -> Stats {
        let stats = member.stats();
        (stats.connected, stats.rounds, stats.points, stats.held_max)
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

    use super::hrl_group_options;
    use crate::protection::{CallbackQuiesce, hrl_protection};

    /// Nothing can be started, so there is none.
    pub(super) enum Coordinator {}
    pub(super) enum Member {}
    pub(super) type Stats = (bool, u64, u64, Duration);

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
        _: u32,
        _: Option<CallbackQuiesce>,
    ) -> Result<Member> {
        Err(unsupported(group))
    }

    pub(super) fn stats(member: &Member) -> Stats {
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

    /// Records a point as `ID GROUP LABEL MEMBERS VOLUME`.
    unsafe extern "C" fn note(user: *mut c_void, point: *const hrl_group_point) -> bool {
        // SAFETY: the test gives a String, and the library a point with its marks.
        let (notes, point, mark) = unsafe {
            (&mut *user.cast::<Vec<String>>(), &*point, &*hrl_group_point_mark(point.as_ref(), 0))
        };
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
        let web = text("web");
        let volume = Text::from_c(&web);
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
            members: &raw const volume,
            member_count: 1,
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
                10,
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
            let mut stats = hrl_group_member_stats {
                struct_bytes: size_of::<hrl_group_member_stats>(),
                ..std::mem::zeroed()
            };
            check(hrl_group_member_stats_get(member.as_ref(), Room::from_mut(&mut stats)));
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
            check(hrl_vault_group_points(vault.as_ref(), Some(note), None, user));
            hrl_group_coordinator_free(Some(Box::from_raw(coordinator)));
            hrl_vault_free(Some(Box::from_raw(vault)));
            hrl_store_free(Some(Box::from_raw(store)));
        }
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[0], notes[1], "made and found again");
        assert!(notes[0].ends_with(" shop nightly web 1 of 1"), "{notes:?}");
    }
}
