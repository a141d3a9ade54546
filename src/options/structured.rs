//! RFC 8941 strings with the parameters behind them, as RFC 9651 extends them.

/// Returns the characters between the quotation marks of a string (4.2.5), with their escapes.
///
/// Parameters behind the string have no meaning for a key, so they are ignored (3.1.2). Parameters
/// that can't be parsed are an error, as for every recipient (4.2).
pub(super) fn string_content(item: &[u8]) -> Result<&[u8], &'static str> {
    let mut at = 1;
    let end = loop {
        match item.get(at) {
            None => return Err("has no closing quotation mark"),
            Some(b'"') => break at,
            Some(b'\\') => match item.get(at + 1) {
                Some(b'"' | b'\\') => at += 2,
                _ => {
                    return Err(
                        "has a backslash that escapes neither a quotation mark nor a backslash",
                    );
                }
            },
            Some(b'\t') => return Err("must be printable ASCII"),
            Some(_) => at += 1,
        }
    };
    let rest = &item[end + 1..];
    if are_parameters(rest) {
        Ok(&item[1..end])
    } else if rest.starts_with(b";") {
        Err("has parameters that are not those of RFC 8941")
    } else {
        Err("has characters after the closing quotation mark")
    }
}

/// Whether this is any number of parameters (4.2.3.2), such as `;a;b=1`, and nothing else.
fn are_parameters(mut rest: &[u8]) -> bool {
    let mut one = || {
        let name = trim_spaces(rest.strip_prefix(b";")?);
        if !matches!(name.first()?, b'a'..=b'z' | b'*') {
            return None;
        }
        let value = after(
            name,
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
        );
        rest = match value.strip_prefix(b"=") {
            Some(value) => after_bare_item(value)?,
            None => value,
        };
        Some(())
    };
    while one().is_some() {}
    rest.is_empty()
}

/// Returns what stands behind a bare item (4.2.3.1); `None` if this does not begin with one.
fn after_bare_item(item: &[u8]) -> Option<&[u8]> {
    let (first, rest) = item.split_first()?;
    match first {
        b'-' | b'0'..=b'9' => after_number(item),
        b'"' => after_string(rest),
        b'*' | b'a'..=b'z' | b'A'..=b'Z' => Some(after(rest, |byte| {
            byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
        })),
        b':' => {
            let end = rest.iter().position(|byte| *byte == b':')?;
            is_base64(&rest[..end]).then_some(&rest[end + 1..])
        }
        b'?' => rest.strip_prefix(b"0").or_else(|| rest.strip_prefix(b"1")),
        b'@' => {
            after_number(rest).filter(|behind| !rest[..rest.len() - behind.len()].contains(&b'.'))
        }
        b'%' => after_display_string(rest.strip_prefix(b"\"")?),
        _ => None,
    }
}

/// An integer has 15 digits at most; a decimal has 12 before its point and 3 behind (4.2.4).
fn after_number(number: &[u8]) -> Option<&[u8]> {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    let rest = after(digits, |byte| byte.is_ascii_digit());
    let whole = digits.len() - rest.len();
    let Some(fraction) = rest.strip_prefix(b".") else {
        return (1..=15).contains(&whole).then_some(rest);
    };
    let rest = after(fraction, |byte| byte.is_ascii_digit());
    let places = fraction.len() - rest.len();
    ((1..=12).contains(&whole) && (1..=3).contains(&places)).then_some(rest)
}

/// `rest` stands behind the opening quotation mark.
fn after_string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'"' | b'\\', behind @ ..] | [b' '..=b'[' | b']'..=b'~', behind @ ..] => behind,
            _ => return None,
        };
    }
}

/// RFC 9651, 4.2.10. `rest` stands behind the opening quotation mark.
fn after_display_string(mut rest: &[u8]) -> Option<&[u8]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut text = Vec::new();
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return std::str::from_utf8(&text).is_ok().then_some(behind),
            [b'%', high, low, behind @ ..] => {
                text.push(value(*high)? * 16 + value(*low)?);
                behind
            }
            [byte @ (b' '..=b'$' | b'&'..=b'~'), behind @ ..] => {
                text.push(*byte);
                behind
            }
            _ => return None,
        };
    }
}

