//! What a machine must have for BPF programs on its disks, and what helps where something is missing.
//!
//! tracefs is not needed: the programs find their tracepoints in the kernel's types.

use std::fs;
use std::io;
use std::path::Path;

use hrl::{Error, ErrorKind, Result};

use super::btf;
use super::sys;

/// Oldest kernel whose programs may set bits atomically.
const KERNEL: (u32, u32) = (5, 12);
const CAPABILITIES: [(u32, &str); 3] =
    [(21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Checks what can be checked before the kernel is asked. `Unsupported` or `Denied` says what is
/// missing, and what helps.
pub(crate) fn check(disk: &Path) -> Result<()> {
    let refused = |kind: ErrorKind| Error::new(kind, "observe", disk.display());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_some_and(|found| found < KERNEL) {
        return Err(refused(ErrorKind::Unsupported)
            .expected(format_args!("kernel {}.{} or newer", KERNEL.0, KERNEL.1))
            .found(release.trim()));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        return Err(refused(ErrorKind::Denied).message(format_args!(
            "{} missing: {}",
            missing.join(", "),
            what_helps(&map)
        )));
    }
    if !Path::new(btf::PATH).exists() {
        return Err(refused(ErrorKind::Unsupported)
            .expected(format_args!("the kernel's types in {}", btf::PATH))
            .found("none: use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build it"));
    }
    if !sys::can_wait_for_programs() {
        return Err(refused(ErrorKind::Unsupported).message(
            "the kernel offers no membarrier over all processors: boot without nohz_full",
        ));
    }
    Ok(())
}

/// Checks that names can be given in a directory's bpffs.
pub(crate) fn check_pins(parent: &Path) -> Result<()> {
    if sys::is_bpffs(parent) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "pin tracker in", parent.display())
        .expected("a mounted bpffs")
        .found(format_args!(
            "none: mount -t bpf bpf {}; a container needs that of the host",
            parent.display()
        )))
}

/// Says why the kernel may refuse bpf(2) although all capabilities are there.
pub(crate) fn why_refused(error: &io::Error) -> Option<String> {
    if error.raw_os_error() == Some(libc::ENOSYS) {
        return Some("the kernel has no bpf(2): CONFIG_BPF_SYSCALL=y is needed".to_owned());
    }
    // The verifier's own refusals are EACCES and EINVAL.
    if error.raw_os_error() != Some(libc::EPERM) {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        return Some(format!("{} missing: {}", missing.join(", "), what_helps(&map)));
    }
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return Some(
            "the kernel is locked down for confidentiality: lockdown=integrity, which Secure Boot \
             sets, allows it"
                .to_owned(),
        );
    }
    let is_filtered =
        status.lines().any(|line| line.starts_with("Seccomp:") && line.trim_end().ends_with('2'));
    Some(if is_filtered {
        "a seccomp filter, such as a container's, refuses bpf(2): allow it, or run on the host"
            .to_owned()
    } else {
        "a security module refuses bpf(2): look at the audit log of SELinux or AppArmor".to_owned()
    })
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
    CAPABILITIES.iter().filter(|(bit, _)| held >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

/// Says how the capabilities are got, from the map of this process's users.
fn what_helps(uid_map: &str) -> &'static str {
    let fields: Vec<&str> = uid_map.split_whitespace().collect();
    match fields[..] {
        ["0", "0", "4294967295"] | [] => {
            "run it as root, or as a service with AmbientCapabilities=CAP_BPF CAP_PERFMON \
             CAP_SYS_ADMIN"
        }
        _ => {
            "this is a user namespace, as in a rootless container, where the kernel never grants \
             them: run it on the host"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_helps() {
        let bits = |held: u64| missing_capabilities(&format!("Name: x\nCapEff:\t{held:016x}\n"));
        assert_eq!(bits(u64::MAX), Vec::<&str>::new());
        assert_eq!(bits(!(1 << 39)), ["CAP_BPF"]);
        assert_eq!(bits(0), ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert!(what_helps("         0          0 4294967295\n").contains("as root"));
        assert!(what_helps("         0       1000          1\n").contains("user namespace"));
    }

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.18.44-fc-v857\n"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("none"), None);
        assert!(version("5.4.0").is_some_and(|found| found < KERNEL));
    }

    #[test]
    fn a_kernel_that_has_no_bpf_is_said_to_have_none() {
        let absent = io::Error::from_raw_os_error(libc::ENOSYS);
        assert!(why_refused(&absent).is_some_and(|why| why.contains("CONFIG_BPF_SYSCALL")));
        assert_eq!(why_refused(&io::Error::from_raw_os_error(libc::ENOMEM)), None);
    }
}
