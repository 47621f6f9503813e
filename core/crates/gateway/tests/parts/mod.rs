//! A site with an authority, clients in all roles, a vault and gateways.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::store::{DirStore, Store, get_all};
use hrl_audit::AuditLog;
use hrl_gateway::{Gateway, GatewayOptions, RemoteStore};
use hrl_tls::rustls::pki_types::ServerName;
use hrl_tls::rustls::{ClientConnection, StreamOwned};
use hrl_tls::{Enrollment, Role, client_config, create_authority};

pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Site {
    directory: tempfile::TempDir,
    pub lines: Arc<Mutex<Vec<String>>>,
}

/// A connection of a client that says what it likes.
pub type Raw = StreamOwned<ClientConnection, TcpStream>;

impl Site {
    /// A client of each role, named like it, for the volume `disk`.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let site = Self { directory, lines: Arc::default() };
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        create_authority(&site.path("pki"), &hosts).expect("authority");
        for role in Role::ALL {
            site.enroll(role.name(), role, "disk");
        }
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn enroll(&self, name: &str, role: Role, volume: &str) {
        Enrollment::new(name, &[volume.to_owned()])
            .role(role)
            .enroll(&self.path("pki"), &self.path(name))
            .expect("enroll");
    }

    pub fn vault(&self) -> Arc<DirStore> {
        Arc::new(DirStore::create(&self.path("vault")).expect("store"))
    }

    pub fn gateway(&self, change: impl Fn(GatewayOptions) -> GatewayOptions) -> Gateway {
        let lines = self.lines.clone();
        let options = GatewayOptions::new("127.0.0.1:0", self.path("pki"))
            .on_refused(Arc::new(move |line| lines.lock().expect("lock").push(line.to_owned())));
        change(options).start(self.vault()).expect("gateway")
    }

    pub fn client(&self, name: &str, gateway: &Gateway) -> RemoteStore {
        RemoteStore::open(&[gateway.address().to_string()], &self.path(name)).expect("client")
    }

    /// Connects with a client's certificate.
    pub fn connect(&self, name: &str, gateway: &Gateway) -> Raw {
        let config = client_config(&self.path(name)).expect("bundle");
        let server = ServerName::try_from("localhost").expect("name");
        let socket = TcpStream::connect(gateway.address()).expect("connect");
        socket.set_read_timeout(Some(LIMIT)).expect("limit");
        StreamOwned::new(ClientConnection::new(config, server).expect("client"), socket)
    }

    /// Sends a request as a program like curl does, and returns the status.
    pub fn ask(
        &self,
        name: &str,
        gateway: &Gateway,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> u16 {
        let mut stream = self.connect(name, gateway);
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nhost: x\r\nif-none-match: *\r\nrange: bytes=0-0\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("request");
        stream.write_all(body).expect("body");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// All objects of the vault but the audit log.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let vault = self.vault();
        let names = vault.list("").expect("list").into_iter().map(|info| info.name);
        let names = names.filter(|name| !name.starts_with("audit/"));
        names.map(|name| (name.clone(), get_all(&*vault, &name, 1 << 30).expect("get"))).collect()
    }

    pub fn audit(&self) -> AuditLog {
        let log = AuditLog::read(&*self.vault()).expect("log");
        assert!(log.is_sound(), "{:?}", log.findings);
        log
    }
}

/// Waits up to a limit for a condition.
pub fn within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let tries = limit.as_millis() / 50;
    (0..tries).any(|_| {
        let holds = condition();
        if !holds {
            std::thread::sleep(Duration::from_millis(50));
        }
        holds
    })
}
