//! Seeds of targets that drive a machine by steps, or decode messages, records and small texts.

use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{Binding, VolumeKey, WrappingKey};
use hrl::replica::{InstantBase, InstantDisk, InstantOptions, TargetContent};
use hrl::vault::PackedStore;
use hrl::{Result, Sequence, SystemClock, Timestamp, VolumeId};
use hrl_fuzz::{Memory, scratch};
use hrl_group::testing::GroupStage;
use hrl_plan::{Member, Plan, PlanHost, RunMode, RunOptions, StartRequest, Started, run};

use crate::{Vaulted, save};

pub fn all() {
    packs();
    groups();
    gateways();
    plans();
    logs_of_writes();
    texts();
    instants();
    c_calls();
    catalogs();
}

/// Prepends the byte that selects what follows.
fn steps<const N: usize>(kind: u8, steps: &[[u8; N]]) -> Vec<u8> {
    [&[kind], steps.concat().as_slice()].concat()
}

fn after(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

fn packs() {
    let store = Arc::new(Memory::default());
    let segment = |n: u64| {
        let name = format!("volumes/v/segments/e00000001-{n:016x}-{:016x}-aa.hrl", n + 9);
        (name, vec![n as u8; 9])
    };
    let objects: Vec<_> = [1, 11, 31].map(segment).to_vec();
    PackedStore::over(store.clone()).put_packed("v", &objects).expect("put");
    let pack = store.all().into_values().next().expect("one");
    save("pack", "three", &after(0, &pack));
    let calls = [
        [1, 0, 7, 0],
        [0, 0, 3, 0],
        [4, 0, 1, 0],
        [5, 0, 2, 0x73],
        [6, 0, 0, 2],
        [2, 0, 1, 0],
        [1, 0, 7, 0],
        [0x85, 0, 1, 0x10],
        [7, 0, 0, 0],
        [3, 0, 2, 0],
    ];
    save("pack", "calls", &steps(1, &calls));
}

fn groups() {
    let mut stage = GroupStage::new(3, Duration::from_millis(50));
    stage.begin(true);
    let mut stream = Vec::new();
    for _ in 0..5 {
        for (member, frame) in stage.take_sent() {
            let answer = stage.deliver_to_member(member, &frame).expect("a member");
            for frame in [Some(frame), answer].into_iter().flatten() {
                stream.extend_from_slice(&(frame.len() as u32).to_le_bytes());
                stream.extend_from_slice(&frame);
                if GroupStage::kind(&frame) == "another" {
                    let _ = stage.deliver_to_round(member, &frame);
                }
            }
        }
    }
    save("group_wire", "round", &after(0, &stream));
    let deliver =
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 2, 0, 0], [3, 0, 0, 0], [3, 1, 0, 0], [3, 2, 0, 0]];
    let mut round = vec![[0, 0, 0, 0], [6, 0, 0, 0], [6, 1, 0, 0]];
    for _ in 0..3 {
        round.extend(deliver);
        round.push([6, 2, 0, 0]);
    }
    save("group_wire", "point", &steps(3, &round));
    let mut busy = vec![[0, 0, 0, 0]];
    for step in [deliver, deliver, deliver].concat() {
        busy.extend([step, [6, 0, 0, 0], [6, 1, 0, 0], [6, 2, 0, 0]]);
    }
    save("group_wire", "writes-between", &steps(3, &busy));
    save("group_wire", "long-budget", &steps(7, &[[10, 0, 0, 63], [10, 0, 3, 0], [5, 0, 255, 0]]));
    let mut forged = vec![[10, 0, 0, 255], [10, 0, 3, 0], [5, 0, 255, 0], [10, 0, 3, 0]];
    forged.extend([[0, 0, 1, 0], [11, 1, 1, 1], [9, 1, 0, 0], [8, 2, 0, 0], [10, 1, 4, 1]]);
    save("group_wire", "forged", &steps(3, &forged));
}

