//! The one error of the crate.
//!
//! [`ErrorKind`] says what the caller can do next. The message is one sentence with the operation,
//! its subject, the place in it, what was expected and what was found. Causes are chained.

use std::fmt;

use crate::macros::named;

/// The result of every fallible operation of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

named! {
    /// Says what the caller can do about an error.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum ErrorKind {
        /// Fix the request: an argument, option or file that can never work as given.
        InvalidInput = "invalid-input",
        /// Name another object: the one asked for does not exist.
        NotFound = "not-found",
        /// The object exists already and is never overwritten.
        AlreadyExists = "already-exists",
        /// Use another copy: bytes are not what was written (checksum, chain, encryption, layout).
        Corrupt = "corrupt",
        /// Supply the right key: the object is encrypted and the key is missing or another one.
        WrongKey = "wrong-key",
        /// Upgrade: the object needs a feature or version that this build does not know.
        Unsupported = "unsupported",
        /// Retry later: a store, socket or device does not answer at present.
        Unavailable = "unavailable",
        /// Make room: a disk, quota or named limit is exhausted.
        Full = "full",
        /// Reopen: a flush failed, so nothing written through this handle can be trusted.
        Poisoned = "poisoned",
        /// Stop: another agent or a newer epoch owns the volume.
        Fenced = "fenced",
        /// Resync or choose again: the disk is another one, or it changed while it was not protected.
        Changed = "changed",
        /// Write elsewhere: the object is read-only.
        ReadOnly = "read-only",
        /// Wait for the resync: the volume is in an unordered interval, where no point can exist.
        NotOrdered = "not-ordered",
        /// Look at the cause: the operating system refused.
        Io = "io",
        /// Use another identity: the server knows this one, and does not let it do that.
        Denied = "denied",
        /// Compare: the vault and what is known of it here are not of one history.
        Diverged = "diverged",
    }
}

/// Reports a failure with its kind, operation, subject, place, expectation and cause. Moves as one
/// pointer.
pub struct Error(Box<Details>);

struct Details {
    kind: ErrorKind,
    operation: &'static str,
    object: String,
    place: Option<u64>,
    message: Option<String>,
    expected: Option<String>,
    found: Option<String>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind`: `operation` (a verb phrase such as "read segment") failed on
    /// `object` (its name).
    pub fn new(kind: ErrorKind, operation: &'static str, object: impl fmt::Display) -> Self {
        Self(Box::new(Details {
            kind,
            operation,
            object: object.to_string(),
            place: None,
            message: None,
            expected: None,
            found: None,
            cause: None,
        }))
    }

    /// Makes an error of a failure of the operating system. The kind follows from the cause: no
    /// space is `Full`, a read-only file system `ReadOnly`, and so on.
    pub fn io(operation: &'static str, object: impl fmt::Display, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as Os;
        let kind = match cause.kind() {
            Os::NotFound => ErrorKind::NotFound,
            Os::AlreadyExists => ErrorKind::AlreadyExists,
            Os::StorageFull | Os::QuotaExceeded | Os::FileTooLarge => ErrorKind::Full,
            Os::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            Os::TimedOut | Os::ConnectionRefused | Os::ConnectionReset | Os::ConnectionAborted => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Io,
        };
        Self::new(kind, operation, object).caused_by(cause)
    }

    /// Replaces the object, if the caller knows a better name for it.
    pub(crate) fn about(mut self, object: impl fmt::Display) -> Self {
        self.0.object = object.to_string();
        self
    }

    /// Adds the byte offset in the subject at which the operation failed.
    pub fn at(mut self, offset_bytes: u64) -> Self {
        self.0.place = Some(offset_bytes);
        self
    }

    /// Adds a sentence of explanation or advice.
    pub fn message(mut self, message: impl fmt::Display) -> Self {
        self.0.message = Some(message.to_string());
        self
    }

    /// Adds what should have been there.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.0.expected = Some(expected.to_string());
        self
    }

    /// Adds what was there instead.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.0.found = Some(found.to_string());
        self
    }

    /// Adds the cause, which [`std::error::Error::source`] returns.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Returns the kind, which says what the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed, as a verb phrase.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the name of the subject of the operation: a file, volume, store or option.
    pub fn object(&self) -> &str {
        &self.0.object
    }

    /// Returns the byte offset in the subject, if it is known.
    pub fn place(&self) -> Option<u64> {
        self.0.place
    }

    /// Returns the operating system's code, if the cause is its failure.
    pub fn os_code(&self) -> Option<i32> {
        self.0.cause.as_ref()?.downcast_ref::<std::io::Error>()?.raw_os_error()
    }

    /// Returns the same error for a second caller that waits for the same failure. The cause
    /// becomes text, unless it is a code of the operating system.
    pub fn duplicate(&self) -> Self {
        let d = &self.0;
        Self(Box::new(Details {
            kind: d.kind,
            operation: d.operation,
            object: d.object.clone(),
            place: d.place,
            message: d.message.clone(),
            expected: d.expected.clone(),
            found: d.found.clone(),
            cause: d.cause.as_ref().map(|cause| match self.os_code() {
                Some(code) => std::io::Error::from_raw_os_error(code).into(),
                None => cause.to_string().into(),
            }),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.0;
        write!(f, "cannot {} {}", d.operation, d.object)?;
        if let Some(place) = d.place {
            write!(f, " at offset {place}")?;
        }
        if let Some(message) = &d.message {
            write!(f, ": {message}")?;
        }
        match (&d.expected, &d.found) {
            (Some(expected), Some(found)) => write!(f, ": expected {expected}, found {found}")?,
            (Some(expected), None) => write!(f, ": expected {expected}")?,
            (None, Some(found)) => write!(f, ": found {found}")?,
            (None, None) => {}
        }
        if let Some(cause) = &d.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.name())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_object_place_expected_and_found() {
        let error = Error::new(ErrorKind::Corrupt, "read segment", "a.hrl")
            .at(4096)
            .expected("checksum 0x00000001")
            .found("0x00000002");
        assert_eq!(
            error.to_string(),
            "cannot read segment a.hrl at offset 4096: expected checksum 0x00000001, found 0x00000002"
        );
        let full = Error::io("write", "spool", std::io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), ErrorKind::Full);
        assert_eq!(full.duplicate().os_code(), Some(28));
    }
}
