//! What a client may do with which object.
//!
//! | role | reads | adds | deletes |
//! |---|---|---|---|
//! | reader | all | nothing | nothing |
//! | source | all | segments, catalog versions; record and keys of a new volume | nothing |
//! | maintainer | all | what a source adds, legal holds, and a mirror's gates | segments, packs, catalog versions, gates |
//! | admin | all | all | all |
//!
//! "All" is what lies below the volumes of the client. Everybody may read the vault's marker. A
//! client of all volumes reads the audit log, unless it is a source. No client writes to it. Nobody
//! but an `admin` deletes what a legal hold keeps.

use std::collections::BTreeSet;

use hrl::store::{Store, check_name};
use hrl::vault::{LegalHold, layout};
use hrl::{Error, ErrorKind, Result};
use hrl_tls::{EnrolledClient, Role};

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Delete,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// A part of a volume, by the name of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its record.
    Record,
    /// A wrapped key.
    Key,
    /// The marker of a shredded volume.
    Shredded,
    Version,
    Gate,
    Hold,
    Segment,
    Pack,
    Other,
}

/// Returns the part of a volume that an object is.
pub(crate) fn part_of(volume: &str, object: &str) -> Part {
    let catalog = layout::catalog_prefix(volume);
    if object == layout::volume_record(volume) {
        Part::Record
    } else if object == layout::shredded(volume) {
        Part::Shredded
    } else if object.starts_with(&layout::keys_prefix(volume)) {
        Part::Key
    } else if version_number(&catalog, object).is_some() {
        Part::Version
    } else if object.starts_with(&catalog) {
        Part::Gate
    } else if object.starts_with(&layout::holds_prefix(volume)) {
        Part::Hold
    } else if object.starts_with(&layout::segments_prefix(volume)) {
        Part::Segment
    } else if object.starts_with(&layout::packs_prefix(volume)) {
        Part::Pack
    } else {
        Part::Other
    }
}

/// Returns the number of a catalog version in its name; `None` for another name.
pub(crate) fn version_number(catalog: &str, object: &str) -> Option<u64> {
    let digits = object.strip_prefix(catalog)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (layout::catalog_version(catalog, number) == object).then_some(number)
}

/// Fails with `Denied`, in a sentence that identifies client, role, verb and object, unless the
/// client may do this. `InvalidInput` for a name that is none.
pub(crate) fn check(client: &EnrolledClient, verb: Verb, object: &str) -> Result<()> {
    check_name(object)?;
    if is_permitted(client, verb, object) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, verb.name(), object).message(format_args!(
        "client {} ({}) has no right to {} it",
        client.name,
        client.role,
        verb.name()
    )))
}

fn is_permitted(client: &EnrolledClient, verb: Verb, object: &str) -> bool {
    let Some((volume, _)) = layout::split_volume(object) else {
        return match verb {
            Verb::Get => object == layout::MARKER || may_read_outside(client, object),
            Verb::Put => {
                let is_admin = client.role == Role::Admin && client.has_all_volumes();
                object.starts_with(layout::REVOKED) && is_admin
            }
            Verb::Delete => false,
        };
    };
    let part = part_of(volume, object);
    let has_right = match (verb, client.role) {
        (Verb::Get, _) | (_, Role::Admin) => true,
        (Verb::Put, Role::Source) => {
            matches!(part, Part::Record | Part::Key | Part::Version | Part::Segment)
        }
        (Verb::Put, Role::Maintainer) => !matches!(part, Part::Shredded | Part::Pack | Part::Other),
        (Verb::Delete, Role::Maintainer) => {
            matches!(part, Part::Version | Part::Gate | Part::Segment | Part::Pack)
        }
        (Verb::Put | Verb::Delete, Role::Reader) | (Verb::Delete, Role::Source) => false,
    };
    has_right && client.has_volume(volume)
}

