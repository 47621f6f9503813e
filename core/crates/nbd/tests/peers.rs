//! The NBD server against software that others wrote: libnbd's tools, QEMU, fio, and file systems
//! of the kernel.
//!
//! A test that lacks a tool or the rights for it reports that and is skipped.

#[path = "raw/denied.rs"]
mod denied;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{FileDevice, FileDeviceOptions};
use hrl::journal::PointKind;
use hrl::replica::{At, RestoreTarget};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Extent, ExtentSet, Policy, Protection, ProtectionOptions, SystemClock};
use hrl_nbd::{Export, ExportContext, NbdAddress, NbdLimits, NbdServer};

const LIMIT: Duration = Duration::from_secs(120);

/// A protected file served over a UNIX socket.
struct Rig {
    directory: tempfile::TempDir,
    vault: Vault,
    protection: Protection,
    server: NbdServer,
}

impl Rig {
    fn new(size_bytes: u64) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        let options = FileDeviceOptions { create_bytes: Some(size_bytes), ..Default::default() };
        let device =
            Arc::new(FileDevice::open(&directory.path().join("disk"), &options).expect("disk"));
        let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        let policy = Policy { segment_interval: Duration::from_millis(100), ..Policy::default() };
        let protection =
            ProtectionOptions::new("disk", device, vault.clone(), directory.path().join("state"))
                .policy(policy)
                .open()
                .expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        let address = NbdAddress::Unix(directory.path().join("s"));
        let mut export = Export::volume("disk", protection.volume().clone());
        let changed: ExtentSet = [Extent { offset: 65_536, length: 4096 }].into_iter().collect();
        export
            .contexts
            .push(ExportContext { name: "hrl:changes".into(), extents: Arc::new(changed) });
        let server = NbdServer::start(&address, vec![export], NbdLimits::default()).expect("serve");
        denied::check_engine(&server);
        Self { directory, vault, protection, server }
    }

    fn uri(&self) -> String {
        self.server.address().uri("disk")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Ends the session and checks that the replica is the disk.
    fn finish(self) {
        let point = self.protection.mark(PointKind::Crash, "end").expect("mark");
        self.protection.wait_replicated(LIMIT).expect("replicated");
        self.server.stop();
        self.protection.stop(LIMIT).expect("stop");
        let restored = self.directory.path().join("restored");
        let target = RestoreTarget::File { path: restored.clone(), overwrite: false };
        let replica = self.vault.replica("disk").expect("replica");
        replica.restore(&At::Point(point.id), &target, &|_, _| true).expect("restore");
        run(
            "cmp",
            &[
                &restored.display().to_string(),
                &self.directory.path().join("disk").display().to_string(),
            ],
        );
    }
}

/// Runs a program that must succeed. Returns its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

fn missing(tools: &[&str]) -> bool {
    let found = |tool: &&str| {
        Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    match tools.iter().find(|tool| !found(tool)) {
        Some(tool) => {
            eprintln!("skipped: {tool} is not installed");
            true
        }
        None => false,
    }
}

#[test]
fn libnbd_and_qemu_speak_with_it() {
    if missing(&["nbdinfo", "nbdcopy", "qemu-io", "qemu-img"]) {
        return;
    }
    let rig = Rig::new(64 << 20);
    let uri = rig.uri();
    let info = run("nbdinfo", &[&uri]);
    for expected in
        ["export-size: 67108864", "can_multi_conn: true", "can_fast_zero: true", "hrl:changes"]
    {
        assert!(info.contains(expected), "{expected} in {info}");
    }
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 5 1M 3M",
            "-c",
            "write -P 7 1000 77",
            "-c",
            "write -z 2M 64k",
            "-c",
            "discard 3M 64k",
            "-c",
            "flush",
            "-c",
            "read -P 7 1000 77",
            "-c",
            "read -P 0 2M 64k",
            "-c",
            "read -P 5 1M 1M",
            &uri,
        ],
    );
    let map = run("nbdinfo", &["--map=hrl:changes", &uri]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..3], ["65536", "4096", "1"], "{map}");
    let map = run("nbdinfo", &["--map", &uri]);
    assert!(map.contains("data") && map.contains("hole,zero"), "{map}");
    let copy = rig.path("copy").display().to_string();
    run("nbdcopy", &[&uri, &copy]);
    run("cmp", &[&copy, &rig.path("disk").display().to_string()]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &copy]);
    rig.finish();
}

