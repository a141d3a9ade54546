//! Files that are wrong, and the errors that the reader reports for them.
//!
//! The cases are in `wrong/toml.txt` and `wrong/json.txt`, with a line of
//! `====` between two cases. The last line of a case is the reader's error. It
//! follows `=> ` if the JSON Schema rejects the file too, and `-> ` if only the
//! reader rejects it. `proof/tests/config_schema` tests the schema with the
//! same cases.

#![allow(dead_code, reason = "each program uses a part of it")]

pub(crate) const TOML: &str = include_str!("wrong/toml.txt");
pub(crate) const JSON: &str = include_str!("wrong/json.txt");

pub(crate) struct Case {
    pub(crate) text: &'static str,
    pub(crate) schema_refuses: bool,
    pub(crate) said: &'static str,
}

pub(crate) fn cases(file: &'static str) -> Vec<Case> {
    let cases = file.trim_end().split("\n====\n");
    cases
        .map(|case| {
            let (text, last) = case.rsplit_once('\n').unwrap();
            let (arrow, said) = last.split_once(' ').unwrap();
            assert!(["=>", "->"].contains(&arrow), "{case}");
            Case {
                text,
                schema_refuses: arrow == "=>",
                said,
            }
        })
        .collect()
}
