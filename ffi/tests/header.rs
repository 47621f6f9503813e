//! `include/hrl.h` is what cbindgen makes of the crate. `HRL_UPDATE=1 cargo test -p hrl-ffi --test header` renews it.

use std::path::Path;

#[test]
fn the_committed_header_is_that_of_the_code() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut text = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(here.join("src/lib.rs"))
        .generate()
        .expect("a header")
        .write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    let path = here.join("../include/hrl.h");
    if std::env::var_os("HRL_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("write the header");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = committed.lines().zip(text.lines()).position(|(a, b)| a != b) {
        panic!("include/hrl.h differs at line {}; renew it with HRL_UPDATE=1", line + 1);
    }
    assert_eq!(committed.len(), text.len(), "include/hrl.h ends early or late");
}