#[test]
fn fio_verifies_its_writes_at_queue_depth_16() {
    if missing(&["fio"]) {
        return;
    }
    let rig = Rig::new(64 << 20);
    let uri = format!("--uri={}", rig.uri());
    run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--iodepth=16",
            "--size=64M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--randrepeat=0",
            "--verify_state_save=0",
        ],
    );
    rig.finish();
}

/// A block device over the export; taken down whatever happens.
struct BlockDeviceOf {
    bridge: Child,
    mount: std::path::PathBuf,
    device: String,
}

impl BlockDeviceOf {
    fn attach(rig: &Rig) -> Self {
        let mount = rig.path("fuse");
        std::fs::create_dir_all(&mount).expect("directory");
        let bridge = Command::new("nbdfuse")
            .arg(&mount)
            .arg(rig.uri())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse");
        let file = mount.join("nbd");
        for _ in 0..200 {
            if file.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        let mut attached = Self { bridge, mount, device: String::new() };
        let device =
            run("losetup", &["-f", "--show", "--direct-io=on", &file.display().to_string()]);
        device.trim().clone_into(&mut attached.device);
        attached
    }
}

impl Drop for BlockDeviceOf {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
        // The loop device closes the file some time after `losetup -d`; until then the mount is busy.
        for _ in 0..200 {
            let _ = Command::new("fusermount3").arg("-u").arg(&self.mount).output();
            std::thread::sleep(Duration::from_millis(25));
            if !matches!(self.bridge.try_wait(), Ok(None)) {
                return;
            }
        }
        let _ = Command::new("fusermount3").arg("-uz").arg(&self.mount).output();
        let _ = self.bridge.kill();
        let _ = self.bridge.wait();
    }
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).output();
    }
}

fn file_system(make: &[&str], check: &[&str]) {
    if missing(&["nbdfuse", "losetup", "fusermount3", make[0], check[0]]) {
        return;
    }
    if run("id", &["-u"]).trim() != "0" {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let rig = Rig::new(512 << 20);
    let device = BlockDeviceOf::attach(&rig);
    run(make[0], &[&make[1..], &[device.device.as_str()]].concat());
    let root = rig.path("mnt");
    std::fs::create_dir_all(&root).expect("directory");
    run("mount", &[&device.device, &root.display().to_string()]);
    let mounted = Mounted(&root);
    for number in 0..40_u8 {
        std::fs::write(root.join(format!("file-{number}")), vec![number; 300_000]).expect("write");
        if number % 3 == 0 {
            std::fs::remove_file(root.join(format!("file-{number}"))).expect("remove");
        }
    }
    run("sync", &["-f", &root.display().to_string()]);
    drop(mounted);
    run(check[0], &[&check[1..], &[device.device.as_str()]].concat());
    drop(device);
    rig.finish();
}

#[test]
fn ext4_lives_on_it() {
    file_system(&["mkfs.ext4", "-q", "-F"], &["e2fsck", "-f", "-n"]);
}

#[test]
fn xfs_lives_on_it() {
    file_system(&["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]);
}

#[test]
fn btrfs_lives_on_it() {
    file_system(&["mkfs.btrfs", "-q", "-f"], &["btrfs", "check", "--readonly"]);
}

#[test]
fn all_of_this_holds_where_io_uring_is_denied() {
    denied::run_all_but("all_of_this_holds_where_io_uring_is_denied", libc::EPERM);
}
