//! Meaning of a failed request: whether it is tried again, and which kind of error the caller gets.
//!
//! Network, throttling and server errors are `Unavailable` and tried again. Refused credentials are
//! `Denied`: someone must correct them, and another try would not help, unless the clock is wrong. A
//! missing bucket is never reported as an absent object.

use std::error::Error as StdError;

use hrl::ErrorKind;
use object_store::Error as ClientError;
use object_store::client::HttpError;

use crate::http::{NoAnswer, StatusError, root_cause};

/// What a failed request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// No object of this name; or no bucket, if the answer to the request has no body.
    Absent,
    /// The bucket or container does not exist.
    NoBucket,
    /// An object of this name exists.
    Exists,
    /// The range begins after the end of the object.
    PastEnd,
    /// Another try may help: network, overload, conflict with another request.
    Transient,
    /// The credentials were refused, or do not permit the request.
    Refused,
    /// The credentials were refused, and the clocks of this machine and of the store differ.
    Skewed,
    /// No credentials were given, and the machine has none.
    NoCredentials,
    /// A quota or disk of the server is full.
    Full,
    /// The bucket is somewhere else.
    Elsewhere,
    /// The server lacks the operation.
    Missing,
    /// Anything else: the request cannot work as it is.
    Invalid,
}

impl Meaning {
    pub(super) fn kind(self) -> ErrorKind {
        match self {
            Self::Absent => ErrorKind::NotFound,
            Self::Exists => ErrorKind::AlreadyExists,
            Self::NoBucket | Self::Transient | Self::Skewed => ErrorKind::Unavailable,
            Self::Refused => ErrorKind::Denied,
            Self::PastEnd | Self::NoCredentials | Self::Elsewhere | Self::Invalid => {
                ErrorKind::InvalidInput
            }
            Self::Full => ErrorKind::Full,
            Self::Missing => ErrorKind::Unsupported,
        }
    }

    /// Returns advice for people; `None` if the cause says enough.
    pub(super) fn advice(self) -> Option<&'static str> {
        match self {
            Self::NoBucket => Some("the bucket does not exist; is its name right?"),
            Self::Refused => Some("the store refused the credentials, or they do not allow this"),
            Self::Skewed => {
                Some("requests are refused when the clocks differ; is the time here right?")
            }
            Self::NoCredentials => {
                Some("no credentials were given in the environment, and the machine has none")
            }
            Self::Elsewhere => Some("the bucket is in another region or at another endpoint"),
            Self::Missing => Some("the server does not have this operation"),
            _ => None,
        }
    }
}

/// A failed request: its meaning, and its cause as a sentence.
#[derive(Debug)]
pub(super) struct Failure {
    pub meaning: Meaning,
    pub cause: String,
}

impl Failure {
    pub(super) fn of(error: &ClientError) -> Self {
        if let Some(answer) = find::<StatusError>(error) {
            let meaning = match of_answer(answer.status, &answer.code) {
                meaning if meaning == Meaning::Transient => meaning,
                _ if is_metadata_service(&answer.peer.host) => Meaning::NoCredentials,
                Meaning::Refused if answer.skew.is_some() => Meaning::Skewed,
                meaning => meaning,
            };
            return Self { meaning, cause: answer.to_string() };
        }
        if let Some(none) = find::<NoAnswer>(error) {
            let meaning = if is_metadata_service(&none.peer.host) {
                Meaning::NoCredentials
            } else if none.forbidden {
                Meaning::Invalid
            } else {
                Meaning::Transient
            };
            return Self { meaning, cause: none.to_string() };
        }
        let meaning = match error {
            _ if find::<HttpError>(error).is_some() => Meaning::Transient,
            ClientError::NotFound { .. } => Meaning::Absent,
            ClientError::AlreadyExists { .. } | ClientError::Precondition { .. } => Meaning::Exists,
            ClientError::PermissionDenied { .. } | ClientError::Unauthenticated { .. } => {
                Meaning::Refused
            }
            ClientError::NotSupported { .. } | ClientError::NotImplemented { .. } => {
                Meaning::Missing
            }
            ClientError::InvalidPath { .. } | ClientError::UnknownConfigurationKey { .. } => {
                Meaning::Invalid
            }
            // An unintelligible answer: of a proxy, or cut off.
            _ => Meaning::Transient,
        };
        Self { meaning, cause: root_cause(error).to_string() }
    }

