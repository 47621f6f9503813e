//! Plans as text: what they mean, and that each error identifies the key and its line.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use hrl::replica::At;
use hrl::{ErrorKind, Sequence};

const SHOP: &str = r#"
name = "shop"
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
volume = "db-root"
state = "/var/lib/hrl/failover/db"
boot = { command = "start-vm db", ready = ["pg_isready"], limit = "5m" }
verify = "true"

[[group]]
name = "web"
[[group.member]]
volume = "web-root"
at = "1234"
[[group.after]]
manual = "Point www at the recovery site."
limit = "2h"

[[group]]
name = "mail"
depends_on = []
[[group.member]]
volume = "mail"
on_failure = "continue"
"#;

fn parse(text: &str) -> hrl::Result<Plan> {
    Plan::parse(text, "shop.toml")
}

#[test]
fn a_plan_lists_what_comes_up_in_which_order() {
    let plan = parse(SHOP).expect("parsed");
    assert_eq!((plan.name(), plan.commit()), ("shop", Commit::Automatic));
    assert_eq!(plan.rpo_target(), Some(Duration::from_secs(900)));
    let [database, web, mail] = plan.groups() else { panic!("three groups") };
    assert_eq!(
        (&database.depends_on[..], &web.depends_on[..], &mail.depends_on[..]),
        (&[][..], &[0][..], &[][..])
    );
    let fence = &database.before_actions[0];
    assert_eq!(fence.on_failure, OnFailure::Retry { tries: 5, pause: Duration::from_secs(5) });
    assert_eq!((fence.only, fence.volume.as_deref()), (Some(Only::Real), Some("db-root")));
    assert_eq!(fence.environment["SITE"], "old");
    assert_eq!(database.members[0].at, PlanAt::NewestGroup(Some("shop".into())));
    let sequence = Box::new(At::Sequence(Sequence(1234)));
    assert_eq!(web.members[0].at, PlanAt::At(At::LabelOr("1234".into(), sequence)));
    assert_eq!(web.after_actions[0].task, Task::Manual("Point www at the recovery site.".into()));
    let ids = |mode| plan.steps(mode).into_iter().map(|step| step.id).collect::<Vec<_>>();
    let test = [
        "database/db-root/start",
        "database/db-root/boot",
        "database/db-root/verify",
        "web/web-root/start",
    ];
    assert_eq!(ids(RunMode::Test)[..4], test);
    assert_eq!(ids(RunMode::Real)[0], "database/before/fence");
    assert_eq!(ids(RunMode::Real)[5..7], ["web/after/1", "mail/mail/start"]);
    assert_eq!(ids(RunMode::Test)[6], "database/db-root/clean-up");
}

#[test]
fn an_error_names_the_key_the_line_and_what_was_expected_and_found() {
    let cases: [(&str, &str, &[&str]); 16] = [
        (
            "limit = \"60s\"",
            "limit = \"soon\"",
            &["line 12", "group[0].before[0].limit", "\"30s\"", "found \"soon\""],
        ),
        ("tries = 5", "tries = 0", &["line 14", "from 1 to 100", "found 0"]),
        ("on_failure = \"retry\"", "on_failure = \"stop\"", &["tries", "retry"]),
        (
            "on_failure = \"retry\"",
            "on_failure = \"ignore\"",
            &["line 13", "stop, continue or retry", "ignore"],
        ),
        ("only = \"real\"", "only = 7", &["line 15", "only", "found 7"]),
        ("only = \"real\"", "onyl = \"real\"", &["line 15", "onyl", "only"]),
        ("volume = \"web-root\"", "volume = \"db-root\"", &["line 26", "no other member"]),
        ("volume = \"web-root\"", "", &["line 25", "group[1].member[0].volume", "found nothing"]),
        ("name = \"web\"", "name = \"database\"", &["line 24", "no other group"]),
        ("name = \"web\"", "name = \"we b\"", &["line 24", "A-Z"]),
        (
            "depends_on = []",
            "depends_on = [\"db\"]",
            &["line 34", "[database, web, mail]", "found \"db\""],
        ),
        (
            "command = [\"fence-site\", \"old\"]",
            "command = []",
            &["line 11", "an array of program"],
        ),
        ("command = [\"fence-site\", \"old\"]", "", &["either command or manual", "neither"]),
        ("SITE = ", "HRL_RUN = ", &["line 16", "HRL_"]),
        ("at = \"1234\"", "at = \"\"", &["line 27", "newest-group:NAME"]),
        ("[[group.after]]", "[group.after", &["shop.toml, line 28"]),
    ];
    for (from, to, words) in cases {
        assert!(SHOP.contains(from), "{from}");
        let error = parse(&SHOP.replacen(from, to, 1)).expect_err(to);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        for word in words {
            assert!(error.to_string().contains(word), "{word} in: {error}");
        }
    }
}

