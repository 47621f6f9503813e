//! Many volumes of one agent through two gateways into one vault, and one gateway is killed midway.
//! Nothing is lost, and memory and threads of agent and gateways stay within bounds that do not
//! depend on how much is written (promises 4, 6 and 12).

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::replica::{At, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{Clock, Policy, ProtectionOptions, SystemClock};
use hrl_gateway::{CONNECTIONS_MAX, GatewayOptions, RemoteStore};
use hrl_stores::open_url;
use hrl_tls::{create_authority, enroll_client};

const LIMIT: Duration = Duration::from_secs(240);
const DISK_BYTES: u64 = 1 << 20;
const CHILD: &str = "HRL_TEST_MANY_GATEWAY";
const URL: &str = "HRL_TEST_MANY_VAULT";
/// Threads of a protection: tasks, and puts in flight.
const THREADS_PER_VOLUME: u64 = 7 + 4;
/// Memory of a protection, apart from its queue and its disk, which is in memory here.
const VOLUME_BYTES: u64 = 3 << 20;
/// Memory of a process without volumes.
const PROCESS_BYTES: u64 = 96 << 20;

/// The child process: a gateway, until it is killed.
#[test]
fn child_gateway() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let (directory, cache) = directory.split_once(' ').expect("two words");
    let vault = open_url(&std::env::var(URL).expect("vault")).expect("store");
    let gateway = GatewayOptions::new("127.0.0.1:0", Path::new(directory).join("pki"))
        .cache(Path::new(directory).join(cache))
        .start(vault)
        .expect("gateway");
    println!("port {}", gateway.address().port());
    std::io::stdout().flush().expect("flush");
    std::thread::sleep(Duration::from_secs(3600));
}

/// The vault: a URL and environment for the gateways, and a store for the test itself.
struct Target {
    url: String,
    environment: Vec<(String, String)>,
    store: Arc<dyn Store>,
}

impl Target {
    fn local(directory: &Path) -> Self {
        let path = directory.join("vault");
        let store = Arc::new(DirStore::create(&path).expect("store"));
        Self { url: path.to_str().expect("text").into(), environment: Vec::new(), store }
    }
}

/// A gateway in a child process.
struct Gateway {
    child: Child,
    port: u16,
    /// Closing it would end the process.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Gateway {
    fn start(directory: &Path, cache: &str, vault: &Target) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_gateway", "--nocapture"])
            .env(CHILD, format!("{} {cache}", directory.display()))
            .env(URL, &vault.url)
            .envs(vault.environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("port ").and_then(|(_, port)| port.parse().ok()));
        Self { child, port: port.expect("a port"), _output: lines }
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns resident bytes and threads of a process.
fn usage(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("line");
        line.split_whitespace().nth(1).expect("value").parse::<u64>().expect("number")
    };
    (number("VmRSS:") << 10, number("Threads:"))
}

