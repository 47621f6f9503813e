//! A mounted disk that is attached, and its points restored.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hrl::device::BlockDevice;
use hrl::journal::PointKind;
use hrl::replica::{At, RecoveryPoint, ViewOptions};
use hrl::store::DirStore;
use hrl::sync::lock::Mutex;
use hrl::vault::Vault;
use hrl::{ErrorKind, Event, Policy, Result, SystemClock};
use hrl_attach::{Attachment, AttachmentOptions};

use super::{Disk, Mount};

const MINUTE: Duration = Duration::from_secs(60);

/// A vault and a state directory beside an attached disk. What is pinned is taken away at the end.
pub struct Site {
    pub home: tempfile::TempDir,
    pub vault: Vault,
    pub events: Arc<Mutex<Vec<Event>>>,
}

impl Site {
    pub fn new() -> Self {
        let home = tempfile::tempdir_in("/tmp").expect("directory");
        let store = Arc::new(DirStore::create(&home.path().join("vault")).expect("store"));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        Self { home, vault, events: Arc::default() }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Attaches with points on demand alone, if the policy says no other; `None` where there is no BPF.
    pub fn attach(
        &self,
        disk: &Path,
        change: impl FnOnce(AttachmentOptions, Policy) -> AttachmentOptions,
    ) -> Option<Attachment> {
        let events = self.events.clone();
        let options = AttachmentOptions::new("disk", disk, self.vault.clone(), self.at("state"))
            .events(Arc::new(move |event| events.lock().push(event.clone())));
        let on_demand = Policy {
            crash_point_interval: Duration::ZERO,
            freeze_limit: Duration::ZERO,
            retention: None,
            ..Policy::default()
        };
        match change(options, on_demand).open() {
            Ok(attachment) => Some(attachment),
            Err(error) if is_lacking(&error) => {
                eprintln!("not run: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes what a point has into a file.
    pub fn restore(&self, point: &RecoveryPoint, to: &Path) {
        let replica = self.vault.replica("disk").expect("replica");
        let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
        let bytes = view.size_bytes();
        let _ = std::fs::remove_file(to);
        let file = File::create(to).expect("copy");
        file.set_len(bytes).expect("copy");
        let mut buffer = vec![0; 1 << 20];
        for offset in (0..bytes).step_by(1 << 20) {
            view.read(offset, &mut buffer).expect("read");
            if buffer.iter().any(|byte| *byte != 0) {
                file.write_all_at(&buffer, offset).expect("copy");
            }
        }
    }

    /// Restores a point and mounts it.
    pub fn mounted(&self, point: &RecoveryPoint, what: &str) -> (Mount, Disk) {
        let copy = self.at("copy");
        self.restore(point, &copy);
        let disk = Disk::over(&copy).expect("a loop device");
        let mount = Mount::over(&disk.path, &self.at("restored"));
        (mount.unwrap_or_else(|| panic!("{what} does not mount")), disk)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = Attachment::detach(&self.at("state"));
    }
}

/// Returns whether this machine lacks what is needed.
pub fn is_lacking(error: &hrl::Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Io | ErrorKind::Unsupported)
}

/// Makes a point, again if a machine that does much else lets no cut be clean. `before` returns what
/// was acknowledged before the cut began.
pub fn point_after<T>(
    mark: impl Fn() -> Result<RecoveryPoint>,
    before: impl Fn() -> T,
) -> (RecoveryPoint, T) {
    let begun = Instant::now();
    loop {
        let acknowledged = before();
        match mark() {
            Ok(point) => return (point, acknowledged),
            Err(error) if begun.elapsed() < 3 * MINUTE => {
                let is_transient =
                    matches!(error.kind(), ErrorKind::NotOrdered | ErrorKind::Unavailable);
                assert!(is_transient, "{error}");
                eprintln!("again: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn crash_point(attachment: &Attachment) -> Result<RecoveryPoint> {
    attachment.mark(PointKind::Crash, "")
}
