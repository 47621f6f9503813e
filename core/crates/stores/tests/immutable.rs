//! A directory whose objects are immutable, on ext4 over a loop device. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hrl::store::{Store, delete_unlocked};
use hrl::{ErrorKind, SystemClock};
use hrl_stores::{open_for_maintenance, open_url};

/// An ext4 file system in a file, mounted; unmounted when dropped.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None`, and a message, where nothing can be mounted.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        let image = directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("image");
        std::fs::create_dir(directory.path().join("mounted")).expect("directory");
        let mut make = Command::new("mkfs.ext4");
        let mut mount = Command::new("mount");
        let made = make.args(["-q", "-F"]).arg(&image).status().is_ok_and(|s| s.success());
        mount.args(["-o", "loop"]).arg(&image).arg(directory.path().join("mounted"));
        if !made || !mount.status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: this user mounts no ext4 over a loop device");
            return None;
        }
        Some(Self { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

fn locked(path: &Path, time: &str) -> Arc<dyn Store> {
    open_url(&format!("file://{}?lock={time}", path.display())).expect("open")
}

#[test]
fn promise_13_objects_of_a_directory_are_immutable_until_their_time() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path();
    let store = locked(&path, "30d");
    store.put("a/one", b"one").expect("put");
    let source = mounted.directory.path().join("two");
    std::fs::write(&source, b"two").expect("write");
    store.put_file("a/two", &source).expect("put");
    for name in ["a/one", "a/two"] {
        // Not even root deletes, alters or renames it.
        let file = path.join(name);
        std::fs::remove_file(&file).expect_err("immutable");
        std::fs::write(&file, b"garbage").expect_err("immutable");
        std::fs::rename(&file, path.join("elsewhere")).expect_err("immutable");
        let error = store.delete(name).expect_err("locked");
        assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("locked until"));
        assert!(store.is_locked(name).expect("locked"));
    }
    // Whoever opens the directory without the option deletes nothing either, and goes on.
    let plain = open_for_maintenance(path.to_str().expect("text")).expect("open");
    plain.put("a/three", b"three").expect("put");
    let names = ["a/one".to_owned(), "a/three".to_owned()];
    let kept = delete_unlocked(&*plain, &names).expect("goes on");
    assert!(kept.len() == 1 && kept.contains("a/one"), "{kept:?}");
    assert_eq!(plain.head("a/three").expect("head"), None);
    // What was put without the option is locked by the next renewal; what is unwanted is not.
    for name in ["a/three", "a/four"] {
        plain.put(name, b"later").expect("put");
    }
    store.renew_locks("a/", &|name| name == "a/four").expect("renew");
    assert!(store.is_locked("a/three").expect("locked"));
    assert!(!store.is_locked("a/four").expect("free"));
    store.delete("a/four").expect("delete");
    assert_eq!(store.get("a/one", 0..3).expect("get"), b"one");
}

#[test]
fn promise_13_a_lock_that_is_over_ends() {
    let Some(mounted) = Mounted::new() else { return };
    let path = mounted.path();
    let store = locked(&path, "1h");
    store.put("a/one", b"one").expect("put");
    let file = path.join("a/one");
    let chattr = |flag| Command::new("chattr").arg(flag).arg(&file).status().expect("chattr");
    // As if the hour were over.
    assert!(chattr("-i").success());
    let until = SystemClock::shared();
    let past = (hrl::Clock::now(&*until).0 - 1).to_string();
    let file = std::fs::File::open(&file).expect("open");
    rustix::fs::fsetxattr(
        &file,
        "user.hrl.until",
        past.as_bytes(),
        rustix::fs::XattrFlags::empty(),
    )
    .expect("attribute");
    assert!(chattr("+i").success());
    assert!(!store.is_locked("a/one").expect("over"));
    store.delete("a/one").expect("delete");
    assert_eq!(store.head("a/one").expect("head"), None);
}

#[test]
fn a_query_that_is_no_lock_is_refused() {
    for query in ["lock=never", "lock=1s", "speed=1"] {
        let error = open_url(&format!("file:///tmp?{query}")).map(drop).expect_err(query);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
