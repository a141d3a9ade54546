//! Tests of what is written, byte for byte, and of texts that are almost JSON.

use super::JsonFingerprint;
use super::read::MAX_VALUES;

/// The canonical form, or `-` where the bytes are compared.
fn form(json: &JsonFingerprint, body: impl AsRef<[u8]>) -> String {
    let canonical = json.canonical(body.as_ref(), &[]);
    canonical.map_or("-".to_owned(), |form| String::from_utf8(form).unwrap())
}

fn all() -> JsonFingerprint {
    JsonFingerprint::new()
}

#[test]
fn what_pointers_include_is_an_object_in_the_order_of_the_pointers() {
    let some = all()
        .include("/b")
        .include("/a")
        .include("/b")
        .include("/c");
    assert_eq!(
        form(&some, r#"{"a":1,"b":[2,null],"d":3}"#),
        r#"{"/a":1,"/b":[2,null]}"#
    );
    assert_eq!(form(&some, r#"{"a":[],"b":{}}"#), "-");
    for counts in ["[1]", "[1,null]", "[null,1]", r#"{"x":1,"y":null}"#] {
        let body = format!("{{\"a\":{counts}}}");
        assert_eq!(form(&some, body), format!("{{\"/a\":{counts}}}"));
    }
}

/// RFC 6901, 4: an index has no leading zero and no sign.
#[test]
fn an_index_that_is_written_otherwise_names_nothing() {
    for (pointer, left) in [
        ("/0", "[null,1]"),
        ("/1", "[0,null]"),
        ("/00", "[0,1]"),
        ("/01", "[0,1]"),
        ("/+1", "[0,1]"),
        ("/-", "[0,1]"),
        ("/2", "[0,1]"),
    ] {
        assert_eq!(form(&all().exclude(pointer), "[0,1]"), left, "{pointer}");
    }
}

#[test]
fn names_that_differ_only_above_the_surrogates_are_two() {
    let body = "{\"\u{f000}\":1,\"\u{e000}\":2,\"\u{10000}\":3}";
    let sorted = "{\"\u{10000}\":3,\"\u{e000}\":2,\"\u{f000}\":1}";
    assert_eq!(form(&all(), body), sorted);
}

#[test]
fn what_is_almost_json_is_compared_as_bytes_although_nothing_of_it_counts() {
    let some = all().include("/a");
    assert_eq!(form(&some, r#"{"a":1,"b":0}"#), r#"{"/a":1}"#);
    for wrong in [
        "-", "-.5", "1.", "1.e5", "1e", "1e+", "1E-", "01", "+1", "\"\\", "\"\\\"", "nul", "",
    ] {
        assert_eq!(
            form(&some, format!("{{\"a\":1,\"b\":{wrong}}}")),
            "-",
            "{wrong}"
        );
        assert_eq!(
            form(&some, format!("{{\"a\":1,\"b\":{wrong}")),
            "-",
            "{wrong}"
        );
    }
    let not_utf_8 = [&b"{\"a\":1,\"b\":\""[..], b"\xff", b"\"}"].concat();
    assert_eq!(form(&some, not_utf_8), "-");
}

#[test]
fn values_and_names_are_bounded_together() {
    // An object, its name and its value for each.
    let objects = |count| format!("[{}]", vec!["{\"a\":0}"; count].join(","));
    let most = (MAX_VALUES - 1) / 3;
    assert_ne!(form(&all(), objects(most)), "-");
    assert_eq!(form(&all(), objects(most + 1)), "-");
}

#[test]
fn escapes_are_written_where_they_are_needed_and_nowhere_else() {
    for (text, written) in [
        (r#""\b\t\n\f\r\"\\\/""#, r#""\b\t\n\f\r\"\\/""#),
        (
            r#""\u0008\u0009\u000a\u000c\u000d\u0022\u005c\u002f""#,
            r#""\b\t\n\f\r\"\\/""#,
        ),
        (r#""\u0000\u001f\u0020\u007f""#, "\"\\u0000\\u001f \u{7f}\""),
        (r#""\uD7ff\ue000\uFfFf""#, "\"\u{d7ff}\u{e000}\u{ffff}\""),
        (r#""\ud800\udc00\udbff\udfff""#, "\"\u{10000}\u{10ffff}\""),
    ] {
        assert_eq!(form(&all(), text), written);
    }
    for half in [
        r"\ud800",
        r"\udbff",
        r"\udc00",
        r"\udfff",
        r"\ud800\udbff",
        r"\ud800\ue000",
        r"\udc00\udc00",
        r"\ud800x",
        r"\ud80",
        r"\u00g0",
        r"\u",
        r"\x",
        r"\u+123",
    ] {
        assert_eq!(form(&all(), format!("\"{half}\"")), "-", "{half}");
    }
}

#[test]
fn numbers_are_written_as_ecmascript_does_and_only_if_a_double_tells_them() {
    for (number, written) in [
        ("1e290", "1e+290"),
        ("10e289", "1e+290"),
        ("2e290", "-"),
        ("1.1e290", "-"),
        ("9.9e289", "9.9e+289"),
        ("1e291", "-"),
        ("1e-290", "1e-290"),
        ("9.9e-291", "-"),
        ("1e-291", "-"),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("123456789012345e6", "123456789012345000000"),
        ("123456789012345e7", "1.23456789012345e+21"),
        ("123456789012345", "123456789012345"),
        ("1234567890123450", "1234567890123450"),
        ("1234567890123456", "-"),
        ("12345678901234.5", "12345678901234.5"),
        ("-10.50", "-10.5"),
        ("0.5", "0.5"),
        ("-0", "0"),
        ("1e-6", "0.000001"),
        ("1e-7", "1e-7"),
        ("0.000012e-2", "1.2e-7"),
        ("105e-1", "10.5"),
        ("0.00000", "0"),
        ("0e99999999999999999999", "0"),
        ("1e99999999999999999999", "-"),
        ("1e-99999999999999999999", "-"),
        ("1E+2", "100"),
        ("1e-0", "1"),
    ] {
        assert_eq!(form(&all(), number), written, "{number}");
    }
}
