//! What a client may do, as its certificate says.
//!
//! A certificate carries its rights as URIs among its subject's alternative names: one
//! `hrl:role:ROLE`, and a `hrl:volume:NAME` for each volume. `hrl:volume:*` names all volumes, which
//! is no name of one. So the authority's signature covers them, and no server can widen them.
//!
//! A certificate without a role was made before there were roles. It counts as a source's, the
//! least right that lets an agent go on.

use hrl::{Error, ErrorKind, Result, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Stands for every volume.
pub const ALL_VOLUMES: &str = "*";
const ROLE: &str = "hrl:role:";
const VOLUME: &str = "hrl:volume:";

/// What a client may do with the objects of its volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads them.
    Reader,
    /// Reads them, and adds segments, catalog versions and keys. Replaces and deletes nothing.
    #[default]
    Source,
    /// Carries retention out: reads, adds, and deletes segments and catalog versions.
    Maintainer,
    /// Does everything: also shreds, lifts legal holds, restores what was deleted, and revokes.
    Admin,
}

impl Role {
    /// All roles, from the least to the most powerful.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Source, Self::Maintainer, Self::Admin];

    /// Returns the role's name in certificates, policies and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Source => "source",
            Self::Maintainer => "maintainer",
            Self::Admin => "admin",
        }
    }

    /// Returns the role of this name. `InvalidInput` for another.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read role", name)
                .expected("reader, source, maintainer or admin")
                .found(name)
        })
    }

    /// Returns whether the role lets a client add objects.
    pub fn adds(self) -> bool {
        self != Self::Reader
    }

    /// Returns whether the role lets a client delete segments and catalog versions.
    pub fn deletes(self) -> bool {
        matches!(self, Self::Maintainer | Self::Admin)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The rights and the lifetime that a certificate states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRights {
    /// Its role; `None` if it was made before there were roles.
    pub role: Option<Role>,
    /// Its volumes, or [`ALL_VOLUMES`]; empty if it was made before there were roles.
    pub volumes: Vec<String>,
    /// When it expires.
    pub expires: Timestamp,
}

impl CertificateRights {
    /// Reads them from a certificate in DER form. `InvalidInput` if it cannot be read, names an
    /// unknown role, or more than one.
    pub fn of(certificate: &[u8]) -> Result<Self> {
        let bad = || Error::new(ErrorKind::InvalidInput, "read certificate", "client");
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|error| bad().caused_by(error))?;
        let expires = parsed.validity().not_after.timestamp().saturating_mul(1_000_000_000);
        let mut rights = Self { role: None, volumes: Vec::new(), expires: Timestamp(expires) };
        let names = parsed.subject_alternative_name().map_err(|error| bad().caused_by(error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let GeneralName::URI(uri) = name else { continue };
            if let Some(role) = uri.strip_prefix(ROLE) {
                if rights.role.replace(Role::parse(role)?).is_some() {
                    return Err(bad().expected("one role").found("more"));
                }
            } else if let Some(volume) = uri.strip_prefix(VOLUME) {
                rights.volumes.push(volume.to_owned());
            }
        }
        Ok(rights)
    }

    /// Reads the rights of the first certificate of a PEM file.
    pub fn of_file(path: &std::path::Path) -> Result<Self> {
        Self::of(&crate::config::first_certificate(path)?)
    }
}

/// Returns the alternative names that carry rights.
#[cfg(feature = "authority")]
pub(crate) fn uris(role: Role, volumes: &[String]) -> Vec<String> {
    let volumes = volumes.iter().map(|volume| format!("{VOLUME}{volume}"));
    std::iter::once(format!("{ROLE}{role}")).chain(volumes).collect()
}

/// Returns whether rights for `allowed` cover a volume.
pub(crate) fn covers(allowed: &[String], volume: &str) -> bool {
    allowed.iter().any(|name| name == volume || name == ALL_VOLUMES)
}
