//! The files that the documentation of the sidecar shows are read.

use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

fn files(page: &str) -> Vec<&str> {
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split_once("```").unwrap().0)
        .collect()
}

/// `http.md` names a test for each requirement, as `file::function`.
#[test]
fn every_test_that_a_page_names_exists() {
    let page = include_str!("../../docs/http.md");
    let names = page.split('`').filter(|code| code.contains("::"));
    let mut count = 0;
    for name in names {
        let (file, function) = name.split_once("::").unwrap();
        let path = format!("{}/tests/sidecar/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect(&path);
        assert!(text.contains(&format!("fn {function}()")), "{name}");
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[test]
fn every_file_that_a_page_shows_is_right() {
    let pages = [
        include_str!("../../README.md"),
        include_str!("../../docs/sidecar.md"),
    ];
    for page in pages {
        let files = files(page);
        // The first is a whole file, the others are parts of one.
        Sidecar::contract(&Config::from_toml(files[0]).unwrap()).unwrap();
        for file in files {
            Config::from_toml(file).unwrap_or_else(|error| panic!("{file}\n{error}"));
        }
    }
}
