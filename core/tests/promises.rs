//! The list of tests by promise in `core/docs/testing.md` is made from the tests themselves: whose name begins with
//! `promise_3_` or `promises_3_and_4_` (Rust, C), or whose docstring does with "Promise 3" (Python). `HRL_UPDATE=1` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const PROMISES: [&str; 12] = [
    "write order",
    "same bytes",
    "every point is a prefix",
    "no silent loss",
    "points survive",
    "the writer is never blocked",
    "honest points",
    "freezes end",
    "fencing",
    "sealed at the source",
    "bad bytes are errors",
    "bounded",
];
const BEGIN: &str =
    "<!-- tests by promise: made by `HRL_UPDATE=1 cargo test -p hrl --test promises` -->\n";
const END: &str = "<!-- end of tests by promise -->\n";

/// Names of tests by file, of each promise.
type Found = [BTreeMap<String, Vec<String>>; 12];

#[test]
fn every_promise_has_the_names_of_its_tests_beside_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let mut found = Found::default();
    for directory in
        ["core/src", "core/tests", "core/crates", "ffi/src", "ffi/tests", "python/tests"]
    {
        for file in files_in(&root.join(directory)) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let name = file.strip_prefix(root).expect("within").display().to_string();
            for (promises, test) in tests_in(&text, file.extension().is_some_and(|e| e == "py")) {
                for promise in promises {
                    found[promise - 1].entry(name.clone()).or_default().push(test.clone());
                }
            }
        }
    }
    for (promise, tests) in PROMISES.iter().zip(&found) {
        assert!(!tests.is_empty(), "no test attacks the promise {promise:?}");
    }
    let document = root.join("core/docs/testing.md");
    let text = std::fs::read_to_string(&document).expect("testing.md");
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the list");
    let (_, after) = rest.split_once(END).expect("the end of the list");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table(&found));
    if wanted != text && std::env::var_os("HRL_UPDATE").is_some() {
        std::fs::write(&document, wanted).expect("write");
        return;
    }
    assert!(wanted == text, "the list of tests is not that of the tests: run with HRL_UPDATE=1");
}

fn table(found: &Found) -> String {
    let mut table = String::from("| promise | file | tests |\n|---|---|---|\n");
    for (at, files) in found.iter().enumerate() {
        for (number, (file, tests)) in files.iter().enumerate() {
            let promise =
                if number == 0 { format!("{} {}", at + 1, PROMISES[at]) } else { String::new() };
            let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
            writeln!(table, "| {promise} | `{file}` | {} |", tests.join(", ")).expect("text");
        }
    }
    table
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py" || e == "c") {
            files.push(path);
        }
    }
    files
}

/// The tests of a file, each with its promises; one that names none by number attacks them all.
fn tests_in(text: &str, python: bool) -> Vec<(Vec<usize>, String)> {
    let mut tests = Vec::new();
    let mut current = "";
    for line in text.lines().map(str::trim) {
        if python {
            if let Some(name) = line.strip_prefix("def test_") {
                current = name.split('(').next().unwrap_or_default();
            }
            let said = line.strip_prefix("\"\"\"Promise").filter(|_| !current.is_empty());
            let numbers = said.map(|said| {
                said.trim_start_matches('s').split([':', '.']).next().unwrap_or_default()
            });
            if let Some(numbers) = numbers {
                let numbers =
                    numbers.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
                tests.push((numbers, format!("test_{current}")));
            }
        } else if let Some(name) = ["fn ", "void "].iter().find_map(|kind| {
            let name = line
                .trim_start_matches("static ")
                .trim_start_matches("async ")
                .strip_prefix(kind)?;
            name.starts_with("promise").then(|| name.split('(').next().unwrap_or_default())
        }) {
            tests.push((numbers_of(name), name.to_owned()));
        }
    }
    tests.retain(|(numbers, _)| numbers.iter().all(|number| (1..=12).contains(number)));
    tests
}

fn numbers_of(name: &str) -> Vec<usize> {
    let words = name.split('_').skip(1);
    let numbers: Vec<usize> = words
        .take_while(|word| *word == "and" || word.parse::<usize>().is_ok())
        .filter_map(|word| word.parse().ok())
        .collect();
    if numbers.is_empty() { (1..=12).collect() } else { numbers }
}

#[test]
fn names_and_docstrings_are_understood() {
    let rust =
        "fn promise_3_a() {\n  fn promises_4_5_and_6_b() {\nfn promises_hold() {\nfn other() {";
    let found = tests_in(rust, false);
    assert_eq!(found[0], (vec![3], "promise_3_a".into()));
    assert_eq!(found[1].0, [4, 5, 6]);
    assert_eq!(found[2].0.len(), 12);
    assert_eq!(found.len(), 3);
    let python = "def test_x(a) -> None:\n    \"\"\"Promise 3, seen.\"\"\"\ndef test_y():\n    \"\"\"Promises 4 and 5: so.\"\"\"";
    let found = tests_in(python, true);
    assert_eq!(found, [(vec![3], "test_x".into()), (vec![4, 5], "test_y".into())]);
}
