//! Records in the vault: encrypted with a key, bound to their place, and refused if damaged.

use std::sync::Arc;

use hrl::journal::WrappingKey;
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{ErrorKind, SystemClock};
use hrl_plan::{self as plan, RunMode};

use parts::{Site, options};

mod parts;

/// Promise 10: plans and their programs' output are encrypted, and no one without the key can forge
/// a record.
#[test]
fn promise_10_records_are_encrypted_and_bound_to_their_place() {
    let key = WrappingKey::from_bytes([7; 32]);
    let site = Site::with_key(&["db"], Some(key));
    let text =
        "name = \"p\"\n[[group]]\nname = \"g\"\n[[group.before]]\ncommand = \"echo secret word\"\n";
    let report = site.run(text, &options(RunMode::Test));
    assert_eq!(report.steps[0].output, "secret word\n");
    let directory = site.path("vault/plans/r");
    let path = |number: u32| directory.join(format!("{number:06}"));
    for number in 1..=report.steps.len() as u32 + 4 {
        let bytes = std::fs::read(path(number)).expect("record");
        assert!(!bytes.windows(6).any(|window| window == b"secret"), "record {number}");
    }
    let open = |key| {
        let store = Arc::new(DirStore::open(&site.path("vault")).expect("store"));
        plan::report(&Vault::open(store, key, SystemClock::shared()).expect("vault"), "r")
    };
    let kind =
        |key: Option<[u8; 32]>| open(key.map(WrappingKey::from_bytes)).expect_err("refused").kind();
    assert_eq!((kind(None), kind(Some([8; 32]))), (ErrorKind::WrongKey, ErrorKind::WrongKey));
    let (two, three) =
        (std::fs::read(path(2)).expect("record"), std::fs::read(path(3)).expect("record"));
    let put = |number, bytes: &[u8]| {
        std::fs::remove_file(path(number)).expect("remove");
        std::fs::write(path(number), bytes).expect("write");
    };
    put(2, &three);
    assert_eq!(kind(Some([7; 32])), ErrorKind::Corrupt);
    put(2, br#"{"kind":"ended","outcome":"done","message":"","time":"2026-01-01T00:00:00Z"}"#);
    assert_eq!(kind(Some([7; 32])), ErrorKind::WrongKey);
    put(2, &two);
    assert_eq!(open(Some(WrappingKey::from_bytes([7; 32]))).expect("whole"), report);
}

/// Promise 11: any bytes in a log give a report or an error that names the record.
#[test]
fn promise_11_damaged_records_are_errors_that_name_them() {
    let site = Site::new(&["db"]);
    site.run(
        "name = \"p\"\n[[group]]\nname = \"g\"\n[[group.member]]\nvolume = \"db\"\n",
        &options(RunMode::Test),
    );
    let mut refused = 0;
    for number in 1..=6 {
        let path = site.path(&format!("vault/plans/r/{number:06}"));
        let whole = std::fs::read(&path).expect("record");
        for at in 0..whole.len().min(400) {
            for byte in [b'"', b'}', b'9', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                std::fs::remove_file(&path).expect("remove");
                std::fs::write(&path, &bytes).expect("write");
                if let Err(error) = plan::report(&site.vault, "r") {
                    refused += 1;
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::Corrupt | ErrorKind::InvalidInput),
                        "{error}"
                    );
                    assert!(
                        error.to_string().contains(" r") || error.to_string().contains("plans/r/"),
                        "{error}"
                    );
                }
            }
        }
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, &whole).expect("write");
    }
    assert!(refused > 1000, "{refused}");
}
