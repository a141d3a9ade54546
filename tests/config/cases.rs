//! Files that are wrong, and what is said of them.
//!
//! The cases stand in `wrong/toml.txt` and `wrong/json.txt`, with a line of `====`
//! between two cases. The last line of a case is what the reader says of it, after
//! `=> ` if the JSON Schema refuses the case too, after `-> ` if only the reader does.
//! `proof/tests/config_schema` holds the schema to the same cases.

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
