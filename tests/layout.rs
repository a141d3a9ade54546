//! The folders of `src/` and the direction between them: a folder imports only
//! from folders below it, and no circle of imports has more than three files.
//! Besides, each public type has a name of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders (and files) directly in `src/`, from top to bottom. Each may
/// import from those below it. Folders on one line don't import from each
/// other.
const ROOMS: [&[&str]; 16] = [
    &["for_sidecar"],
    &["config", "contract", "telemetry"],
    &["layer", "client", "exactly_once"],
    &["request"],
    &["lease"],
    &["counts"],
    &["observer"],
    &["options"],
    &["scope", "rejection"],
    &["conformance"],
    &["store"],
    &["message"],
    &["limits"],
    &["record"],
    &["runtime"],
    &["display", "error"],
];

/// Modules that contain tests, which may import anything.
const TESTS: [&str; 2] = ["tests", "interleavings"];

/// A module's path, without `crate`: `["lease", "renewer"]`.
type Module = Vec<String>;

#[derive(Default)]
struct Source {
    /// Paths that the module names, as they are written there.
    imports: Vec<Vec<String>>,
    /// The module's re-exports: the path behind each name.
    exports: BTreeMap<String, Vec<String>>,
}

struct Sources(BTreeMap<Module, Source>);

impl Sources {
    fn read(root: &Path) -> Self {
        let mut sources = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let module = path.strip_prefix(root).unwrap().with_extension("");
                    let module = module.iter().map(|name| name.to_str().unwrap().to_owned());
                    let module: Module = module
                        .filter(|name| name != "mod" && name != "lib")
                        .collect();
                    if !module.iter().any(|name| TESTS.contains(&name.as_str())) {
                        sources.insert(module, Source::of(&fs::read_to_string(&path).unwrap()));
                    }
                }
            }
        }
        Self(sources)
    }

    /// The module that defines the item of a path, if the path leads into this
    /// crate. Re-exports are followed.
    fn resolve(&self, from: &Module, path: &[String]) -> Option<Module> {
        let (mut module, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
            }
            first => {
                let child = [&from[..], &[first.to_owned()]].concat();
                self.0.get(&child)?;
                (from.clone(), path)
            }
        };
        while let [name, behind @ ..] = rest {
            let child = [&module[..], std::slice::from_ref(name)].concat();
            if !self.0.contains_key(&child) {
                break;
            }
            (module, rest) = (child, behind);
        }
        let exported = rest
            .first()
            .and_then(|name| self.0[&module].exports.get(name));
        match exported {
            Some(path) => self.resolve(&module, path).or(Some(module)),
            None => Some(module),
        }
    }

    /// The modules that each module imports.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, source): (_, &Source)| {
            let targets = source.imports.iter();
            let mut targets: BTreeSet<_> = targets
                .filter_map(|path| self.resolve(module, path))
                .collect();
            targets.remove(module);
            // The crate's root only re-exports what other modules define, so an
            // import of the root is no arrow.
            targets.remove(&Vec::new());
            (module, targets)
        };
        self.0.iter().map(of).collect()
    }
}

impl Source {
    fn of(text: &str) -> Self {
        let code: String = text
            .lines()
            .map(without_comment)
            .take_while(|line| !line.starts_with("mod tests {"))
            .flat_map(|line| [line, "\n".to_owned()])
            .collect();
        let mut source = Self::default();
        for (at, _) in code.match_indices("use ") {
            let before = code[..at].rsplit(['\n', '{', ';']).next().unwrap().trim();
            if !(before.is_empty() || before.starts_with("pub")) {
                continue;
            }
            let Some(tree) = code[at + 4..].split(';').next() else {
                continue;
            };
            for path in paths(tree, &[]) {
                if before.starts_with("pub") {
                    source.exports.insert(path.last().unwrap().clone(), path);
                } else {
                    source.imports.push(path);
                }
            }
        }
        for root in ["crate::", "super::"] {
            for (at, _) in code.match_indices(root) {
                // The rest of a path that begins further left.
                if code[..at].ends_with(':') {
                    continue;
                }
                let path: String = code[at..]
                    .chars()
                    .take_while(|char| char.is_alphanumeric() || "_:".contains(*char))
                    .collect();
                // A `use` tree, which is read above.
                if code[at + path.len()..].starts_with('{') {
                    continue;
                }
                let path = path.split("::").filter(|name| !name.is_empty());
                source.imports.push(path.map(str::to_owned).collect());
            }
        }
        source
    }
}

