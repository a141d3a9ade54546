//! What the repository's pages state about the repository is true: links,
//! features, sections.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All files in the repository whose names have one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The lines of a page that are outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The anchor of a heading, as forges derive it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The targets of the links in a line, written `[text](target)` or `[text]:
/// target`.
fn targets(line: &str) -> Vec<&str> {
    let mut targets: Vec<_> = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        targets.push(target);
    }
    targets
}

#[test]
fn each_link_between_pages_leads_to_a_file_and_a_heading_that_are_there() {
    let mut broken = Vec::new();
    for page in files(&[".md"]) {
        let text = fs::read_to_string(&page).unwrap();
        for target in prose(&text).flat_map(targets) {
            if target.contains("://") || target.contains("::") || target.contains(' ') {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let is_there = linked.exists()
                && (heading.is_empty()
                    || prose(&fs::read_to_string(&linked).unwrap())
                        .filter(|line| line.starts_with('#'))
                        .any(|line| anchor(line) == heading));
            if !is_there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_and_the_first_page_of_the_crate_name_every_feature() {
    let manifest = read("Cargo.toml");
    let features: BTreeSet<_> = manifest
        .split_once("\n[features]\n")
        .unwrap()
        .1
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| *name != "default" && !name.starts_with(['_', '#']))
        .collect();
    assert!(features.contains("memory"));
    let (readme, crate_page) = (read("README.md"), read("src/lib.rs"));
    let is_row = |line: &&str| line.starts_with("| `");
    let rows: Vec<_> = readme.lines().filter(is_row).collect();
    let is_item = |line: &&str| line.starts_with("//! - `");
    let items: Vec<_> = crate_page.lines().filter(is_item).collect();
    for feature in features {
        let name = format!("`{feature}`");
        assert!(rows.iter().any(|row| row.contains(&name)), "{name}: README");
        assert!(
            items.iter().any(|item| item.contains(&name)),
            "{name}: crate"
        );
    }
}

/// Comments once cited numbered sections of a document that is not in the
/// repository.
#[test]
fn no_comment_cites_a_numbered_section_of_this_projects_documents() {
    let mut cited = Vec::new();
    for file in files(&[".rs", ".md"]) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let is_numbered = words.windows(2).any(|pair| {
                matches!(
                    pair[0].trim_start_matches('(').to_lowercase().as_str(),
                    "section" | "sections"
                ) && pair[1].starts_with(|c: char| c.is_ascii_digit())
            });
            if is_numbered && !line.contains("RFC") {
                cited.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(cited.is_empty(), "{cited:#?}");
}

/// The crate is not published: applications depend on it by path or from git.
#[test]
fn no_page_says_that_the_crate_is_published() {
    let claims = [
        "cargo add tower-idempotency",
        "cargo install tower-idempotency",
        "tower-idempotency = { version",
        "tower-idempotency = \"",
        "docs.rs/tower-idempotency",
        "crates.io/crates/tower-idempotency",
    ];
    let mut found = Vec::new();
    for page in files(&[".md"]) {
        let text = fs::read_to_string(&page).unwrap();
        let said = claims.iter().filter(|claim| text.contains(**claim));
        found.extend(said.map(|claim| format!("{}: {claim}", page.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}
