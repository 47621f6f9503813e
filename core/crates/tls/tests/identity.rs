//! Identities: which clients a server admits, and which servers a client trusts.

use std::path::{Path, PathBuf};

use hrl::ErrorKind;
use hrl_tls::rustls::pki_types::ServerName;
use hrl_tls::rustls::{ClientConnection, ServerConnection};
use hrl_tls::{
    EnrolledClient, client_config, create_authority, enroll_client, find_client, fingerprint,
    let_client_expire, reissue_server, server_config,
};

struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().expect("temporary directory") };
        create_authority(&site.pki(), &["localhost".into()]).expect("authority");
        site
    }

    fn pki(&self) -> PathBuf {
        self.path("pki")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn enroll(&self, name: &str, volumes: &[&str]) -> PathBuf {
        let volumes: Vec<String> = volumes.iter().map(|volume| (*volume).to_owned()).collect();
        enroll_client(&self.pki(), name, &volumes, &self.path(name)).expect("enroll");
        self.path(name)
    }
}

/// Returns the fingerprint of the client's certificate as the server sees it after a handshake in
/// memory.
fn connect(pki: &Path, bundle: &Path) -> Result<String, hrl_tls::rustls::Error> {
    let server_name = ServerName::try_from("localhost").expect("name");
    let config = client_config(bundle).expect("bundle");
    let mut client = ClientConnection::new(config, server_name)?;
    let mut server = ServerConnection::new(server_config(pki, true).expect("certificates"))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok(fingerprint(&server.peer_certificates().expect("a client's certificate")[0]))
}

#[test]
fn an_enrolled_client_is_found_by_its_certificate_until_its_pin_is_removed() {
    let site = Site::new();
    let bundle = site.enroll("agent", &["disk", "other"]);
    let shown = connect(&site.pki(), &bundle).expect("handshake");
    let volumes = vec!["disk".to_owned(), "other".to_owned()];
    let expected = EnrolledClient { name: "agent".into(), volumes };
    assert_eq!(find_client(&site.pki(), &shown).expect("look"), Some(expected));
    for name in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
        assert!(bundle.join(name).exists(), "GnuTLS programs look for {name}");
    }
    std::fs::remove_file(site.path("pki/clients/agent")).expect("remove");
    assert_eq!(find_client(&site.pki(), &shown).expect("look"), None);
}

#[test]
fn an_identity_is_made_only_once_and_with_valid_names() {
    let site = Site::new();
    let error = create_authority(&site.pki(), &[]).expect_err("there is one");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    site.enroll("agent", &["disk"]);
    let error = enroll_client(&site.pki(), "agent", &[], &site.path("b")).expect_err("enrolled");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    for (client, volume) in [("../agent", "disk"), ("other", "../disk")] {
        let error = enroll_client(&site.pki(), client, &[volume.into()], &site.path("c"))
            .expect_err("a name that climbs");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let error = client_config(&site.path("nowhere")).expect_err("no bundle");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn foreign_and_expired_certificates_are_refused_on_either_side() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let (bundle, foreign) = (site.enroll("agent", &["disk"]), elsewhere.enroll("agent", &["disk"]));
    connect(&site.pki(), &foreign).expect_err("another authority's client");
    site.enroll("late", &["disk"]);
    let_client_expire(&site.pki(), "late", &site.path("late")).expect("expire");
    connect(&site.pki(), &site.path("late")).expect_err("an expired client");
    connect(&site.pki(), &bundle).expect("a good one");
    reissue_server(&site.pki(), &["localhost".into()], 2021).expect("reissue");
    connect(&site.pki(), &bundle).expect_err("an expired server");
}
