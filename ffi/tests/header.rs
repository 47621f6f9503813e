//! `include/hrl.h` is what cbindgen makes of the crate. `HRL_UPDATE=1 cargo test -p hrl-ffi --test
//! header` renews it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Returns the source as cbindgen is to see it: the types of arguments in `src/handle.rs` are
/// pointers in C.
fn as_pointers(source: &str) -> String {
    let mut text = source.to_owned();
    for (begin, pointer) in [("In<'", "*const "), ("Out<'", "*mut "), ("Room<'", "*mut ")] {
        while let Some(at) = text.find(begin) {
            let inner = at + text[at..].find(", ").expect("a type after the lifetime") + 2;
            let end = inner + closing(&text[inner..]);
            text = format!("{}{pointer}{}{}", &text[..at], &text[inner..end], &text[end + 1..]);
        }
    }
    text.replace("Text<'_>", "*const c_char")
        .replace("Text<'a>", "*const c_char")
        .replace("<'_>", "")
        .replace("<'a> {", " {")
}

/// Returns the source with the structures that its `report!` declares written out.
fn with_structures(source: &str) -> String {
    let mut text = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line == "report! {" {
            let body = lines.by_ref().take_while(|line| *line != "}");
            text += &structure(&body.collect::<Vec<_>>());
        } else {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// The comment of the first field of every structure that a `report!` declares.
const SIZE: &str = "\
/// Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
/// See \"Structures\" at the top of this file.
";

/// Returns the structure that the lines inside a `report!` declare.
fn structure(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let field = line.strip_prefix("        ").and_then(|line| line.split_once(": "));
        if let Some(head) = line.strip_prefix("    pub struct ") {
            let name = words(head).next().expect("a name");
            write!(
                text,
                "#[repr(C)]\npub struct {name} {{\n\
                 {SIZE}    pub struct_bytes: usize,\n"
            )
            .expect("text");
        } else if line.trim_start().starts_with("///") {
            writeln!(text, "{line}").expect("text");
        } else if let Some((name, rest)) = field
            && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        {
            let kind = rest.split(" = ").next().expect("a type").trim_end_matches(',');
            writeln!(text, "    pub {name}: {kind},").expect("text");
        }
    }
    text + "}\n"
}

/// Returns the place of the bracket that closes what is open at the beginning.
fn closing(text: &str) -> usize {
    let mut depth = 1;
    text.find(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth == 0
    })
    .expect("a closing bracket")
}

fn generated() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().expect("temporary directory");
    for entry in fs::read_dir(here.join("src")).expect("src") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name");
        // They export nothing: the types of one stand for pointers, the other has the macro
        // `report!`.
        if name == "handle.rs" || name == "report.rs" {
            continue;
        }
        let mut source = fs::read_to_string(&path).expect("source");
        source = source.replace("mod handle;", "").replace("mod report;", "");
        let source = as_pointers(&with_structures(&source));
        fs::write(directory.path().join(name), source).expect("write");
    }
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(directory.path().join("lib.rs"))
        .generate()
        .expect("a header")
        .write(&mut text);
    in_sections(&String::from_utf8(text).expect("UTF-8"))
}

/// The sections of the header: title, head, and the sources that declare what is in them.
const SECTIONS: [(&str, &str, &[&str]); 16] = [
    (
        "General",
        "Version, statuses, and the last error of a thread.",
        &["lib", "boundary", "callbacks"],
    ),
    ("Values", "Points, history and volumes, as several functions return them.", &["points"]),
    ("Vaults", "Where replicas are kept: stores, keys, vaults.", &["store", "keys", "vault"]),
    ("Protection", "Capture and replicate a volume, and take points.", &["protection", "quiesce"]),
    ("Attachments", "Protect a disk in use by points at intervals.", &["attach"]),
    ("Replicas", "View, restore, compare, verify and retain.", &["replica", "retention"]),
    ("Failover", "Continue a volume elsewhere, and take it home.", &["failover"]),
    ("Devices", "Disks: files, memory, overlays, and your own.", &["device"]),
    ("Taps", "For agents that do their own I/O: ask, write, report.", &["tap", "buffer"]),
    ("Journal", "Segments, and conversion to and from other formats.", &["journal"]),
    ("Maintenance", "Bring back what was deleted, and purge what is due.", &["maintenance"]),
    ("Mirrors", "Make one vault follow another.", &["mirror"]),
    ("Trackers", "Changed blocks of disks in use, without data.", &["tracker"]),
    ("Groups", "One cut across volumes on several machines.", &["group"]),
    ("Plans", "Recovery of many volumes, step by step.", &["plan"]),
    ("NBD", "Serve devices to clients.", &["nbd"]),
];

