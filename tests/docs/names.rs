//! Every file, link, example, test, bench and feature that a document names is there.

use super::{Document, read, root};

/// What there is to say against a document.
struct Complaints(Vec<String>);

impl Complaints {
    fn check(&mut self, document: &Document, is_there: bool, what: &str) {
        if !is_there {
            let path = document.path.strip_prefix(root()).unwrap();
            self.0.push(format!("{}: {what}", path.display()));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "not there:\n  {}", self.0.join("\n  "));
    }
}

#[test]
fn links_lead_somewhere() {
    let mut complaints = Complaints(Vec::new());
    for document in Document::all() {
        let directory = document.path.parent().unwrap();
        for link in document.prose.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() {
                document.path.clone()
            } else {
                directory.join(file)
            };
            complaints.check(&document, file.exists(), link);
            if !heading.is_empty() && file.exists() {
                let headings = read(&file);
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                complaints.check(&document, headings.any(|it| anchor(it) == heading), link);
            }
        }
    }
    complaints.none();
}

/// What a link to a heading has behind its `#`.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn files_are_there() {
    let mut complaints = Complaints(Vec::new());
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
            complaints.check(&document, root().join(&name).exists(), &name);
        }
    }
    complaints.none();
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut complaints = Complaints(Vec::new());
    for document in Document::all() {
        for name in document.code() {
            let Some((file, test)) = name.split_once(".rs::") else {
                continue;
            };
            let path = root().join(format!("{file}.rs"));
            let exists = std::fs::read_to_string(path)
                .is_ok_and(|source| source.contains(&format!("fn {test}(")));
            complaints.check(&document, exists, &name);
        }
    }
    complaints.none();
}

#[test]
fn commands_name_what_there_is() {
    let manifests = [
        "Cargo.toml",
        "benches/Cargo.toml",
        "tests/Cargo.toml",
        "tests/simulator/Cargo.toml",
    ];
    let manifests = manifests.map(read).concat();
    let features = features();
    let mut complaints = Complaints(Vec::new());
    for document in Document::all() {
        for command in document.commands() {
            let words: Vec<&str> = command.split_whitespace().collect();
            let first = words.iter().find(|word| !word.contains('=')).copied();
            match first {
                Some("cargo" | "make") => {}
                Some(script) if script.starts_with("tools/") || script.starts_with(".ci/") => {
                    complaints.check(&document, root().join(script).exists(), script);
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
                let is_there = match option {
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
                complaints.check(&document, is_there || !is_name, &command);
            }
        }
    }
    complaints.none();
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
fn the_readme_tells_of_every_feature() {
    let readme = read("README.md");
    for feature in features().iter().filter(|it| *it != "default") {
        let row = format!("| `{feature}` |");
        assert!(readme.contains(&row), "README.md: no row {row}");
    }
}

#[test]
fn the_readme_leads_to_every_document() {
    let readme = read("README.md");
    for document in Document::all() {
        let path = document.path.strip_prefix(root()).unwrap();
        if path.starts_with("docs") {
            let path = path.to_str().unwrap();
            assert!(readme.contains(path), "README.md does not tell of {path}");
        }
    }
}
