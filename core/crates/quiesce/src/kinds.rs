//! The kinds of applications, and the provider of each.

use hrl::Result;

use crate::provider::Provider;
use crate::spec::Spec;
use crate::{filesystem, mariadb, postgresql, qemu, redis, script, sqlite};

/// Kinds of applications, for messages.
const KINDS: &str = "fs, script, qemu-ga, postgresql, mariadb, mysql, sqlite or redis";

/// Returns the provider for a specification.
pub(crate) fn provider(text: &str) -> Result<Box<dyn Provider>> {
    let spec = Spec::parse(text)?;
    Ok(match spec.kind.as_str() {
        "fs" => Box::new(filesystem::FileSystem::new(spec)?),
        "script" => Box::new(script::Script::new(spec)?),
        "qemu-ga" => Box::new(qemu::GuestAgent::new(spec)?),
        "postgresql" => Box::new(postgresql::PostgreSql::new(&spec)?),
        "mariadb" | "mysql" => Box::new(mariadb::MariaDb::new(&spec)?),
        "sqlite" => Box::new(sqlite::Sqlite::new(&spec)?),
        "redis" => Box::new(redis::Redis::new(spec)?),
        _ => return Err(spec.bad().expected(KINDS).found(&spec.kind)),
    })
}
