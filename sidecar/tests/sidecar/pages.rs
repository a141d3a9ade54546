//! The files that the documentation of the sidecar shows are read.

use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

fn files(page: &str) -> Vec<&str> {
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split_once("```").unwrap().0)
        .collect()
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