/// A line of code without its comment and without what its strings hold.
fn without_comment(line: &str) -> String {
    let mut code = String::new();
    for (at, part) in line.replace("\\\"", "").split('"').enumerate() {
        if at % 2 == 1 {
            continue;
        }
        match part.split_once("//") {
            Some((part, _)) => return code + part,
            None => code.push_str(part),
        }
    }
    code
}

/// All paths that a `use` tree contains.
fn paths(tree: &str, before: &[String]) -> Vec<Vec<String>> {
    let mut depth = 0;
    let branches = tree.split(|char| {
        depth += i32::from(char == '{') - i32::from(char == '}');
        char == ',' && depth == 0
    });
    let mut all = Vec::new();
    for branch in branches.map(str::trim).filter(|branch| !branch.is_empty()) {
        let (stem, inner) = match branch.split_once('{') {
            Some((stem, inner)) => (stem, inner.rsplit_once('}').map(|(inner, _)| inner)),
            None => (branch.split(" as ").next().unwrap(), None),
        };
        let stem = stem.split("::").map(str::trim);
        let stem = stem.filter(|name| !name.is_empty()).map(str::to_owned);
        let path: Vec<_> = before.iter().cloned().chain(stem).collect();
        match inner {
            Some(inner) => all.extend(paths(inner, &path)),
            None => all.push(path),
        }
    }
    all
}

fn room(module: &Module) -> Option<(usize, &str)> {
    let name = module.first()?.as_str();
    let row = ROOMS.iter().position(|row| row.contains(&name));
    Some((
        row.unwrap_or_else(|| panic!("`{name}` has no row in ROOMS")),
        name,
    ))
}

/// All imports, and all re-exports, that do not point to a lower folder.
fn upward(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (module, mut targets) in sources.imports() {
        // The crate's root re-exports from every room.
        if !module.is_empty() {
            let exports = sources.0[module].exports.values();
            targets.extend(exports.filter_map(|path| sources.resolve(module, path)));
        }
        for target in targets {
            if let (Some((from, own)), Some((to, other))) = (room(module), room(&target))
                && own != other
                && to <= from
            {
                found.push(format!("{} -> {}", module.join("::"), target.join("::")));
            }
        }
    }
    found
}

/// Groups of modules that import each other, directly or by way of others.
fn circles(sources: &Sources) -> Vec<Vec<String>> {
    let imports = sources.imports();
    let reach = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = imports[from].iter().cloned().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.clone()) {
                next.extend(imports[&module].iter().cloned());
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports
        .keys()
        .map(|module| (*module, reach(module)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, reachable) in &reached {
        let circle: Vec<_> = reachable
            .iter()
            .filter(|other| reached[other].contains(*module))
            .map(|other| other.join("::"))
            .collect();
        circles.insert(circle);
    }
    circles.into_iter().collect()
}

fn sources() -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let upward = upward(&sources());
    assert!(
        upward.is_empty(),
        "imports that go up:\n{}",
        upward.join("\n")
    );
}

#[test]
fn no_circle_of_files_is_larger_than_three_or_leaves_its_folder() {
    for circle in circles(&sources()) {
        let rooms: BTreeSet<_> = circle.iter().map(|name| name.split("::").next()).collect();
        assert!(
            circle.len() <= 3 && rooms.len() <= 1,
            "a circle: {circle:?}"
        );
    }
}

/// The page of a folder says which rooms the folder may use, and uses all of these.
#[test]
fn the_page_of_a_room_names_the_rooms_that_it_uses() {
    let sources = sources();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, targets) in sources.imports() {
        let Some((_, own)) = room(module) else {
            continue;
        };
        let others = targets.iter().filter_map(|target| room(target));
        let others = others.map(|(_, other)| other.to_owned());
        let others = others.filter(|other| other != own);
        used.entry(own).or_default().extend(others);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, used) in used {
        let Ok(page) = fs::read_to_string(root.join(room).join("mod.rs")) else {
            continue;
        };
        let page = page.lines().map_while(|line| line.strip_prefix("//!"));
        let page: String = page.flat_map(|line| [line, " "]).collect();
        let may_use = page
            .split("May use: ")
            .nth(1)
            .unwrap_or_else(|| panic!("{room}"));
        let named = may_use
            .split('.')
            .next()
            .unwrap()
            .split('`')
            .skip(1)
            .step_by(2);
        let named: BTreeSet<_> = named.map(str::to_owned).collect();
        assert_eq!(named, used, "src/{room}/mod.rs");
    }
}

