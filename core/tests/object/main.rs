//! Vaults on object stores, against real servers.

mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hrl::store::{Store, conformance};

use servers::{Kind, Server};

/// The contract of `Store`, each time under a prefix of its own.
fn check_contract(server: &Server) {
    let count = AtomicU64::new(0);
    conformance::check(&|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let store = server.store(&format!("contract/{number}"), server.port()).expect("store");
        Arc::new(store) as Arc<dyn Store>
    });
}

#[test]
fn azure_by_azurite() {
    let Some(server) = Server::start(Kind::Azurite) else { return };
    check_contract(&server);
}

#[test]
fn s3_by_seaweedfs() {
    let Some(server) = Server::start(Kind::SeaweedFs) else { return };
    check_contract(&server);
}

#[test]
fn s3_by_moto() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    check_contract(&server);
}