#[test]
fn a_cycle_is_reported_with_its_groups() {
    let text = "name = \"p\"\n[[group]]\nname = \"first\"\n[[group]]\nname = \"a\"\ndepends_on = [\"c\"]\n\
                [[group]]\nname = \"b\"\ndepends_on = [\"a\"]\n[[group]]\nname = \"c\"\n";
    let error = parse(text).expect_err("a cycle").to_string();
    assert!(error.contains("a after c after b after a"), "{error}");
    assert!(error.contains("line 4"), "{error}");
}

/// `core/docs/plans.md` lists the keys.
#[test]
fn the_document_lists_every_key() {
    let (text, _) =
        include_str!("../../../docs/plans.md").split_once("## The report").expect("a section");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut listed: Vec<_> = rows.flat_map(|keys| keys.split('`').step_by(2)).collect();
    listed.retain(|key| !key.is_empty());
    listed.extend(["ready", "stop"]);
    let source = include_str!("parse.rs");
    for key in &listed {
        assert!(source.contains(&format!("\"{key}\"")), "{key} is no key");
    }
    let places = ["\nname = \"shop\"", "[[group]]", "[[group.before]]", "[[group.member]]"];
    for (at, place) in places.iter().enumerate() {
        let line =
            if at == 0 { "\nx = 1\nname = \"shop\"".to_owned() } else { format!("{place}\nx = 1") };
        let error = parse(&SHOP.replacen(place, &line, 1)).expect_err("unknown").to_string();
        let keys = error.split("the keys ").nth(1).and_then(|rest| rest.split(", found").next());
        for key in keys.expect("the keys").split(", ") {
            assert!(listed.contains(&key), "{key} is not in the document");
        }
    }
}

#[test]
fn an_error_at_a_limit_names_the_limit() {
    let groups: String =
        (0..=GROUPS_MAX).map(|at| format!("[[group]]\nname = \"g{at}\"\n")).collect();
    let error = parse(&format!("name = \"p\"\n{groups}")).expect_err("too many").to_string();
    assert!(error.contains("at most 64 groups"), "{error}");
    let error = parse(&"#".repeat(2 << 20)).expect_err("too long").to_string();
    assert!(error.contains("1048576 bytes"), "{error}");
    let error = parse(&format!("name = {}", "[".repeat(100_000))).expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

proptest! {
    /// Promise 11: any text is a plan or an error.
    #[test]
    fn promise_11_any_text_is_a_plan_or_an_error(text in "[\\[\\]{}=\",a-z0-9\n#. -]{0,200}") {
        let _ = parse(&text);
    }

    /// Promise 11: a plan with lost, doubled and exchanged parts is a plan or an error.
    #[test]
    fn promise_11_a_damaged_plan_is_a_plan_or_an_error(
        edits in prop::collection::vec((0_usize..900, 0_usize..900, 0_usize..40), 1..6),
    ) {
        let mut text = SHOP.as_bytes().to_vec();
        for (from, to, length) in edits {
            let from = from % text.len();
            let piece: Vec<u8> = text[from..(from + length).min(text.len())].to_vec();
            let to = to % text.len();
            let end = (to + length / 2).min(text.len());
            text.splice(to..end, piece);
        }
        if let Ok(text) = std::str::from_utf8(&text) {
            if let Err(error) = parse(text) {
                prop_assert!(error.to_string().contains("shop.toml"), "{}", error);
            }
        }
    }
}
