//! The rooms of docs/architecture.md against the source: each is named, and an import points downwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{read, root};

/// The rooms of the picture, each with its height: a room imports only from lower ones.
const HEIGHTS: [(&str, u32); 12] = [
    ("store", 0),
    ("wire", 1),
    ("pal", 1),
    ("events", 2),
    ("file_locks", 2),
    ("shared_state", 2),
    ("host", 2),
    ("testing", 2),
    ("leader", 3),
    ("member", 4),
    ("node", 5),
    ("capi", 6),
];

/// The files that make or call a whole node, so they stand above it.
const ABOVE_NODE: [&str; 4] = [
    "arch/host/node.rs",
    "arch/host/secure.rs",
    "src/testing/conformance/family.rs",
    "src/testing/node.rs",
];

fn height(room: &str) -> Option<u32> {
    let found = HEIGHTS.iter().find(|(name, _)| *name == room);
    found.map(|(_, height)| *height)
}

/// Adds the sources below a directory that are no tests.
fn add_sources(directory: &Path, sources: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            add_sources(&path, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            sources.push(path);
        }
    }
}

/// Returns the code of a file: without its comments and its module of tests.
fn code_of(path: &Path) -> String {
    let text = read(path);
    let lines = text.lines();
    let code = lines.take_while(|line| !line.starts_with("mod tests {"));
    let code = code.map(|line| line.split("//").next().unwrap());
    code.collect::<Vec<_>>().join("\n")
}

/// Returns the names that follow `crate::`, also those in braces.
fn names_of_the_crate(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in code.split("crate::").skip(1) {
        let mut depth = 0;
        let mut is_wanted = true;
        let mut name = String::new();
        for letter in part.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if letter.is_ascii_alphanumeric() || letter == '_' => {
                    if is_wanted && depth < 2 {
                        name.push(letter);
                    }
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                names.push(std::mem::take(&mut name));
                is_wanted = false;
            }
            is_wanted |= letter == ',' && depth == 1;
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// Returns the room of each name that the root of the crate takes from one.
fn rooms_of_the_names() -> BTreeMap<String, String> {
    let lib = code_of(&root().join("src/lib.rs"));
    let mut rooms = BTreeMap::new();
    for part in lib.split("pub use ").skip(1) {
        let Some((room, names)) = part.split(';').next().unwrap().split_once("::") else {
            continue;
        };
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        for name in names
            .split(|letter| !is_word(letter))
            .filter(|name| !name.is_empty())
        {
            rooms.insert(name.to_owned(), room.to_owned());
        }
    }
    rooms
}

#[test]
fn every_import_points_to_a_lower_room() {
    let rooms = rooms_of_the_names();
    let mut sources = Vec::new();
    add_sources(&root().join("src"), &mut sources);
    add_sources(&root().join("arch/host"), &mut sources);
    let (mut checked, mut above_node) = (0, Vec::new());
    for source in &sources {
        let path = source.strip_prefix(root()).unwrap().to_str().unwrap();
        let mut parts = path.split('/').skip(1);
        let Some((own, own_height)) = parts.next().and_then(|room| Some((room, height(room)?)))
        else {
            continue;
        };
        for name in names_of_the_crate(&code_of(source)) {
            let room = rooms.get(&name).unwrap_or(&name);
            let Some(other) = height(room).filter(|_| room != own) else {
                continue;
            };
            checked += 1;
            if other >= own_height {
                assert!(
                    ABOVE_NODE.contains(&path),
                    "{path} uses {name} of {room}, which is no lower room than {own}"
                );
                above_node.push(path);
            }
        }
    }
    assert!(checked > 300, "{checked} imports");
    above_node.sort_unstable();
    above_node.dedup();
    assert_eq!(above_node, ABOVE_NODE, "the files that stand above `node`");
    let document = read("docs/architecture.md");
    for path in ABOVE_NODE {
        assert!(document.contains(&format!("`{path}`")), "{path}");
    }
}

#[test]
fn every_room_is_named_in_the_architecture() {
    let document = read("docs/architecture.md");
    for directory in ["src", "src/node", "src/pal"] {
        for entry in root().join(directory).read_dir().unwrap() {
            let path = entry.unwrap().path();
            // A directory beside a file of its name is a part of that file's module.
            if !path.is_dir() || path.with_extension("rs").exists() || path.ends_with("loom_tests")
            {
                continue;
            }
            let room = path.strip_prefix(root()).unwrap().display().to_string();
            assert!(document.contains(&format!("| `{room}` | ")), "{room}");
        }
    }
}
