//! Text that people write: policies, states, times and their lengths, addresses, identities
//! (promise 11).
//!
//! Each line is parsed in every way. A refused setting changes nothing and names its field. What is
//! printed parses to the same value.
#![no_main]

use hrl::replica::At;
use hrl::{ErrorKind, PointId, Policy, TimeUnit, Timestamp, duration_text, parse_duration};
use hrl_nbd::NbdAddress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut policy = Policy::default();
    for line in text.lines() {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        set(&mut policy, name, value);
        if let Ok(time) = Timestamp::parse(line) {
            assert_eq!(Timestamp::parse(&time.to_string()).ok(), Some(time));
        }
        if let Some(point) = PointId::parse(line) {
            assert_eq!(PointId::parse(&point.to_string()), Some(point));
        }
        if let Ok(at) = At::parse(line) {
            let _ = at.to_string();
        }
        if let Ok(time) = parse_duration(line, Some(TimeUnit::Seconds)) {
            assert_eq!(parse_duration(&duration_text(time), None).ok(), Some(time));
        }
        if let Ok(address) = NbdAddress::parse(line) {
            let _ = address.uri(name);
        }
    }
    if let Err(error) = policy.validate() {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!error.to_string().is_empty());
    }
});

fn set(policy: &mut Policy, name: &str, value: &str) {
    let before = policy.clone();
    match policy.set(name, value) {
        Ok(()) => {
            let field = name.strip_suffix("_ms").unwrap_or(name);
            assert!(Policy::NAMES.contains(&field));
            let once = policy.clone();
            policy.set(name, value).expect("it was taken before");
            assert_eq!(*policy, once);
        }
        Err(error) => {
            assert_eq!((error.kind(), error.object()), (ErrorKind::InvalidInput, name));
            assert_eq!(*policy, before);
        }
    }
}