/// Fails with `Denied` if one of these objects is to stay for a legal hold, unless an `admin`
/// deletes it.
pub(crate) fn check_holds(
    client: &EnrolledClient,
    store: &dyn Store,
    names: &[String],
) -> Result<()> {
    if client.role == Role::Admin {
        return Ok(());
    }
    let volumes: BTreeSet<_> = names
        .iter()
        .filter_map(|name| layout::split_volume(name))
        .map(|(volume, _)| volume)
        .collect();
    for volume in volumes {
        let holds = LegalHold::list(store, volume)?;
        let below = layout::volume_prefix(volume);
        let mut own = names.iter().filter(|name| name.starts_with(&below));
        if let Some(name) = own.find(|name| holds.iter().any(|hold| hold.keeps(name))) {
            return Err(Error::new(ErrorKind::Denied, Verb::Delete.name(), name).message(
                format_args!(
                    "client {} ({}) has no right to delete what a legal hold keeps",
                    client.name, client.role
                ),
            ));
        }
    }
    Ok(())
}

/// Returns whether a client may read and list an object of no volume.
pub(crate) fn may_read_outside(client: &EnrolledClient, object: &str) -> bool {
    client.has_all_volumes() && client.role != Role::Source && object.starts_with(layout::AUDIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_13_each_role_does_what_its_table_says_and_nothing_else() {
        let parts = [
            ("volume", Part::Record),
            ("keys/0011.2233", Part::Key),
            ("keys/shredded", Part::Shredded),
            ("catalog/0000000000000001", Part::Version),
            ("catalog/0000000000000001-0000000000000003", Part::Gate),
            ("catalog/1", Part::Gate),
            ("holds/one", Part::Hold),
            ("segments/one.hrl", Part::Segment),
            ("packs/one.pack", Part::Pack),
            ("notes", Part::Other),
        ];
        // Of each role what it adds and what it deletes, in the order of the parts.
        let rights = [
            (Role::Reader, "----------", "----------"),
            (Role::Source, "xx-x---x--", "----------"),
            (Role::Maintainer, "xx-xxxxx--", "---xxx-xx-"),
            (Role::Admin, "xxxxxxxxxx", "xxxxxxxxxx"),
        ];
        for (role, adds, deletes) in rights {
            let client = EnrolledClient::new("c", role, &["disk".to_owned()]);
            for (at, (name, part)) in parts.iter().enumerate() {
                let object = format!("volumes/disk/{name}");
                assert_eq!(part_of("disk", &object), *part, "{name}");
                let may = |verb| check(&client, verb, &object).is_ok();
                assert!(may(Verb::Get), "{role} {name}");
                assert_eq!(may(Verb::Put), adds.as_bytes()[at] == b'x', "{role} puts {name}");
                assert_eq!(may(Verb::Delete), deletes.as_bytes()[at] == b'x', "{role} {name}");
                for verb in [Verb::Get, Verb::Put, Verb::Delete] {
                    let error = check(&client, verb, &format!("volumes/theirs/{name}"));
                    assert_eq!(error.expect_err("not its volume").kind(), ErrorKind::Denied);
                }
            }
            let all = EnrolledClient::new("c", role, &["*".to_owned()]);
            let may = |verb, object: &str| check(&all, verb, object).is_ok();
            assert!(may(Verb::Get, "hrl-vault") && may(Verb::Get, "volumes/any/volume"));
            assert_eq!(may(Verb::Get, "audit/0000000000000001"), role != Role::Source);
            assert_eq!(may(Verb::Put, "revoked/00"), role == Role::Admin);
            for object in ["hrl-vault", "audit/0000000000000001", "deleted/x", "plans/x"] {
                assert!(!may(Verb::Put, object) && !may(Verb::Delete, object), "{role} {object}");
            }
            assert!(!may(Verb::Delete, "revoked/00"));
        }
        let client = EnrolledClient::new("vm7", Role::Source, &["disk".to_owned()]);
        let error = check(&client, Verb::Delete, "volumes/disk/volume").expect_err("a source");
        let text = error.to_string();
        for word in ["vm7", "source", "delete", "volumes/disk/volume"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
