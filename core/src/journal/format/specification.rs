//! Reads `core/docs/format.md`, for the tests that compare it with the code.

/// The specification.
pub(crate) const SPECIFICATION: &str = include_str!("../../../docs/format.md");

/// Returns the cells of the table after `marker`, row by row, without its two lines of heading.
pub(crate) fn rows_after(marker: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = SPECIFICATION.split_once(marker).expect("the specification has the marker");
    after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Compares the first rows of the table after `marker` with fields: name, offset and size. Each
/// field follows the one before. Returns the end of the last.
pub(crate) fn check_fields(marker: &str, fields: &[(&str, usize, usize)]) -> usize {
    let rows = rows_after(marker);
    assert!(rows.len() >= fields.len(), "{marker}");
    let mut next = 0;
    for (row, (field, offset, size)) in rows.iter().zip(fields) {
        let expected = [offset.to_string(), size.to_string(), field.to_lowercase()];
        assert_eq!(row[..3], expected, "{marker}");
        assert_eq!(*offset, next, "{marker}: {field} follows the field before");
        next = offset + size;
    }
    next
}
