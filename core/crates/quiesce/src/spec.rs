//! Specifications of applications, one line of text each: `KIND:TARGET?OPTION=VALUE&OPTION=VALUE`.
//!
//! `%XX` stands for a byte in target and values, which may thus contain `?`, `&` and `%`. Options,
//! policy files, Python and C pass such lines on unparsed; this is the only parser.
//! `core/docs/quiesce.md` lists the kinds.

use std::path::PathBuf;
use std::time::Duration;

use hrl::bytes::percent_decode;
use hrl::{Error, ErrorKind, Result};

/// A parsed specification.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub text: String,
    pub kind: String,
    pub target: String,
    options: Vec<(String, String)>,
}

impl Spec {
    /// Parses a specification. `InvalidInput` if it has not the form above.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::InvalidInput, "read quiesce specification", format!("{text:?}"))
        };
        let (kind, rest) = text.split_once(':').ok_or_else(|| bad().expected("KIND:TARGET"))?;
        let (target, query) = rest.split_once('?').unwrap_or((rest, ""));
        let decoded = |value: &str| {
            percent_decode(value).ok_or_else(|| bad().expected("%XX of a UTF-8 byte").found(value))
        };
        let mut options = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| bad().expected("OPTION=VALUE").found(pair))?;
            if options.iter().any(|(known, _)| known == name) {
                return Err(bad().expected("each option once").found(name));
            }
            options.push((name.to_owned(), decoded(value)?));
        }
        let target = decoded(target)?;
        if target.contains('\0') || options.iter().any(|(_, value)| value.contains('\0')) {
            return Err(bad().expected("text without zero bytes"));
        }
        Ok(Self { text: text.to_owned(), kind: kind.to_owned(), target, options })
    }

    /// Returns an error about this specification.
    pub(crate) fn bad(&self) -> Error {
        Error::new(
            ErrorKind::InvalidInput,
            "read quiesce specification",
            format!("{:?}", self.text),
        )
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns an option that is a time in milliseconds.
    pub(crate) fn milliseconds(&self, name: &str, default: Duration) -> Result<Duration> {
        let Some(value) = self.option(name) else { return Ok(default) };
        let number = value.parse().ok().filter(|number| (1..=3_600_000).contains(number));
        number.map(Duration::from_millis).ok_or_else(|| {
            self.bad().expected(format_args!("{name} from 1 to 3600000 milliseconds")).found(value)
        })
    }

    /// Returns the target as a path. Errors call it `what`.
    pub(crate) fn absolute_path(&self, what: &str) -> Result<PathBuf> {
        let path = PathBuf::from(&self.target);
        if path.is_absolute() {
            return Ok(path);
        }
        Err(self.bad().expected(format_args!("{what} as an absolute path")).found(&self.target))
    }

    /// Checks that all options are among `known`.
    pub(crate) fn finish(&self, known: &[&str]) -> Result<()> {
        match self.options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) if known.is_empty() => {
                Err(self.bad().expected("no options").found(name))
            }
            Some((name, _)) => {
                Err(self.bad().expected(format_args!("options {}", known.join(", "))).found(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::provider;
    use proptest::prelude::*;

    #[test]
    fn targets_and_options_are_decoded() {
        let spec = Spec::parse("script:?pre=a%26b%3f&limit-ms=20").expect("parse");
        assert_eq!((spec.target.as_str(), spec.option("pre")), ("", Some("a&b?")));
        let limit = spec.milliseconds("limit-ms", Duration::ZERO).expect("limit");
        assert_eq!(limit, Duration::from_millis(20));
        assert!(spec.finish(&["pre"]).is_err());
        spec.finish(&["pre", "limit-ms"]).expect("known");
    }

    #[test]
    fn promise_11_what_is_no_specification_is_named() {
        for (text, expected) in [
            ("/mnt", "KIND:TARGET"),
            ("vss:C", "fs, script"),
            ("fs:mnt", "absolute path"),
            ("fs:/mnt?a=1", "no options"),
            ("fs:/m%zz", "%XX"),
            ("fs:/m%", "%XX"),
            ("fs:/m%ff", "%XX"),
            ("script:?pre", "OPTION=VALUE"),
            ("script:?pre=a&pre=b", "each option once"),
            ("script:?pre=a&limit-ms=x", "limit-ms from 1"),
            ("script:", "an executable"),
            ("fs:/a%00b", "zero bytes"),
        ] {
            let error = provider(text).map(drop).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn promise_11_any_text_is_a_specification_or_an_error(text in "(fs|script|redis|sqlite|postgresql|qemu-ga|mysql)?:?.{0,60}") {
            let _ = provider(&text);
        }
    }
}
