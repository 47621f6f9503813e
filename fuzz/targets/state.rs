//! Small texts and records that nothing else parses (promise 11): files of a state directory,
//! lengths of time, lines of a watchdog, answers of Redis, keys and wrapped keys, lists of
//! applications, retention and bandwidth.
//!
//! A parsed value is written again and parsed to the same. A wrapped key opens as it was wrapped or
//! not at all (promise 10).
//!
//! An input is one byte that says what, and then it.
#![no_main]

use hrl::journal::{Binding, VolumeKey, WrappingKey};
use hrl::testing::{
    reprint_anchor, reprint_failover, reprint_follow, reprint_state, reprint_volume,
};
use hrl::{
    Bandwidth, ErrorKind, ManualClock, RetentionPolicy, Timestamp, VolumeId, duration_text,
    parse_duration,
};
use hrl_quiesce::Applications;
use hrl_quiesce::testing::{read_redis_answer, reprint_watchdog_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let text = || std::str::from_utf8(bytes).ok();
    match kind % 12 {
        0 => again(text(), reprint_state),
        1 => again(text(), reprint_failover),
        2 => again(text(), reprint_follow),
        3 => again(text(), |text| parse_duration(text, None).ok().map(duration_text)),
        4 => watchdog_line(bytes),
        5 => redis(bytes),
        6 => key(bytes),
        7 => wrapped(bytes),
        8 => applications(text()),
        9 => policies(text()),
        10 => again(text(), reprint_volume),
        _ => again(text(), reprint_anchor),
    }
});

fn again(text: Option<&str>, reprint: impl Fn(&str) -> Option<String>) {
    let Some(printed) = text.and_then(&reprint) else { return };
    assert_eq!(reprint(&printed).as_ref(), Some(&printed), "what is written says the same");
}

fn watchdog_line(bytes: &[u8]) {
    let bytes = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(printed) = reprint_watchdog_line(bytes) else {
        assert!(std::str::from_utf8(bytes).is_err(), "any text is a line");
        return;
    };
    assert!(!printed.contains('\n'), "a line is one line");
    assert_eq!(reprint_watchdog_line(printed.as_bytes()).ok(), Some(printed));
}

fn redis(bytes: &[u8]) {
    if let Ok(texts) = read_redis_answer(bytes) {
        // A byte that is not UTF-8 becomes three.
        assert!(texts.iter().map(String::len).sum::<usize>() <= 3 * bytes.len());
    }
}

fn key(bytes: &[u8]) {
    match WrappingKey::from_text(bytes, "origin") {
        Ok(key) if bytes.len() == 32 => {
            let raw: [u8; 32] = bytes.try_into().expect("32 bytes");
            let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
            let same = WrappingKey::from_text(format!(" {hex}\n").as_bytes(), "origin");
            assert!(same.expect("digits") == key, "bytes and digits are one key");
        }
        Ok(_) => assert_eq!(bytes.trim_ascii().len(), 64, "digits are 64"),
        Err(error) => {
            assert_eq!((error.kind(), error.object()), (ErrorKind::InvalidInput, "origin"));
            let other = WrappingKey::from_text(&vec![b'?'; bytes.len()], "origin").err();
            let said = other.map(|other| other.to_string());
            assert_eq!(said, Some(error.to_string()), "an error shows nothing of a key");
        }
    }
}

/// A mode, then the same key wrapped at another time.
const SEED: &[u8] = include_bytes!("../seeds/state/wrapped");

/// Returns the wrapping of a key, with these bytes in place of its first ones, or after its magic
/// and key id.
fn wrapped(bytes: &[u8]) {
    let clock = ManualClock::new(Timestamp(0), 1);
    let wrapping = WrappingKey::from_bytes([5; 32]);
    let to = Binding { volume: VolumeId([1; 16]), properties: b"v" };
    let key = VolumeKey::from_bytes([3; 32]);
    let whole = wrapping.wrap(&key, &to, &clock);
    let opened = wrapping.unwrap(&whole, &to, key.id(), "key").expect("as it was wrapped");
    assert_eq!(opened.id(), key.id());
    let Some((start, bytes)) = bytes.split_first() else { return };
    let mut altered = whole.clone();
    let start = usize::from(*start) % (altered.len() + 1);
    for (at, byte) in bytes.iter().enumerate() {
        match altered.get_mut(start + at) {
            Some(old) => *old ^= byte,
            None => altered.push(*byte),
        }
    }
    for altered in [altered, bytes.to_vec()] {
        match wrapping.unwrap(&altered, &to, key.id(), "key") {
            Ok(opened) => {
                let is_genuine = altered == whole || altered == SEED[1..];
                assert!(is_genuine && opened.id() == key.id(), "it was altered");
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::WrongKey));
            }
        }
    }
}

fn applications(text: Option<&str>) {
    let Some(text) = text else { return };
    match Applications::parse(text.lines()) {
        Ok(first) => {
            let again = Applications::parse(first.specifications()).expect("they were taken");
            assert_eq!(first.specifications(), again.specifications());
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported));
        }
    }
}

fn policies(text: Option<&str>) {
    again(text, |text| text.parse::<Bandwidth>().ok().map(|bandwidth| bandwidth.to_string()));
    again(text, |text| {
        let policy = text.parse::<RetentionPolicy>().ok()?;
        policy.validate().expect("what is read is valid");
        assert_eq!(policy.to_string().parse().ok().as_ref(), Some(&policy), "the same policy");
        Some(policy.to_string())
    });
}
