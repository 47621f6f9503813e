//! Identities: which clients a server admits, and which servers a client trusts.

use std::path::{Path, PathBuf};

use hrl::ErrorKind;
use hrl_tls::rustls::pki_types::pem::PemObject;
use hrl_tls::rustls::pki_types::{CertificateDer, ServerName};
use hrl_tls::rustls::{ClientConnection, ServerConnection};
use hrl_tls::{
    ALL_VOLUMES, CertificateRights, EnrolledClient, Enrollment, Role, client_config,
    create_authority, enroll_client, enroll_without_role, find_client, let_client_expire,
    reissue_server, renew_server, request_client, server_config,
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

/// Returns the client's certificate as the server sees it after a handshake in memory.
fn connect(pki: &Path, bundle: &Path) -> Result<Vec<u8>, hrl_tls::rustls::Error> {
    let server_name = ServerName::try_from("localhost").expect("name");
    let config = client_config(bundle).expect("bundle");
    shake_hands(ClientConnection::new(config, server_name)?, pki)
}

fn shake_hands(
    mut client: ClientConnection,
    pki: &Path,
) -> Result<Vec<u8>, hrl_tls::rustls::Error> {
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
    Ok(server.peer_certificates().expect("a client's certificate")[0].to_vec())
}

#[test]
fn an_enrolled_client_is_found_by_its_certificate_until_its_pin_is_removed() {
    let site = Site::new();
    let bundle = site.enroll("agent", &["disk", "other"]);
    let shown = connect(&site.pki(), &bundle).expect("handshake");
    let volumes = vec!["disk".to_owned(), "other".to_owned()];
    let client = find_client(&site.pki(), &shown).expect("look").expect("enrolled");
    assert_eq!((client.name.as_str(), client.volumes), ("agent", volumes));
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

/// Returns the certificate of a bundle in DER form, as a server sees it.
fn certificate(bundle: &Path) -> Vec<u8> {
    let pem = std::fs::read(bundle.join("client.pem")).expect("certificate");
    CertificateDer::from_pem_slice(&pem).expect("PEM").to_vec()
}

fn found(site: &Site, bundle: &Path) -> Option<EnrolledClient> {
    find_client(&site.pki(), &certificate(bundle)).expect("look")
}

#[test]
fn promise_13_the_role_and_the_volumes_are_in_the_certificate() {
    let site = Site::new();
    assert_eq!(found(&site, &site.enroll("agent", &["disk"])).expect("known").role, Role::Source);
    for role in Role::ALL {
        let name = format!("a-{role}");
        let all = [ALL_VOLUMES.to_owned()];
        let bundle = site.path(&name);
        Enrollment::new(&name, &all).role(role).enroll(&site.pki(), &bundle).expect("enroll");
        let client = found(&site, &bundle).expect("known");
        assert_eq!((client.role, client.has_volume("any")), (role, true));
        assert_eq!(Role::parse(role.name()).expect("name"), role);
    }
    // The file of a client takes volumes away, and adds none.
    let bundle = site.enroll("two", &["disk", "other"]);
    let pin = site.path("pki/clients/two");
    let text = std::fs::read_to_string(&pin).expect("pin");
    let changed = text.replace("volume other", "volume theirs").replace("source", "admin");
    std::fs::write(&pin, changed).expect("pin");
    let client = found(&site, &bundle).expect("known");
    assert_eq!((client.role, client.volumes), (Role::Source, vec!["disk".to_owned()]));
    // Made before there were roles.
    enroll_without_role(&site.pki(), "old", &site.path("old")).expect("enroll");
    let client = found(&site, &site.path("old")).expect("known");
    assert_eq!((client.role, client.volumes), (Role::Source, vec!["disk".to_owned()]));
    assert_eq!(Role::parse("root").expect_err("no role").kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_certificate_is_renewed_and_the_one_before_stays_until_then() {
    let site = Site::new();
    let bundle = site.enroll("agent", &["disk"]);
    let config = client_config(&bundle).expect("bundle");
    let before = certificate(&bundle);
    let shown = || {
        let name = ServerName::try_from("localhost").expect("name");
        let client = ClientConnection::new(config.clone(), name).expect("client");
        shake_hands(client, &site.pki()).expect("handshake")
    };
    assert_eq!(shown(), before);
    let renewal = Enrollment::of_enrolled(&site.pki(), "agent").expect("enrolled").days(30);
    renewal.renew(&site.pki(), &bundle).expect("renew");
    let after = certificate(&bundle);
    assert_ne!(before, after);
    assert_eq!(shown(), after, "a client that runs uses the new one");
    let expires = |der: &[u8]| CertificateRights::of(der).expect("certificate").expires.seconds();
    let days = (expires(&before) - expires(&after)) / 86_400;
    assert!((366..=367).contains(&days), "397 days against 30: {days}");
    for der in [&before, &after] {
        assert!(find_client(&site.pki(), der).expect("look").is_some(), "both are admitted");
    }
    renewal.renew(&site.pki(), &bundle).expect("renew");
    assert_eq!(find_client(&site.pki(), &before).expect("look"), None, "two are");
    let error = Enrollment::of_enrolled(&site.pki(), "nobody").expect_err("not enrolled");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // The server's is replaced below a server that runs.
    renew_server(&site.pki(), &["localhost".into()], 1).expect("renew");
    shown();
    let error = renew_server(&site.pki(), &["localhost".into()], 0).expect_err("no day");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_key_never_leaves_the_machine_that_requests_a_certificate() {
    let site = Site::new();
    let bundle = site.path("machine");
    request_client("machine", &bundle).expect("request");
    let key = std::fs::read(bundle.join("client.key")).expect("key");
    let signed = site.path("signed");
    Enrollment::new("machine", &["disk".to_owned()])
        .request(bundle.join("request.pem"))
        .enroll(&site.pki(), &signed)
        .expect("sign");
    assert!(!signed.join("client.key").exists());
    for name in ["client.pem", "authority.pem"] {
        std::fs::copy(signed.join(name), bundle.join(name)).expect("copy");
    }
    assert_eq!(std::fs::read(bundle.join("client.key")).expect("key"), key);
    connect(&site.pki(), &bundle).expect("handshake");
    assert_eq!(found(&site, &bundle).expect("known").role, Role::Source);
    std::fs::write(bundle.join("request.pem"), b"no request").expect("write");
    let error = Enrollment::new("other", &["disk".to_owned()])
        .request(bundle.join("request.pem"))
        .enroll(&site.pki(), &site.path("b"))
        .expect_err("not a request");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