/// The tests above would pass without finding anything, so this test plants
/// what they must find.
#[test]
fn a_planted_arrow_up_and_a_planted_circle_are_found() {
    let mut sources = sources();
    let plant = |sources: &mut Sources, at: [&str; 2], path: &str| {
        let module: Module = at.map(str::to_owned).to_vec();
        let source = sources.0.get_mut(&module).expect("a module of this name");
        source.imports.extend(paths(path, &[]));
    };
    plant(
        &mut sources,
        ["lease", "state"],
        "crate::{options, layer::builder::X}",
    );
    assert_eq!(upward(&sources), ["lease::state -> layer::builder"]);
    for line in [
        "pub(crate) use crate::{layer::builder::X};",
        "pub(super) use super::super::layer::builder::X;",
        "fn f() { super::super::layer::builder::x() }",
        "fn f() { use crate::{layer::builder::X}; }",
        "const A: (&str, X) = (\"//\", crate::layer::builder::X);",
    ] {
        let mut sources = self::sources();
        let planted = Source::of(line);
        let lease = sources
            .0
            .get_mut(&["lease", "state"].map(str::to_owned)[..]);
        let lease = lease.expect("a module of this name");
        lease.imports.extend(planted.imports);
        lease.exports.extend(planted.exports);
        assert_eq!(
            upward(&sources),
            ["lease::state -> layer::builder"],
            "{line}"
        );
    }
    plant(&mut sources, ["request", "judge"], "crate::request::run");
    plant(&mut sources, ["request", "stop"], "super::judge::judge");
    let largest = circles(&sources)
        .into_iter()
        .map(|circle| circle.len())
        .max();
    assert!(largest > Some(3), "{largest:?}");
}

/// The names of the public types that `text` defines.
fn defined(text: &str) -> Vec<String> {
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let names = text.lines().filter_map(|line| {
        let item = line.strip_prefix("pub ")?;
        let item = kinds.iter().find_map(|kind| item.strip_prefix(kind))?;
        let end = item.find(|char: char| !char.is_alphanumeric())?;
        Some(item[..end].to_owned())
    });
    names.collect()
}

/// Adds the names of the public types under `module` to `found`: those that
/// public modules define and those that they re-export.
fn public(root: &Path, module: &Path, found: &mut BTreeSet<String>) {
    let files = [
        root.join(module).join("mod.rs"),
        root.join(module).with_extension("rs"),
        root.join(module).join("lib.rs"),
    ];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
    let text = text.unwrap_or_else(|| panic!("no file of the module {}", module.display()));
    found.extend(defined(&text));
    for (at, _) in text.match_indices("\npub use ") {
        let tree = text[at + 9..].split(';').next().unwrap();
        let names = paths(tree, &[]).into_iter();
        let is_type = |name: &String| name.starts_with(char::is_uppercase);
        found.extend(
            names
                .filter_map(|path| path.last().cloned())
                .filter(is_type),
        );
    }
    for (at, _) in text.match_indices("\npub mod ") {
        let name = text[at + 9..].split(';').next().unwrap();
        // The module `for_sidecar` is not part of the API.
        if name != "for_sidecar" {
            public(root, &module.join(name), found);
        }
    }
}

#[test]
fn no_two_public_types_have_one_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = BTreeSet::new();
    public(&root, Path::new(""), &mut names);
    assert!(names.contains("IdempotencyLayer") && names.contains("SqlClaim"));
    let mut definitions = BTreeMap::<String, usize>::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for name in defined(&fs::read_to_string(&path).unwrap()) {
                    *definitions.entry(name).or_default() += 1;
                }
            }
        }
    }
    let twice = |name: &&String| definitions.get(*name).is_some_and(|count| *count > 1);
    let twice: Vec<_> = names.iter().filter(twice).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
