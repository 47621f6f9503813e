//! Real servers of object stores, on free ports and each with its own directory, killed when
//! dropped.
//!
//! `make servers` installs them into `$HRL_SERVERS`, by default `~/.cache/hrl-servers`. Each runs
//! under a shell that waits on a pipe from the test. When the test ends for whatever reason, the
//! pipe closes and the shell kills the server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hrl_cloud::{ObjectStore, ObjectStoreOptions};

pub const BUCKET: &str = "vault";
/// Longest wait for a server to answer.
const START_TRIES: u32 = 600;
/// Account and key of every Azurite.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Starts moto with puts one after the other. By itself it looks for an object and then puts it, so
/// that of two that race for a name both may succeed, and a new vault is refused.
const MOTO: &str = "
import threading
from moto import server
from moto.s3.responses import S3Response
put, alone = S3Response.put_object, threading.Lock()
def put_alone(self):
    with alone:
        return put(self)
S3Response.put_object = put_alone
server.main()";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Azure Blob Storage by its vendor's emulator.
    Azurite,
    /// S3, on disk.
    SeaweedFs,
    /// S3, in memory.
    Moto,
    /// S3 that ignores the condition of a put.
    S3rver,
}

pub struct Server {
    kind: Kind,
    ports: Vec<u16>,
    directory: tempfile::TempDir,
    shell: Option<Child>,
}

