//! Stores behind gateways, by URL.

use std::sync::Arc;

use hrl::ErrorKind;
use hrl::store::{DirStore, Store};
use hrl_gateway::GatewayOptions;
use hrl_stores::open_url;
use hrl_tls::{create_authority, enroll_client};

#[test]
fn a_url_with_an_identity_reaches_a_gateway() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name);
    create_authority(&path("pki"), &["127.0.0.1".into()]).expect("authority");
    enroll_client(&path("pki"), "agent", &["disk".into()], &path("agent")).expect("enroll");
    let vault = Arc::new(DirStore::create(&path("vault")).expect("store"));
    vault.put("volumes/disk/volume", b"record").expect("put");
    let gateway = GatewayOptions::new("127.0.0.1:0", path("pki")).start(vault).expect("a gateway");
    let url = format!("gateway://{}?identity={}", gateway.address(), path("agent").display());
    let store = open_url(&url).expect("open");
    let found = store.head("volumes/disk/volume").expect("head").expect("it is there");
    assert_eq!(found.length, 6);
    let error = open_url("gateway://localhost:1").err().expect("no identity");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
