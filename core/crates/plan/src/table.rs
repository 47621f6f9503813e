//! TOML tables read key by key. Errors show the key, its line, what was expected and what was
//! found; a key that the parser never reads is an error too.

use std::cell::RefCell;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use hrl::{Error, ErrorKind, Result, parse_duration};

/// Longest time in a plan.
const DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Longest text that is parsed.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;

/// The document: its name for errors, and its text to find lines.
pub(super) struct Document<'a> {
    name: &'a str,
    text: &'a str,
}

impl<'a> Document<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Result<Self> {
        let document = Self { name, text };
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "read plan", name)
                .expected(format_args!("at most {TEXT_BYTES_MAX} bytes"))
                .found(text.len()));
        }
        Ok(document)
    }

    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>> {
        DeTable::parse(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.error(offset).message(error.message().replace('\n', "; "))
        })
    }

    /// Returns an error about the line that contains this byte.
    pub(super) fn error(&self, offset: usize) -> Error {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.split(|byte| *byte == b'\n').count();
        let object = format!("{}, line {line}", self.name);
        Error::new(ErrorKind::InvalidInput, "read plan", object)
    }
}

/// A table of the document, with the keys that were read.
pub(super) struct Table<'t, 'a> {
    document: &'t Document<'a>,
    entries: &'t DeTable<'a>,
    /// Path in errors: `group[0].before[1]`, or empty for the document itself.
    path: String,
    offset: usize,
    asked: RefCell<Vec<&'static str>>,
}

/// A value of a table.
#[derive(Clone)]
pub(super) struct Value<'t, 'a> {
    document: &'t Document<'a>,
    value: &'t Spanned<DeValue<'a>>,
    path: String,
}

impl<'t, 'a> Table<'t, 'a> {
    pub(super) fn root(document: &'t Document<'a>, table: &'t Spanned<DeTable<'a>>) -> Self {
        let (entries, path, offset) = (table.get_ref(), String::new(), 0);
        Self { document, entries, path, offset, asked: RefCell::default() }
    }

    /// Returns the value of a key, if there is one.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'t, 'a>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(Value { document: self.document, value, path: self.path_of(key) })
    }

    /// Returns the value of a required key.
    pub(super) fn need(&self, key: &'static str, expected: &str) -> Result<Value<'t, 'a>> {
        self.get(key).ok_or_else(|| self.wrong(key).expected(expected).found("nothing"))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Option<&'t str>> {
        self.get(key).map(|value| value.text()).transpose()
    }

    pub(super) fn duration(&self, key: &'static str, otherwise: Duration) -> Result<Duration> {
        self.get(key).map_or(Ok(otherwise), |value| value.duration())
    }

    /// Returns the tables of an array of tables.
    pub(super) fn tables(&self, key: &'static str) -> Result<Vec<Table<'t, 'a>>> {
        self.get(key)
            .map_or(Ok(Vec::new()), |value| value.items()?.iter().map(Value::table).collect())
    }

    /// Returns all entries, for tables with free keys.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'t str, Value<'t, 'a>)> {
        self.entries.iter().map(|(key, value)| {
            let key: &'t str = key.get_ref();
            (key, Value { document: self.document, value, path: self.path_of(key) })
        })
    }

    /// Returns an error about a missing key or a combination of keys.
    pub(super) fn wrong(&self, key: &str) -> Error {
        self.document.error(self.offset).message(self.path_of(key))
    }

    /// Refuses keys that were not read.
    pub(super) fn finish(&self) -> Result<()> {
        let asked = self.asked.borrow();
        let unknown = self.entries.keys().find(|key| !asked.contains(&key.get_ref().as_ref()));
        unknown.map_or(Ok(()), |key| {
            let mut known = asked.clone();
            known.sort_unstable();
            known.dedup();
            Err(self
                .document
                .error(key.span().start)
                .message(if self.path.is_empty() { "the plan" } else { &self.path })
                .expected(format_args!("the keys {}", known.join(", ")))
                .found(format_args!("{:?}", key.get_ref())))
        })
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'t, 'a> Value<'t, 'a> {
    pub(super) fn text(&self) -> Result<&'t str> {
        match self.value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                Err(self.error().expected("text without NUL").found("a NUL"))
            }
            DeValue::String(text) => Ok(text),
            _ => Err(self.wrong("text")),
        }
    }

    /// Returns a whole number from `range`.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.value.get_ref() else {
            return Err(self.wrong(&expected));
        };
        let digits = number.as_str().trim_start_matches('+');
        let value = u32::from_str_radix(digits, number.radix()).ok();
        value.filter(|value| range.contains(value)).ok_or_else(|| self.wrong(&expected))
    }

    /// Returns a length of time such as "250ms", "30s", "10m", "2h" or "1d".
    pub(super) fn duration(&self) -> Result<Duration> {
        let expected = "a time such as \"250ms\", \"30s\", \"10m\" or \"2h\", up to 30 days";
        let DeValue::String(text) = self.value.get_ref() else { return Err(self.wrong(expected)) };
        let duration = parse_duration(text, None).ok().filter(|duration| *duration <= DURATION_MAX);
        duration.ok_or_else(|| self.wrong(expected))
    }

    pub(super) fn items(&self) -> Result<Vec<Value<'t, 'a>>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return Err(self.wrong("an array"));
        };
        let item = |(at, value)| Value {
            document: self.document,
            value,
            path: format!("{}[{at}]", self.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn table(&self) -> Result<Table<'t, 'a>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            return Err(self.wrong("a table"));
        };
        let (path, offset) = (self.path.clone(), self.value.span().start);
        Ok(Table { document: self.document, entries, path, offset, asked: RefCell::default() })
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    /// Returns an error with what was expected and what was found.
    pub(super) fn wrong(&self, expected: &str) -> Error {
        let found = match self.value.get_ref() {
            DeValue::String(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.error().expected(expected).found(found)
    }

    pub(super) fn error(&self) -> Error {
        self.document.error(self.value.span().start).message(&self.path)
    }
}