impl Server {
    /// Starts a server with an empty bucket; `None`, and a message, if it is not installed.
    pub fn start(kind: Kind) -> Option<Self> {
        if !program(kind).exists() {
            let path = program(kind);
            assert!(
                std::env::var_os("HRL_REQUIRE_SERVERS").is_none(),
                "{} is not installed",
                path.display()
            );
            eprintln!("skipped: {} is not installed; run `make servers`", path.display());
            return None;
        }
        let directory = tempfile::tempdir().expect("directory");
        let mut server = Self { kind, ports: free_ports(8), directory, shell: None };
        server.launch();
        server.make_bucket();
        Some(server)
    }

    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Kills the server without warning.
    pub fn kill(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().expect("the shell ends");
        }
    }

    /// Starts the server again on its data.
    pub fn launch(&mut self) {
        let root = self.directory.path();
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" </dev/null & pid=$!; read _; kill -9 $pid; wait $pid", "sh"]);
        match self.kind {
            Kind::Moto => shell.arg(python()).args(["-c", MOTO]),
            kind => shell.arg(program(kind)),
        };
        shell.args(self.arguments()).current_dir(root);
        let log = std::fs::File::create(root.join("server.log")).expect("log");
        shell.stdin(Stdio::piped()).stdout(log.try_clone().expect("log")).stderr(log);
        self.shell = Some(shell.spawn().expect("a shell"));
        for _ in 0..START_TRIES {
            if request(self.port(), "GET", "/").is_some_and(|status| status != 503) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(root.join("server.log")).unwrap_or_default();
        panic!("{:?} did not start: {log}", self.kind);
    }

    /// Returns a store in the server's bucket; `port` may be that of a proxy before it.
    pub fn store(&self, prefix: &str, port: u16) -> hrl::Result<ObjectStore> {
        self.store_with(prefix, port, ObjectStoreOptions::default())
    }

    pub fn store_with(
        &self,
        prefix: &str,
        port: u16,
        options: ObjectStoreOptions,
    ) -> hrl::Result<ObjectStore> {
        let (url, secrets) = self.url(prefix, port);
        let options = secrets
            .iter()
            .try_fold(options, |options, (name, value)| options.set(name, value))
            .expect("options");
        ObjectStore::open(&url, options)
    }

    pub fn url(&self, prefix: &str, port: u16) -> (String, Vec<(&'static str, &'static str)>) {
        if self.kind == Kind::Azurite {
            let query = format!("endpoint=http://127.0.0.1:{port}/{ACCOUNT}&account={ACCOUNT}");
            let url = format!("az://{BUCKET}/{prefix}?{query}&allow-http=true");
            return (url, vec![("account-key", ACCOUNT_KEY)]);
        }
        let url = format!(
            "s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}&allow-http=true&region=us-east-1"
        );
        let (id, secret) =
            if self.kind == Kind::S3rver { ("S3RVER", "S3RVER") } else { ("test", "testsecret") };
        (url, vec![("access-key-id", id), ("secret-access-key", secret)])
    }

    /// Runs Python with `s3`, a client of the server by boto3, and returns what it printed.
    pub fn boto(&self, script: &str) -> String {
        let head = format!(
            "import boto3, datetime\ns3 = boto3.client('s3', endpoint_url='http://127.0.0.1:{}', region_name='us-east-1', \
             aws_access_key_id='test', aws_secret_access_key='testsecret')\n",
            self.port()
        );
        let done = Command::new(python()).args(["-c", &(head + script)]).output().expect("python");
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn arguments(&self) -> Vec<String> {
        let port = |at: usize| self.ports[at].to_string();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        match self.kind {
            Kind::Azurite => words(&format!(
                "--blobHost 127.0.0.1 --blobPort {} --location data --skipApiVersionCheck --silent",
                port(0)
            )),
            Kind::Moto => words(&format!("-H 127.0.0.1 -p {}", port(0))),
            Kind::S3rver => words(&format!(
                "-a 127.0.0.1 -p {} -d data --configure-bucket {BUCKET} -s",
                port(0)
            )),
            Kind::SeaweedFs => {
                let config = r#"{"identities":[{"name":"t","credentials":[{"accessKey":"test",
                    "secretKey":"testsecret"}],"actions":["Admin","Read","Write","List","Tagging"]}]}"#;
                let root = self.directory.path();
                std::fs::write(root.join("s3.json"), config).expect("configuration");
                std::fs::create_dir_all(root.join("data")).expect("directory");
                // Options that are not used are off: they would listen on ports that all such
                // servers share.
                words(&format!(
                    "server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir=data -filer -s3 -s3.config=s3.json
                     -s3.port.iceberg=0 -s3.port.lance=0 -master.volumeSizeLimitMB=64 -volume.max=20
                     -s3.port={} -s3.port.grpc={} -filer.port={} -filer.port.grpc={}
                     -master.port={} -master.port.grpc={} -volume.port={} -volume.port.grpc={}",
                    port(0), port(1), port(2), port(3), port(4), port(5), port(6), port(7)
                ))
            }
        }
    }

    fn make_bucket(&self) {
        let status = match self.kind {
            Kind::Azurite => return self.make_container(),
            Kind::S3rver => return,
            Kind::Moto => request(self.port(), "PUT", &format!("/{BUCKET}")),
            Kind::SeaweedFs => request(self.ports[2], "POST", &format!("/buckets/{BUCKET}/")),
        };
        assert!(status.is_some_and(|status| (200..300).contains(&status)), "bucket: {status:?}");
    }

    /// Containers need a signed request; node, which runs the server, can compute the signature.
    fn make_container(&self) {
        let script = format!(
            "const [date, version, path] = [new Date().toUTCString(), '2021-08-06', '/{ACCOUNT}/{BUCKET}'];
             const text = 'PUT' + '\\n'.repeat(12) + `x-ms-date:${{date}}\\nx-ms-version:${{version}}\\n`
               + '/{ACCOUNT}' + path + '\\nrestype:container';
             const key = Buffer.from('{ACCOUNT_KEY}', 'base64');
             const sign = require('crypto').createHmac('sha256', key).update(text).digest('base64');
             const headers = {{'x-ms-date': date, 'x-ms-version': version, 'content-length': 0,
               authorization: 'SharedKey {ACCOUNT}:' + sign}};
             require('http').request({{port: {}, method: 'PUT', path: path + '?restype=container', headers}},
               answer => process.exit(answer.statusCode == 201 ? 0 : 1)).end();",
            self.port()
        );
        let status = Command::new("node").args(["-e", &script]).status().expect("node");
        assert!(status.success(), "the container is made");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The Python that moto is installed for.
fn python() -> PathBuf {
    program(Kind::Moto).with_file_name("python")
}

fn program(kind: Kind) -> PathBuf {
    let root = std::env::var_os("HRL_SERVERS").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/hrl-servers"),
        PathBuf::from,
    );
    root.join(match kind {
        Kind::Azurite => "node/node_modules/.bin/azurite-blob",
        Kind::S3rver => "node/node_modules/.bin/s3rver",
        Kind::SeaweedFs => "py/bin/weed",
        Kind::Moto => "py/bin/moto_server",
    })
}

/// Returns free ports. All stay bound until the last is found, so that they differ.
pub fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|socket| socket.local_addr().expect("address").port()).collect()
}

/// Returns the status of a request without a body; `None` if there was no answer.
fn request(port: u16, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let text = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