/// Padding may be left out (4.2.7), all of it or a part.
fn is_base64(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let most = match digits.len() % 4 {
        0 => 0,
        2 => 2,
        3 => 1,
        _ => return false,
    };
    padding <= most
        && digits
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

fn trim_spaces(text: &[u8]) -> &[u8] {
    after(text, |byte| byte == b' ')
}

/// Returns what stands behind the bytes that are wanted.
fn after(text: &[u8], is_wanted: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().position(|byte| !is_wanted(*byte));
    &text[end.unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parameters(text: &str) -> bool {
        let item = format!("\"k\"{text}");
        string_content(item.as_bytes()).is_ok_and(|key| key == b"k")
    }

    #[test]
    fn parameters_of_every_type_are_parsed_and_ignored() {
        for right in [
            "",
            ";a",
            ";*a-b_c.9*",
            ";  a;b",
            ";a=1;a=2",
            ";a=-999999999999999",
            ";a=123456789012.123",
            ";a=-0.0",
            ";a=\"\"",
            ";a=\"x;y\\\"\\\\,\"",
            ";a=tok:en/1*",
            ";a=*",
            ";a=?0;b=?1",
            ";a=::",
            ";a=:aGk=:;b=:aGk:",
            ";a=:YQ==:;b=:YQ=:",
            ";a=:YWJj:",
            ";a=@0;b=@-1659578233",
            ";a=%\"f%c3%bc%22\"",
        ] {
            assert!(parameters(right), "{right}");
        }
        for wrong in [
            ";",
            ";;a",
            " ;a",
            ";a ",
            ";a ;b",
            ";A",
            ";1",
            ";-",
            ";\ta",
            ";a=",
            ";a= 1",
            ";a=1 ",
            ";a=1000000000000000",
            ";a=1234567890123.1",
            ";a=1.1234",
            ";a=1.",
            ";a=.1",
            ";a=-",
            ";a=-.1",
            ";a=--1",
            ";a=\"",
            ";a=\"\\x\"",
            ";a=?2",
            ";a=?",
            ";a=:aGk",
            ";a=:aGk-:",
            ";a=:a:",
            ";a=:=:",
            ";a=:YQ===:",
            ";a=:aGk==:",
            ";a=:YWJj=:",
            ";a=:YWJjY:",
            ";a=@1.5",
            ";a=@",
            ";a=%\"%C3%BC\"",
            ";a=%\"%ff\"",
            ";a=%\"%c3a%bc\"",
            ";a=%x",
            ";a=(1)",
            ", \"l\"",
            "k",
        ] {
            assert!(!parameters(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_item_panics_the_reader(text in "\"[ -~\t]{0,8}\"?[;=a1.:?@%\"\\\\ -]{0,12}") {
            let _ = string_content(text.as_bytes());
        }

        #[test]
        fn parameters_that_are_written_are_parsed(
            all in prop::collection::vec(
                ("[a-z*][a-z0-9_.*-]{0,3}", prop_oneof![
                    Just(String::new()),
                    (-999_999_999_999_999_i64..=999_999_999_999_999).prop_map(|n| format!("={n}")),
                    "=-?[0-9]{1,12}\\.[0-9]{1,3}",
                    "=\"([ !#-\\[\\]-~]|\\\\\\\\|\\\\\"){0,6}\"",
                    "=[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]{0,6}",
                    "=:([A-Za-z0-9+/]{4}){0,2}:",
                    "=\\?[01]",
                ], " {0,2}"),
                0..4,
            ),
        ) {
            let written = all.iter().map(|(name, value, space)| [";", space, name, value].concat());
            let text: String = written.collect();
            prop_assert!(parameters(&text), "{}", text);
        }
    }
}
