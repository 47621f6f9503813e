//! Group points as a vault has them.

use std::path::Path;
use std::sync::Arc;

use hrl::journal::WrappingKey;
use hrl::store::DirStore;
use hrl::vault::{ShredOptions, Vault};
use hrl::{ErrorKind, SystemClock};
use hrl_group::group_points;

fn vault_with(path: &Path, key: u8) -> Vault {
    let store = Arc::new(DirStore::create(path).expect("store"));
    let key = WrappingKey::from_bytes([key; 32]);
    Vault::create(store, Some(key), SystemClock::shared()).expect("vault")
}

#[test]
fn a_volume_that_cannot_be_read_hides_no_group_points_of_others() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("vault");
    for (name, key) in [("mine", 7), ("foreign", 8), ("gone", 7), ("damaged", 7)] {
        vault_with(&path, key).create_volume(name, 1 << 20, 512, false).expect("volume");
    }
    std::fs::write(path.join("volumes/damaged/volume"), b"x").expect("damage");
    vault_with(&path, 7).shred("gone", ShredOptions::default()).expect("shred");
    let found = group_points(&vault_with(&path, 7)).expect("listed");
    let unread: Vec<_> =
        found.unread.iter().map(|one| (one.volume.as_str(), one.error.kind())).collect();
    assert_eq!(unread, [("damaged", ErrorKind::Corrupt), ("foreign", ErrorKind::WrongKey)]);
}
