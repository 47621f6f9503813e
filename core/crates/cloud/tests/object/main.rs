//! Vaults on object stores, against real servers: the contract, faults of the network, and a
//! volume's way there and back. Tests of a server that is not installed are skipped with a message
//! (`make servers` installs them).

mod faults;
mod life;
mod lock;
mod proxy;
mod servers;
mod tiers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hrl::store::{Store, conformance};
use hrl::vault::Vault;
use hrl::{ErrorKind, SystemClock};
use hrl_cloud::{ObjectStore, ObjectStoreOptions};

use servers::{Kind, Server};

/// Checks the contract of `Store`, each time under another prefix.
fn check_contract(server: &Server) {
    let count = AtomicU64::new(0);
    conformance::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let store = server.store(&format!("contract/{number}"), server.port()).expect("store");
        Arc::new(store) as Arc<dyn Store>
    });
}

/// Checks that a wrong bucket, a wrong key and a missing server are distinguished, and that errors
/// show the URL.
fn check_refusals(server: &Server, secret: &'static str) {
    let (url, secrets) = server.url("x", server.port());
    let open = |url: &str, change: Option<(&str, &str)>| {
        let options = secrets
            .iter()
            .copied()
            .chain(change)
            .try_fold(ObjectStoreOptions::default(), |options, (name, value)| {
                options.set(name, value)
            });
        let store = ObjectStore::open(url, options.expect("options"));
        store.map(drop).expect_err("refused")
    };
    let error = open(&url.replace(servers::BUCKET, "nobody-made-this"), None);
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("nobody-made-this"), "{error}");
    let error = open(&url, Some((secret, "d3Jvbmc=")));
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("refused the credentials"), "{error}");
    let dead = servers::free_ports(1)[0].to_string();
    let error = open(&url.replace(&server.port().to_string(), &dead), None);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[test]
fn azure_by_azurite() {
    let Some(server) = Server::start(Kind::Azurite) else { return };
    check_contract(&server);
    check_refusals(&server, "account-key");
    faults::check(&server);
    life::protect_and_restore(&server);
}

#[test]
fn s3_by_seaweedfs() {
    let Some(mut server) = Server::start(Kind::SeaweedFs) else { return };
    check_refusals(&server, "secret-access-key");
    life::protect_and_restore(&server);
    life::promises_4_and_6_a_server_is_killed_while_the_volume_is_written(&mut server);
    life::a_first_read_takes_few_requests(&server);
    check_contract(&server);
}

#[test]
fn promise_13_objects_are_locked_in_moto() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    lock::check(&server);
}

#[test]
fn promise_13_objects_are_locked_in_seaweedfs() {
    let Some(server) = Server::start(Kind::SeaweedFs) else { return };
    lock::check(&server);
}

#[test]
fn a_vault_in_azure_is_followed_by_one_in_s3() {
    let Some(mut first) = Server::start(Kind::Azurite) else { return };
    let Some(second) = Server::start(Kind::SeaweedFs) else { return };
    tiers::promise_5_the_second_region_stands_alone(&mut first, &second);
}

#[test]
fn s3_by_moto() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    check_contract(&server);
    faults::check(&server);
    life::promise_6_a_bad_network_loses_nothing(&server);
}

#[test]
fn a_server_that_ignores_the_condition_cannot_become_a_vault() {
    let Some(server) = Server::start(Kind::S3rver) else { return };
    let store = Arc::new(server.store("", server.port()).expect("store"));
    let error = Vault::create(store.clone(), None, SystemClock::shared());
    let error = error.map(drop).expect_err("it lies");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("put-if-absent"), "{error}");
    assert!(store.list("").expect("list").is_empty(), "nothing is left of the probe");
}
