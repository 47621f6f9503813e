//! As much JSON as guest agents and the records of plans need: reading is total and bounded, numbers are whole ones.

use std::fmt;

/// A value; numbers keep their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

const DEPTH_MAX: u32 = 16;

impl Json {
    /// The value that `text` is, and nothing else; `None` where it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text.trim() };
        let value = parser.value(DEPTH_MAX)?;
        parser.rest.trim().is_empty().then_some(value)
    }

    /// A member of an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    #[cfg(feature = "plan")]
    pub(crate) fn array(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    pub(crate) fn number(&self) -> Option<u64> {
        if let Self::Number(digits) = self { digits.parse().ok() } else { None }
    }
}

/// Reads JSON and writes it again as one line; `None` when it is none. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_json(text: &str) -> Option<String> {
    Json::parse(text).map(|value| value.to_string())
}

/// One line of JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(digits) => f.write_str(digits),
            Self::Text(text) => write_text(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (at, (name, value)) in members.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { "," })?;
                    write_text(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            control if control < ' ' || control == '\u{7f}' => {
                write!(f, "\\u{:04x}", u32::from(control))?;
            }
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(feature = "plan")]
impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(feature = "plan")]
impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[cfg(feature = "plan")]
impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

#[cfg(feature = "plan")]
impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value.to_string())
    }
}

#[cfg(feature = "plan")]
impl<T: Into<Self>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(feature = "plan")]
impl<T: Into<Self>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

/// An object of these members, in their order.
#[cfg(feature = "plan")]
pub(crate) fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self, depth: u32) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        self.rest = self.rest.trim_start();
        match self.rest.as_bytes().first()? {
            b'{' => self
                .list('{', '}', |parser| {
                    let name = parser.string()?;
                    parser.take(":")?;
                    Some((name, parser.value(depth)?))
                })
                .map(Json::Object),
            b'[' => self.list('[', ']', |parser| parser.value(depth)).map(Json::Array),
            b'"' => self.string().map(Json::Text),
            b'n' => self.take("null").map(|()| Json::Null),
            b't' => self.take("true").map(|()| Json::Bool(true)),
            b'f' => self.take("false").map(|()| Json::Bool(false)),
            _ => {
                let is_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                let end = self.rest.find(|c| !is_number(c)).unwrap_or(self.rest.len());
                let (digits, rest) = self.rest.split_at(end);
                self.rest = rest;
                (!digits.is_empty()).then(|| Json::Number(digits.to_owned()))
            }
        }
    }

    fn list<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.take(open.encode_utf8(&mut [0; 4]))?;
        let mut items = Vec::new();
        let mut buffer = [0; 4];
        let close = close.encode_utf8(&mut buffer);
        if self.take(close).is_some() {
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close).is_some() {
                return Some(items);
            }
            self.take(",")?;
        }
    }

    fn string(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => match characters.next()?.1 {
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'u' => {
                        let mut code = 0;
                        for _ in 0..4 {
                            code = code * 16 + characters.next()?.1.to_digit(16)?;
                        }
                        text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
        None
    }

    fn take(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(word)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_agents_answers_are_read() {
        let answer = Json::parse(r#" {"error": {"class": "GenericError", "desc": "a \"b\"é"}} "#);
        let answer = answer.expect("read");
        let text = answer.get("error").and_then(|e| e.get("desc")).and_then(Json::text);
        assert_eq!(text, Some("a \"b\"é"));
        let answer = Json::parse(r#"{"return": [1, {"a": null}, true], "x": {}}"#).expect("read");
        assert!(answer.get("x").is_some());
        assert_eq!(Json::parse("{\"return\": 3}").and_then(|a| a.get("return")?.number()), Some(3));
        for bad in ["", "{", "{\"a\"}", "[1,]", "\"", "\"\\u12", "{} {}", &"[".repeat(100)] {
            assert_eq!(Json::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn promise_11_any_text_is_a_value_or_none(text in "[\\[\\]{}\",:a-z0-9\\\\ é]{0,64}") {
            let _ = Json::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_again(text in "\\PC{0,32}|[\\x00-\\x20\"\\\\]{0,16}", number: u64) {
            let value = Json::Object(vec![
                (text.clone(), Json::Array(vec![Json::Text(text), Json::Number(number.to_string())])),
                (String::new(), Json::Array(vec![Json::Null, Json::Bool(true), Json::Object(Vec::new())])),
            ]);
            prop_assert_eq!(Json::parse(&value.to_string()), Some(value));
        }
    }
}
