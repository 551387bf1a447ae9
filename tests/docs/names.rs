//! Every file, link, command, test, feature and identifier that a document names exists.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Document, read, root};

/// The names that documents use and that do not exist.
struct Missing(Vec<String>);

impl Missing {
    fn check(&mut self, document: &Document, exists: bool, what: &str) {
        if !exists {
            let path = document.path.strip_prefix(root()).unwrap();
            self.0.push(format!("{}: {what}", path.display()));
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "missing:\n  {}", self.0.join("\n  "));
    }
}

#[test]
fn the_target_of_every_link_exists() {
    let mut missing = Missing(Vec::new());
    for document in Document::all() {
        let directory = document.path.parent().unwrap();
        let inline = document.prose.split("](").skip(1);
        let inline = inline.map(|link| link.split(')').next().unwrap());
        // `[name]: target`
        let lines = document.prose.lines().filter(|line| line.starts_with('['));
        let definitions = lines.filter_map(|line| Some(line.split_once("]: ")?.1));
        for link in inline.chain(definitions) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() {
                document.path.clone()
            } else {
                directory.join(file)
            };
            missing.check(&document, file.exists(), link);
            if !heading.is_empty() && file.exists() {
                let headings = read(&file);
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                missing.check(&document, headings.any(|it| anchor(it) == heading), link);
            }
        }
    }
    missing.assert_none();
}

/// Returns the anchor of a heading, as forges generate it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut missing = Missing(Vec::new());
    for document in Document::all() {
        for name in document.code() {
            let path_like = |it: char| it.is_ascii_alphanumeric() || "_-./".contains(it);
            let first = name.split('/').next().unwrap();
            let made_later = ["target", "fuzz/artifacts", "fuzz/corpus"];
            if !name.contains('/')
                || !name.chars().all(path_like)
                || first.is_empty()
                || !root().join(first).is_dir()
                || made_later.iter().any(|it| name.starts_with(it))
            {
                continue;
            }
            missing.check(&document, root().join(&name).exists(), &name);
        }
    }
    missing.assert_none();
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut missing = Missing(Vec::new());
    for document in Document::all() {
        for name in document.code() {
            let Some((file, test)) = name.split_once(".rs::") else {
                continue;
            };
            let path = root().join(format!("{file}.rs"));
            let exists = std::fs::read_to_string(path)
                .is_ok_and(|source| source.contains(&format!("fn {test}(")));
            missing.check(&document, exists, &name);
        }
    }
    missing.assert_none();
}

#[test]
fn every_command_names_existing_targets_and_features() {
    let manifests = [
        "Cargo.toml",
        "benches/Cargo.toml",
        "tests/Cargo.toml",
        "tests/conformance/Cargo.toml",
        "tests/executors/Cargo.toml",
        "tests/simulator/Cargo.toml",
    ];
    let manifests = manifests.map(read).concat();
    let features = features();
    let mut missing = Missing(Vec::new());
    for document in Document::all() {
        for command in document.commands() {
            let words: Vec<&str> = command.split_whitespace().collect();
            let first = words.iter().find(|word| !word.contains('=')).copied();
            match first {
                Some("cargo" | "make") => {}
                Some(script) if script.starts_with("tools/") || script.starts_with(".ci/") => {
                    missing.check(&document, root().join(script).exists(), script);
                    continue;
                }
                _ => continue,
            }
            // Another package has targets and features of its own.
            if words.contains(&"fuzz") || words.contains(&"--manifest-path") {
                continue;
            }
            for pair in words.windows(2) {
                let [option, value] = [pair[0], pair[1]];
                let exists = match option {
                    "--example" => is_example(value, &manifests),
                    "--test" => is_in(&manifests, "test", value),
                    "--bench" => is_in(&manifests, "bench", value),
                    "--features" => value
                        .split(',')
                        .all(|feature| features.iter().any(|it| it == feature)),
                    "-C" => root().join(value).is_dir(),
                    _ => true,
                };
                let is_name = value.chars().all(|it| !it.is_ascii_uppercase());
                missing.check(&document, exists || !is_name, &command);
            }
        }
    }
    missing.assert_none();
}

/// Cargo finds most of the examples by itself, and no test and no bench.
fn is_example(name: &str, manifests: &str) -> bool {
    let at = |path: String| root().join("examples").join(path).exists();
    at(format!("{name}.rs")) || at(format!("{name}/main.rs")) || is_in(manifests, "example", name)
}

fn is_in(manifests: &str, kind: &str, name: &str) -> bool {
    manifests.contains(&format!("[[{kind}]]\nname = \"{name}\"\n"))
}

/// Cargo would pass over a file that is not named, in silence.
#[test]
fn every_test_and_every_bench_is_a_target_of_its_package() {
    for (directory, kind) in [("tests", "test"), ("benches", "bench")] {
        let manifest = read(format!("{directory}/Cargo.toml"));
        for entry in root().join(directory).read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            // A package of its own has a manifest.
            let is_folder = path.join("main.rs").exists() && !path.join("Cargo.toml").exists();
            if is_source || is_folder {
                let named = is_in(&manifest, kind, name);
                assert!(named, "{directory}/Cargo.toml does not name {name}");
            }
        }
    }
}