/// Returns the header with its declarations in the order of [`SECTIONS`], all of it with the
/// linkage of C.
fn in_sections(header: &str) -> String {
    const API: &str = "(type)}\n#endif\n";
    let begin = header.find(API).expect("HRL_API") + API.len();
    let end = header.rfind("\n#endif  /* HRL_H */").expect("the end of the header");
    let mut left: Vec<(&str, &str)> = header[begin..end]
        .split("\n\n")
        .map(|item| item.trim_matches('\n'))
        .filter(|item| !item.is_empty() && !item.starts_with("#ifdef __cplusplus"))
        .map(|item| (declared(item), item))
        .collect();
    let mut text = header[..begin].to_owned();
    text += "\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
    for (name, item) in &left {
        if item.contains("\ntypedef struct ") {
            writeln!(text, "struct {name};").expect("text");
        }
    }
    for (title, head, sources) in SECTIONS {
        write!(text, "\n/* ---- {title} ----\n * {head}\n */\n").expect("text");
        let names: BTreeSet<String> = sources.iter().flat_map(|source| names_of(source)).collect();
        let (here, elsewhere) = left.into_iter().partition(|(name, _)| names.contains(*name));
        left = elsewhere;
        for (_, item) in here {
            write!(text, "\n{item}\n").expect("text");
        }
    }
    assert!(left.is_empty(), "in no section: {left:?}");
    text + "\n#ifdef __cplusplus\n}\n#endif\n" + &header[end..]
}

/// Returns the name that a declaration with its comment declares.
fn declared(item: &str) -> &str {
    let code = match item.strip_prefix("/**") {
        Some(comment) => comment.split_once("*/\n").map_or("", |(_, code)| code),
        None => item,
    };
    let name = if let Some(function) = code.strip_prefix("HRL_API") {
        words(&function[..function.find('(').expect("arguments")]).next_back()
    } else if let Some(constant) = code.strip_prefix("#define ") {
        words(constant).next()
    } else if let (false, Some((_, callback))) = (code.contains('{'), code.split_once("(*")) {
        words(callback).next()
    } else {
        words(code.trim_end_matches(';')).next_back()
    };
    name.unwrap_or_else(|| panic!("no name in {item}"))
}

/// Returns the names that a source file declares.
fn names_of(source: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{source}.rs"));
    let text = with_structures(&fs::read_to_string(path).expect("source"));
    let lines = text.lines().filter(|line| line.starts_with("pub "));
    let names =
        lines.filter_map(|line| words(line).find(|word| word.to_lowercase().starts_with("hrl_")));
    names.map(str::to_owned).collect()
}

/// Returns the functions that the header declares.
fn functions(header: &str) -> BTreeSet<&str> {
    let before = header.match_indices('(').map(|(at, _)| &header[..at]);
    let names = before.filter_map(|text| words(text).next_back());
    names.filter(|name| name.starts_with("hrl_") && header.contains(&format!("{name}("))).collect()
}

fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric())
}

#[test]
fn every_function_can_be_reached_from_cpp() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    let header = fs::read_to_string(include.join("hrl.h")).expect("hrl.h");
    let functions = functions(&header);
    assert!(functions.len() > 140, "{functions:?}");
    let mut wrapper = String::new();
    for entry in fs::read_dir(include.join("hrl")).expect("include/hrl") {
        let path = entry.expect("entry").path();
        let included = format!("#include \"hrl/{}\"", path.file_name().unwrap().display());
        let all = fs::read_to_string(include.join("hrl.hpp")).expect("hrl.hpp");
        assert!(all.contains(&included), "hrl.hpp lacks {included}");
        wrapper += &fs::read_to_string(&path).expect("header");
    }
    let used: BTreeSet<_> = words(&wrapper).collect();
    let missing: Vec<_> = functions.into_iter().filter(|name| !used.contains(name)).collect();
    assert!(missing.is_empty(), "not in include/hrl/: {missing:?}");
}

#[test]
fn the_committed_header_is_that_of_the_code() {
    let text = generated();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/hrl.h");
    if std::env::var_os("HRL_UPDATE").is_some() {
        fs::write(&path, &text).expect("write the header");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = committed.lines().zip(text.lines()).position(|(a, b)| a != b) {
        panic!("include/hrl.h differs at line {}; renew it with HRL_UPDATE=1", line + 1);
    }
    assert_eq!(committed.len(), text.len(), "include/hrl.h ends early or late");
}