fn gateways() {
    let requests = "GET /v1/list?prefix=volumes/v/ HTTP/1.1\r\nhost: gateway\r\n\r\n\
        PUT /v1/objects/volumes/v/volume HTTP/1.1\r\nif-none-match: *\r\ncontent-length: 4\r\n\r\nbody\
        GET /v1/objects/volumes/v/volume HTTP/1.1\r\nrange: bytes=0-3\r\n\r\n\
        GET /v1/objects/volumes/v/../other/volume HTTP/1.1\r\nrange: bytes=0-3\r\n\r\n\
        GET /v1/list?prefix=volumes/v/../other/ HTTP/1.1\r\n\r\n\
        POST /v1/delete HTTP/1.1\r\ncontent-length: 16\r\n\r\nvolumes/v/volume\
        GET /metrics HTTP/1.1\r\nconnection: close\r\n\r\n";
    save("gateway_wire", "requests", &after(0, requests.as_bytes()));
    save("gateway_wire", "requests-cached", &after(4, requests.as_bytes()));
    save(
        "gateway_wire",
        "made-requests",
        &after(1, &[1, 0, 2, 1, 0, 3, 9, 9, 9, 0, 1, 5, 0, 0, 0]),
    );
    let list = "5 volumes/v/segments/e00000001-a\n7 volumes/v/../x\n";
    let answers = [
        ("list", "200 OK", list, ""),
        ("bytes", "206 Partial Content", "sevenby", ""),
        ("created", "201 Created", "", "hrl-cache: 00112233445566778899aabbccddeeff\r\n"),
        ("refused", "507 Insufficient Storage", "no room", "hrl-error: full\r\n"),
    ];
    for (name, status, body, headers) in answers {
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
        save("gateway_wire", name, &after(2, answer.as_bytes()));
    }
    let calls = [
        [0, 1, 0, 0],
        [0, 3, 0, 0],
        [0, 10, 20, 0],
        [0, 10, 21, 0],
        [2, 3, 5, 9],
        [3, 1, 0, 0],
        [4, 0, 0, 0],
        [4, 0, 2, 0],
        [5, 1, 0, 0],
        [0, 1, 0, 0],
        [6, 0, 0xff, 0xff],
        [7, 0, 0, 0],
        [7, 0, 4, 1],
        [7, 0, 5, 0],
    ];
    save("gateway_wire", "calls", &steps(3, &calls));
    save("gateway_wire", "calls-cached", &steps(7, &calls));
}

const PLAN: &str = r#"name = "shop"
at = "newest-group:shop"
commit = "automatic"
rpo_target = "15m"
[[group]]
name = "database"
[[group.before]]
name = "fence"
command = ["fence-site", "old"]
limit = "60s"
on_failure = "retry"
tries = 5
only = "real"
env = { SITE = "old" }
[[group.member]]
volume = "v0"
state = "/var/lib/hrl/failover/db"
boot = { command = "start-vm db", ready = ["pg_isready"], limit = "5m" }
verify = "true"
[[group]]
name = "web"
[[group.member]]
volume = "v1"
at = "label:first"
[[group.after]]
manual = "Point www at the recovery site."
limit = "2h"
[[group]]
name = "mail"
depends_on = []
[[group.member]]
volume = "v2"
at = "2"
on_failure = "continue"
"#;

struct Nothing;

impl PlanHost for Nothing {
    fn start(&self, member: &Member, _: &StartRequest<'_>) -> Result<Started> {
        let (sequence, point_time) = (Sequence(2), Timestamp(2));
        Ok(Started { uri: format!("nbd://{}", member.volume), point: None, sequence, point_time })
    }

    fn commit(&self, _: &Member, _: &StartRequest<'_>) -> Result<()> {
        Ok(())
    }

    fn clean_up(&self, _: &Member, _: &StartRequest<'_>) -> Result<()> {
        Ok(())
    }
}