fn features() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[features]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_readme_lists_every_feature() {
    let readme = read("README.md");
    for feature in features().iter().filter(|it| *it != "default") {
        let row = format!("| `{feature}` |");
        assert!(readme.contains(&row), "README.md: no row {row}");
    }
}

#[test]
fn the_readme_links_every_document() {
    let readme = read("README.md");
    for document in Document::all() {
        let path = document.path.strip_prefix(root()).unwrap();
        if path.starts_with("docs") {
            let path = path.to_str().unwrap();
            assert!(readme.contains(path), "README.md does not link {path}");
        }
    }
}

/// In the documentation of the crate the files are at another place: src/guide/links.md leads there.
#[test]
fn every_link_of_a_page_of_the_guide_leads_to_a_place_in_the_documentation() {
    let guide = read("src/guide/mod.rs");
    let targets = read("src/guide/links.md");
    let files: Vec<_> = guide.split("\"../../").skip(1).collect();
    assert!(files.len() > 5);
    for file in files {
        let path = file.split('"').next().unwrap();
        let document = Document::read(&root().join(path));
        for link in document.prose.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let is_right = link.starts_with("https://") || link.starts_with('#');
            assert!(is_right, "{path}: {link} is not written as [text][target]");
        }
        let lines = document.prose.lines().filter(|line| line.starts_with('['));
        for (label, _) in lines.filter_map(|line| line.split_once("]: ")) {
            let line = format!("{label}]: ");
            assert!(
                targets.contains(&line),
                "src/guide/links.md does not have {line}"
            );
        }
    }
}

/// Returns the words of all source files, and their names.
fn words_of_the_sources() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut directories: Vec<_> = [
        "src",
        "arch",
        "tests",
        "examples",
        "benches",
        "include",
        "tools",
        "fuzz/fuzz_targets",
    ]
    .map(|it| root().join(it))
    .into();
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push(path);
            } else if is_source(&path) {
                words.extend(
                    path.file_stem()
                        .map(|stem| stem.to_string_lossy().into_owned()),
                );
                let text = std::fs::read_to_string(&path).unwrap();
                let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
                words.extend(text.split(|it| !is_word(it)).map(str::to_owned));
            }
        }
    }
    words
}

fn is_source(path: &Path) -> bool {
    // This file has the words that it searches for.
    !path.ends_with("docs/names.rs")
        && path.extension().is_some_and(|it| {
            ["rs", "h", "c", "lua", "sh"]
                .iter()
                .any(|known| it == *known)
        })
}

/// A renamed type or function is renamed in the documents, too. An old name in the changelog is right.
#[test]
fn every_identifier_that_a_document_names_exists() {
    let words = words_of_the_sources();
    let mut missing = Missing(Vec::new());
    for document in Document::all() {
        if document.path.ends_with("CHANGELOG.md") {
            continue;
        }
        for name in document.code() {
            let is_path = name.contains("::") || name.contains('_');
            let is_identifier = |it: char| it.is_ascii_alphanumeric() || "_:".contains(it);
            let plain = name.strip_suffix("()").unwrap_or(&name);
            if !is_path || !plain.chars().all(is_identifier) {
                continue;
            }
            for word in plain.split(':').filter(|it| !it.is_empty()) {
                // `PROCESS_COUNT` is the example of a new message.
                let is_known = ["core", "std", "alloc", "PROCESS_COUNT"].contains(&word);
                missing.check(&document, is_known || words.contains(word), &name);
            }
        }
    }
    missing.assert_none();
}

/// No older toolchain is at hand: what the dependencies say has to do, and clippy knows when an item of `core` was
/// added.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Returns what cargo prints. It fetches the packages of optional features that are missing; where it can't, there is nothing
/// to check.
fn cargo(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--locked")
        .current_dir(root())
        .output()
        .unwrap();
    if !output.status.success() {
        assert!(std::env::var_os("CI").is_none(), "{output:?}");
        println!("skipped: not all packages can be had: {output:?}");
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn no_dependency_needs_a_later_rust_than_the_crate_names() {
    let version = |text: &str| {
        let mut numbers = text.split('.').map(|it| it.parse::<u32>().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    };
    let manifest = read("Cargo.toml");
    let ours = manifest.split("\nrust-version = \"").nth(1).unwrap();
    let ours = version(ours.split('"').next().unwrap());
    let Some(tree) = cargo(&[
        "tree",
        "--package",
        "libos-ipc",
        "--all-features",
        "--edges",
        "normal,build",
        "--target",
        TARGET,
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]) else {
        return;
    };
    let used: BTreeSet<_> = tree
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>())
        .collect();
    let metadata = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        TARGET,
    ]);
    let Some(metadata) = metadata else { return };
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut count = 0;
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let number = format!("v{}", package["version"].as_str().unwrap());
        let is_used = used.contains(&vec![name, &number]);
        if let Some(theirs) = package["rust_version"].as_str().filter(|_| is_used) {
            assert!(version(theirs) <= ours, "{name} needs Rust {theirs}");
            count += 1;
        }
    }
    assert!(count > 5);
}
