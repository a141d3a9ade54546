//! Errors in files name the place, the mistake and what is allowed.

use tower_idempotency::config::{Config, FileError};

use crate::cases::{Case, JSON, TOML, cases};

fn check(file: &'static str, at_least: usize, read: fn(&str) -> Result<Config, FileError>) {
    let cases = cases(file);
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    for Case { text, said, .. } in cases {
        match read(text) {
            Ok(_) => panic!("{text}\nis read, and should not be: {said}"),
            Err(error) => assert_eq!(error.to_string(), said, "of\n{text}"),
        }
    }
}

#[test]
fn wrong_toml_is_refused_with_its_place_and_what_is_allowed() {
    check(TOML, 145, Config::from_toml);
}

#[test]
fn wrong_json_is_refused_with_its_place_and_what_is_allowed() {
    check(JSON, 20, Config::from_json);
}

#[test]
fn an_error_has_its_parts() {
    let directory = std::env::temp_dir().join(format!("config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text, place) in [
        ("a.toml", "\n[idempotency]\n lease = 30", Some((3, 2))),
        ("b.conf", "\n[idempotency]\n lease = 30", Some((3, 2))),
        ("c.json", "{\n \"idempotency\": {\"lease\": 30}}", None),
        ("d.JSON", "{\n \"idempotency\": {\"lease\": 30}}", None),
    ] {
        let file = directory.join(name);
        std::fs::write(&file, text).unwrap();
        let error = Config::read(&file).unwrap_err();
        assert_eq!(error.file(), Some(&*file));
        assert_eq!(error.line().zip(error.column()), place);
        assert_eq!(error.option(), Some("idempotency.lease"));
        let place = place.map_or(String::new(), |(line, column)| format!("{line}:{column}:"));
        let begin = format!("{}:{place} `idempotency.lease` must be ", file.display());
        assert!(error.to_string().starts_with(&begin), "{error}");
    }
    let nothing = directory.join("nothing.toml");
    let error = Config::read(&nothing).unwrap_err();
    assert_eq!(error.line(), None);
    assert_eq!(
        error.to_string(),
        format!("{}: can't be read", nothing.display())
    );
    assert!(std::error::Error::source(&error).is_some());

    let later = directory.join("later.toml");
    std::fs::write(&later, "\n\n[idempotency]\nlease = '10s'").unwrap();
    let config = Config::read(&later).unwrap();
    let error = config
        .builder(tower_idempotency::MemoryStore::new())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}:3:2: `idempotency.scope` is missing: it says whose a key is, such as \
             [\"header:x-api-key\"], and has no default",
            later.display()
        )
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn who_says_whose_a_key_is_says_it_alone() {
    use tower_idempotency::{MemoryStore, scope};

    for (text, said) in [
        (
            "[idempotency]\nscope = ['shared']",
            "2:1: `idempotency.scope`",
        ),
        (
            "[[route]]\nmatch = '/a'\n[[route]]\nmatch = '/b'\nscope = ['shared']",
            "5:1: `route[1].scope`",
        ),
    ] {
        let config = Config::from_toml(text).unwrap();
        let error = config
            .builder_with_scope(MemoryStore::new(), scope::peer_ip())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{said} must not stand here: the application says whose a key is")
        );
    }
}