fn plans() {
    save("plan", "shop", &after(0, PLAN.as_bytes()));
    let Vaulted { store, vault, .. } = Vaulted::with_a_mark();
    let text = "name = \"p\"\n[[group]]\nname = \"g\"\n[[group.member]]\nvolume = \"v\"\n";
    let plan = Plan::parse(text, "plan").expect("a plan");
    let options = RunOptions {
        run: Some("r".into()),
        mode: RunMode::Real,
        commit: true,
        ..RunOptions::default()
    };
    run(&plan, &vault, &Nothing, &options).expect("a run");
    let mut records = vec![1];
    for (name, content) in store.all() {
        if name.starts_with("plans/r/0") {
            records.extend_from_slice(&(content.len() as u16).to_le_bytes());
            records.extend_from_slice(&content);
        }
    }
    save("plan", "records", &records);
    save("plan", "run", &[2, 1, 130, 0, 0]);
    save("plan", "run-cut-off", &[2, 5, 4, 0, 0, 70, 0, 0, 9, 0x11, 0, 200, 0, 0x22]);
    save("plan", "test-cut-off", &[2, 0, 7, 0, 0, 75, 0, 0x44, 3, 0, 0]);
}

/// Entries as `targets/log_writes.rs` reads them: first sector, sectors, flags, text, and what
/// fills a write.
fn logs_of_writes() {
    let mut log = 0x006a_7366_7773_6872_u64.to_le_bytes().to_vec();
    log.extend_from_slice(&1_u64.to_le_bytes());
    let entries: [(u64, u64, u64, &str, Option<u8>); 6] = [
        (2, 1, 16, "", Some(7)),
        (0, 0, 1, "", Some(0)),
        (5, 3, 4, "", None),
        (1, 2, 3, "", Some(9)),
        (0, 0, 8, "mkfs\n", None),
        (0, 0, 8, "dm-log-writes-end", None),
    ];
    log.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    log.extend_from_slice(&512_u32.to_le_bytes());
    let superblock = log.clone();
    for (first, count, flags, text, fill) in entries {
        for word in [first, count, flags, text.len() as u64] {
            log.extend_from_slice(&word.to_le_bytes());
        }
        log.push(text.len() as u8);
        log.extend_from_slice(text.as_bytes());
        log.extend(fill);
    }
    save("log_writes", "kernel", &after(1, &log));
    let mut whole = superblock;
    whole[16] = 1;
    whole.resize(512, 0);
    whole.extend([2_u64, 1, 16, 0].into_iter().flat_map(u64::to_le_bytes));
    whole.resize(1024, 0);
    whole.resize(1536, 7);
    save("log_writes", "whole", &after(0, &whole));
}

fn texts() {
    let id = "00112233445566778899aabbccddeeff";
    let state = format!(
        "hrl state 1\nvolume=v\nvolume-id={id}\nsource={id}\nhost=alpha\nsince=2026-11-21T09:30:00Z\n"
    );
    let failover = format!(
        "hrl failover 1\nfailover={id}\nepoch=2\nat=17\nat-time=5\npoint=none\nhome=false\ncut=true\n\
         source={id}\nhost=beta\nsince=9\n"
    );
    let follow = "hrl follow 1\nepoch=2\nat=17\neverywhere=\n0 4096\n8192 512\nend\n";
    let clock = SystemClock::shared();
    let wrapping = WrappingKey::from_bytes([5; 32]);
    let to = Binding { volume: VolumeId([1; 16]), properties: b"v" };
    let wrapped = wrapping.wrap(&VolumeKey::from_bytes([3; 32]), &to, &*clock);
    let applications = "fs:/srv/data?limit_ms=500\nscript:/usr/bin/freeze\npostgresql:/run/pg\nredis:/run/r.sock\n\
        qemu-ga:/run/ga.sock\nsqlite:/srv/a%3Fb.db";
    let seeds: [(&str, &[u8]); 11] = [
        ("state", state.as_bytes()),
        ("failover", failover.as_bytes()),
        ("follow", follow.as_bytes()),
        ("duration", b"1.5 min"),
        ("watchdog", b"failed unavailable\\nit is\\\\gone"),
        ("redis", b"*2\r\n$10\r\nappendonly\r\n*1\r\n:5\r\n"),
        ("key", b" 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"),
        ("wrapped", &wrapped),
        ("applications", applications.as_bytes()),
        ("retention", b"2h all; 1d every 10m; 30d daily; bytes 100G; grace 1h"),
        ("bandwidth", b"10M; 09:00-17:00 1M"),
    ];
    for (kind, (name, bytes)) in (0..).zip(seeds) {
        save("state", name, &after(kind.min(9), bytes));
    }
}

