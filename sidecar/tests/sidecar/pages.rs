//! The files that the documentation of the sidecar shows are read.

use tower_idempotency::config::Config;
use tower_idempotency::for_sidecar::GatewayCode;
use tower_idempotency::rejection::RejectionCode;
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

#[test]
fn every_refusal_is_listed_where_its_reader_looks() {
    let sidecar = include_str!("../../docs/sidecar.md");
    let clients = include_str!("../../../docs/what-clients-see.md");
    let options = include_str!("../../../docs/config.md");
    for code in GatewayCode::ALL {
        let status = code.default_status().as_u16();
        let row = sidecar
            .lines()
            .find(|line| line.starts_with(&format!("| `{code}` |")));
        assert!(
            row.unwrap_or_default().contains(&status.to_string()),
            "{code}"
        );
        assert!(options.contains(&format!("`{code}`")), "{code}");
    }
    for code in RejectionCode::ALL {
        let status = code.default_status().as_u16().to_string();
        let row = clients
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&format!("`{code}`")));
        assert!(row.unwrap_or_default().contains(&status), "{code}");
    }
}
