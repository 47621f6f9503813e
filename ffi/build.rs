//! Gives the shared library its SONAME: the minor version is part of it as long as the major one is 0.

fn main() {
    let part = |name: &str| std::env::var(format!("CARGO_PKG_VERSION_{name}")).unwrap_or_default();
    let major = part("MAJOR");
    let version = if major == "0" { format!("0.{}", part("MINOR")) } else { major };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhrl.so.{version}");
    println!("cargo:rerun-if-changed=build.rs");
    // With `cloud` a dependency brings C functions of its own, which are nobody's business outside.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs=ALL");
}