    /// Returns the failure of an answer that ended early.
    pub(super) fn short(expected: u64, found: u64) -> Self {
        let cause = format!("the answer ended after {found} of {expected} bytes");
        Self { meaning: Meaning::Transient, cause }
    }
}

fn of_answer(status: u16, code: &str) -> Meaning {
    match (status, code) {
        (_, "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted") => Meaning::NoBucket,
        (507, _)
        | (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" | "StorageFull") => {
            Meaning::Full
        }
        // S3 reports this after waiting too long for the body.
        (_, "RequestTimeout") => Meaning::Transient,
        (_, "RequestTimeTooSkewed") => Meaning::Skewed,
        (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => Meaning::Refused,
        (404 | 410, _) => Meaning::Absent,
        // A policy of the container keeps it.
        (409, "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold") => Meaning::Refused,
        (412 | 304, _) | (409, "BlobAlreadyExists") => Meaning::Exists,
        (416, _) => Meaning::PastEnd,
        (401 | 403 | 407, _) => Meaning::Refused,
        (301 | 302 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed") => Meaning::Elsewhere,
        (405 | 501 | 505, _) => Meaning::Missing,
        (408 | 409 | 425 | 429 | 500..=599, _) => Meaning::Transient,
        _ => Meaning::Invalid,
    }
}

/// Returns whether `host` is the address at which machines of the three services ask for an
/// identity.
fn is_metadata_service(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    matches!(name, "169.254.169.254" | "metadata" | "metadata.google.internal")
}

/// Returns the first error of type `T` among the causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_services_mean_what_their_manuals_say() {
        let cases = [
            (404, "NoSuchKey", Meaning::Absent),
            (404, "", Meaning::Absent),
            (404, "NoSuchBucket", Meaning::NoBucket),
            (404, "ContainerNotFound", Meaning::NoBucket),
            (409, "ContainerBeingDeleted", Meaning::NoBucket),
            (412, "PreconditionFailed", Meaning::Exists),
            (409, "BlobAlreadyExists", Meaning::Exists),
            // Racing conditional puts on S3: neither has lost yet.
            (409, "ConditionalRequestConflict", Meaning::Transient),
            (409, "OperationAborted", Meaning::Transient),
            (400, "RequestTimeout", Meaning::Transient),
            (400, "ExpiredToken", Meaning::Refused),
            (403, "SignatureDoesNotMatch", Meaning::Refused),
            (403, "RequestTimeTooSkewed", Meaning::Skewed),
            (409, "BlobImmutableDueToPolicy", Meaning::Refused),
            (403, "AccessDenied", Meaning::Refused),
            (403, "QuotaExceeded", Meaning::Full),
            (507, "", Meaning::Full),
            (429, "", Meaning::Transient),
            (503, "SlowDown", Meaning::Transient),
            (500, "InternalError", Meaning::Transient),
            (501, "NotImplemented", Meaning::Missing),
            (416, "InvalidRange", Meaning::PastEnd),
            (301, "PermanentRedirect", Meaning::Elsewhere),
            (400, "InvalidBucketName", Meaning::Invalid),
        ];
        for (status, code, meaning) in cases {
            assert_eq!(of_answer(status, code), meaning, "{status} {code}");
        }
        assert!(cases.iter().all(|(_, _, meaning)| meaning.kind() != ErrorKind::WrongKey));
    }
}
