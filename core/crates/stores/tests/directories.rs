//! Stores in directories, by URL, and URLs that open no store.

use std::sync::Arc;

use hrl::device::MemoryDevice;
use hrl::journal::WrappingKey;
use hrl::vault::{ShredOptions, Vault, layout};
use hrl::{ErrorKind, ProtectionOptions, SystemClock};
use hrl_audit::AuditLog;
use hrl_stores::{agent_vault, create_url, open_recorded, open_url};

#[test]
fn a_path_and_a_file_url_name_a_directory() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("vault").display().to_string();
    let error = open_url(&path).err().expect("no directory");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    create_url(&format!("file://{path}")).expect("create").put("one", b"1").expect("put");
    let found = open_url(&path).expect("open").head("one").expect("head");
    assert_eq!(found.map(|info| info.length), Some(1));
}

#[test]
fn an_unknown_scheme_is_refused() {
    for url in ["ftp://host/vault", "://"] {
        assert_eq!(open_url(url).err().expect(url).kind(), ErrorKind::InvalidInput);
    }
}

#[test]
#[cfg(not(feature = "cloud"))]
fn a_kind_of_store_that_this_build_lacks_is_unsupported() {
    for url in ["s3://bucket", "az://container/site", "gs://bucket"] {
        let error = open_url(url).err().expect(url);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("feature `cloud`"), "{error}");
    }
}

#[test]
fn the_vault_of_an_agent_is_made_once_and_then_waited_for() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (path, state) = (directory.path().join("vault"), directory.path().join("state"));
    let url = path.display().to_string();
    let open = || agent_vault(&url, &state, None, SystemClock::shared());
    let device = Arc::new(MemoryDevice::new(1 << 20));
    let protect = || {
        let vault = open().expect("vault");
        ProtectionOptions::new("disk", device.clone(), vault, &state).open().expect("protect")
    };
    let limit = std::time::Duration::from_secs(60);
    let protection = protect();
    protection.wait_replicated(limit).expect("replicated");
    protection.stop(limit).expect("stop");
    std::fs::rename(&path, directory.path().join("unmounted")).expect("rename");
    let error = agent_vault("://", &state, None, SystemClock::shared()).err().expect("no URL");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let protection = protect();
    assert!(protection.stats().vault_away && !path.exists());
    std::fs::rename(directory.path().join("unmounted"), &path).expect("rename");
    protection.wait_replicated(limit).expect("replicated");
    protection.stop(limit).expect("stop");
}

#[test]
fn promise_13_a_shred_without_a_gateway_is_in_the_audit_log() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("vault").display().to_string();
    let (clock, key) = (SystemClock::shared(), Some(WrappingKey::from_bytes([3; 32])));
    let vault = Vault::create(create_url(&path).expect("store"), key.clone(), clock.clone());
    vault.expect("vault").create_volume("disk", 1 << 20, 4096, false).expect("volume");
    let store = open_recorded(&path, "root@host (hrl shred)", "admin").expect("store");
    let vault = Vault::open(store, key, clock).expect("vault");
    let keys = vault.store().list(&layout::keys_prefix("disk")).expect("list");
    vault.shred("disk", ShredOptions { data: true, override_legal_hold: true }).expect("shred");
    let log = AuditLog::read(&*open_url(&path).expect("store")).expect("log");
    assert!(log.findings.is_empty(), "{:?}", log.findings);
    for key in keys {
        let names_it = |(_, writer, entry): &(u64, String, hrl_audit::Entry)| {
            writer == "root@host (hrl shred)" && entry.objects.contains(&key.name)
        };
        assert!(log.entries.iter().any(names_it), "{} in {:?}", key.name, log.entries);
    }
}