fn check(volumes: u64, directory: &Path, target: &Target, rounds: u64) {
    let clock = SystemClock::default();
    let names: Vec<String> = (0..volumes).map(|number| format!("disk{number}")).collect();
    create_authority(&directory.join("pki"), &["127.0.0.1".into()]).expect("authority");
    enroll_client(&directory.join("pki"), "agent", &names, &directory.join("agent"))
        .expect("enroll");
    let direct = target.store.clone();
    Vault::create(direct.clone(), None, SystemClock::shared()).expect("vault");
    let first = Gateway::start(directory, "cache1", target);
    let second = Gateway::start(directory, "cache2", target);
    let addresses = [&first, &second].map(|gateway| format!("127.0.0.1:{}", gateway.port));
    let remote = Arc::new(RemoteStore::open(&addresses, &directory.join("agent")).expect("client"));
    let vault = Vault::open(remote, None, SystemClock::shared()).expect("vault");
    let policy = Policy {
        segment_interval: Duration::from_millis(200),
        catalog_interval: Duration::from_secs(1),
        crash_point_interval: Duration::ZERO,
        retry_interval_max: Duration::from_secs(1),
        memory_budget_bytes: 1 << 20,
        ..Policy::default()
    };
    let protected: Vec<_> = names
        .iter()
        .map(|name| {
            let device = Arc::new(MemoryDevice::new(DISK_BYTES));
            let state = directory.join("state").join(name);
            let options = ProtectionOptions::new(name, device.clone(), vault.clone(), state);
            (device, options.policy(policy.clone()).open().expect("protect"))
        })
        .collect();
    let mut first = Some(first);
    let (mut agent_most, mut gateway_most, mut longest) = ((0, 0), (0, 0), Duration::ZERO);
    let most =
        |most: &mut (u64, u64), now: (u64, u64)| *most = (most.0.max(now.0), most.1.max(now.1));
    for round in 0..rounds {
        for (number, (_, protection)) in protected.iter().enumerate() {
            let data = vec![(round * 31 + number as u64) as u8 | 1; 4096];
            let offset = (round * 7 + number as u64) % (DISK_BYTES / 4096) * 4096;
            let start = clock.elapsed();
            protection.volume().write(offset, &data, Durability::Cached).expect("write");
            longest = longest.max(clock.elapsed().saturating_sub(start));
        }
        std::thread::sleep(Duration::from_millis(50));
        most(&mut agent_most, usage(std::process::id()));
        most(&mut gateway_most, usage(second.child.id()));
        if round == rounds / 2 {
            first.take().expect("running").kill();
        }
    }
    for (_, protection) in &protected {
        protection.wait_replicated(LIMIT).expect("replicated");
        most(&mut agent_most, usage(std::process::id()));
        most(&mut gateway_most, usage(second.child.id()));
    }
    for (device, protection) in protected {
        let name = protection.info().name.clone();
        protection.stop(LIMIT).expect("stop");
        let replica = Vault::open(direct.clone(), None, SystemClock::shared())
            .and_then(|vault| vault.replica(&name))
            .expect("replica");
        let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
        assert!(content(&view) == content(&*device), "{name}");
    }
    println!(
        "{volumes} volumes: agent {} MiB, {} threads; gateway {} MiB, {} threads; longest write {longest:.1?}",
        agent_most.0 >> 20,
        agent_most.1,
        gateway_most.0 >> 20,
        gateway_most.1,
    );
    let agent_bytes =
        PROCESS_BYTES + volumes * (VOLUME_BYTES + DISK_BYTES + policy.memory_budget_bytes);
    assert!(agent_most.0 < agent_bytes, "agent: {} bytes", agent_most.0);
    assert!(agent_most.1 < 16 + volumes * THREADS_PER_VOLUME, "agent: {} threads", agent_most.1);
    assert!(gateway_most.0 < 2 * PROCESS_BYTES, "gateway: {} bytes", gateway_most.0);
    // A thread for each connection of the client, the threads that forward and accept, and those of
    // the store's client.
    let connections = 2 * CONNECTIONS_MAX as u64;
    assert!(gateway_most.1 < connections + 24, "gateway: {} threads", gateway_most.1);
    assert!(longest < Duration::from_secs(2), "promise 6: {longest:?}");
}

#[test]
fn promises_4_6_and_12_ten_volumes_and_a_killed_gateway() {
    let directory = tempfile::tempdir().expect("directory");
    check(10, directory.path(), &Target::local(directory.path()), 30);
}

/// Uses SeaweedFS if it is installed and the feature `cloud` is on.
#[test]
#[ignore = "long: 100 volumes"]
fn promises_4_6_and_12_a_hundred_volumes_and_a_killed_gateway() {
    let directory = tempfile::tempdir().expect("directory");
    #[cfg(feature = "cloud")]
    if let Some(server) = servers::Server::start(servers::Kind::SeaweedFs) {
        let (url, secrets) = server.url("many", server.port());
        let variable = |name: &str| format!("AWS_{}", name.to_uppercase().replace('-', "_"));
        let environment = secrets.iter().map(|(n, v)| (variable(n), (*v).to_owned())).collect();
        let store = Arc::new(server.store("many", server.port()).expect("store"));
        return check(100, directory.path(), &Target { url, environment, store }, 200);
    }
    check(100, directory.path(), &Target::local(directory.path()), 200);
}

#[cfg(feature = "cloud")]
#[path = "../../cloud/tests/object/servers.rs"]
#[allow(dead_code, reason = "one kind of server is enough here")]
mod servers;
