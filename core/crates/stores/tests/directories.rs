//! Stores in directories, by URL, and URLs that open no store.

use hrl::ErrorKind;
use hrl_stores::{create_url, open_url};

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
