//! Applications that a policy lists: by the crate hrl-quiesce, if this build has it (feature
//! `quiesce`).

#[cfg(feature = "quiesce")]
mod applications {
    use std::sync::Arc;

    use engine::{Policy, Quiesce, Result};
    use hrl_quiesce::Applications;

    /// Returns the provider of the applications that `policy` names; `None` if it names none.
    pub(crate) fn of_policy(policy: &Policy) -> Result<Option<Arc<dyn Quiesce>>> {
        Applications::of_policy(policy)
    }

    /// Sets the program that quiesces and releases.
    #[allow(clippy::unnecessary_wraps, reason = "builds without the feature fail here")]
    pub(crate) fn set_watchdog(path: &str) -> Result<()> {
        hrl_quiesce::set_watchdog([path]);
        Ok(())
    }
}

#[cfg(not(feature = "quiesce"))]
mod applications {
    use std::sync::Arc;

    use engine::{Error, ErrorKind, Policy, Quiesce, Result};

    /// Fails with `Unsupported` if `policy` names applications.
    pub(crate) fn of_policy(policy: &Policy) -> Result<Option<Arc<dyn Quiesce>>> {
        if policy.quiesce.is_empty() { Ok(None) } else { Err(unsupported("quiesce")) }
    }

    /// Fails with `Unsupported`.
    pub(crate) fn set_watchdog(path: &str) -> Result<()> {
        Err(unsupported(path))
    }

    fn unsupported(what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, "use", what)
            .message("this build does not quiesce applications by name (feature quiesce)")
    }
}

pub(crate) use applications::{of_policy, set_watchdog};