fn instants() {
    let path = scratch("seeds").join("presence");
    let size = 15 * 4096 + 512;
    let base =
        InstantBase::device(Arc::new(MemoryDevice::new(size)), VolumeId([3; 16]), Sequence(7));
    let target = Arc::new(MemoryDevice::new(size));
    let options = InstantOptions::default();
    let disk = InstantDisk::over(base, target, TargetContent::Unknown, &path, options);
    let disk = disk.expect("a disk");
    for offset in [4096, 3 * 4096 + 100, size - 5] {
        disk.write(offset, &[1; 5], Durability::Durable).expect("write");
    }
    let log = std::fs::read(&path).expect("a log");
    save("instant", "three-frames", &after(0, &log[64..]));
    let calls = [
        [0, 1, 0, 20],
        [0x80, 20, 0, 41],
        [5, 0, 0, 0],
        [3, 100, 0, 200],
        [6, 0, 0, 0],
        [9, 1, 0, 255],
        [7, 3, 4, 0],
        [4, 60, 0, 99],
        [0x87, 1, 1, 0],
        [6, 3, 0, 0],
        [8, 0, 0, 0],
        [0, 2, 2, 2],
        [7, 9, 9, 0],
    ];
    save("instant", "calls", &steps(1, &calls));
    save("instant", "calls-fresh", &steps(3, &calls));
}

fn c_calls() {
    // Devices in slots 0 to 2, an overlay of two of them in 3, writes, reads, a look, frees,
    // buffers, and a life.
    let calls: [&[u8]; 12] = [
        &[0, 0, 0],
        &[0, 1, 1],
        &[3, 2, 0],
        &[4, 0, 0, 0, 4, 100, 0, 0, 0x42],
        &[2, 3, 0, 1],
        &[4, 3, 0, 0, 8, 0, 2, 1, 0x43],
        &[7, 3, 0, 0, 4, 0, 8],
        &[11, 2, 0, 0, 0, 0, 1],
        &[4, 2, 0, 10, 0, 10, 0, 1, 0x44],
        &[12, 0],
        &[13, 0, 100, 0, 2],
        &[15, 5, 0, 2, 0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 0, 4],
    ];
    save("c_api", "all", &calls.concat());
    save("c_api", "life", &[15, 31, 1, 31, 0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 0, 4]);
    save("c_api", "own-disk", &calls[2..].concat());
}

fn catalogs() {
    for (name, base) in [("from-the-start", 0), ("to-a-whole-state", 1)] {
        // Two segments with a mark and a commitment, pin, division inside, late segment, steps,
        // drop.
        let edits: [&[u8]; 9] = [
            &[0, 1, 1, 2, 0x0f, 9, 6, 9, 1, 2],
            &[0, 1, 1, 1, 0x06, 9, 2, 3],
            &[1, 5, 3, 1, 1, 5],
            &[2, 10, 3, 0, 1, 0x11],
            &[1, 13, 3, 1, 1, 0x0f, 5],
            &[1, 15, 3, 7, 1],
            &[1, 15, 3, 2, 2],
            &[1, 4, 3, 0, 0x30],
            &[1, 14, 3, 2],
        ];
        save("catalog_edits", name, &after(base, &edits.concat()));
    }
}
