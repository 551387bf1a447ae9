//! The table of calls in the documentation of `Node`, against the list of public items.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{read, root};

#[test]
fn the_table_of_groups_names_every_public_call_of_a_node() {
    let items = read("docs/public-api.txt");
    let public: BTreeSet<_> = items
        .lines()
        .filter(|line| {
            line.starts_with("pub fn libos_ipc::Node<")
                || line.starts_with("pub const fn libos_ipc::Node<")
        })
        .filter_map(|line| line.split_once(">::")?.1.split(['(', '<']).next())
        // The table says of the futures that each call has one.
        .filter(|name| *name != "drop" && !name.ends_with("_async"))
        .collect();
    let source = read("src/node/mod.rs");
    let in_table: BTreeSet<_> = source
        .lines()
        .filter(|line| line.starts_with("/// | "))
        .flat_map(|line| line.split("](Node::").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(public.len() > 50, "{public:?}");
    assert_eq!(in_table, public);
}

/// Returns the names of the public functions in the source that satisfy `is_one`, which gets the whole signature.
fn public_functions(source: &str, is_one: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let starts = source
        .match_indices("    pub ")
        .map(|(at, _)| &source[at..]);
    starts
        .filter_map(|text| text.split(" {\n").next())
        .filter(|signature| is_one(signature))
        .filter_map(|signature| signature.split_once("fn ")?.1.split(['(', '<']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_call_that_waits_has_a_future_of_the_same_name() {
    let mut files = Vec::new();
    sources(&root().join("src/node/api"), &mut files);
    files.push(root().join("src/node/lifecycle.rs"));
    let (mut waiting, mut futures) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        let source = read(file);
        waiting.extend(public_functions(&source, |text| {
            text.starts_with("    pub fn")
                && (text.contains("Wait<'_>") || text.contains("Duration"))
        }));
        futures.extend(public_functions(&source, |text| {
            text.starts_with("    pub async fn")
        }));
    }
    assert!(waiting.len() > 60, "{waiting:?}");
    let expected: BTreeSet<_> = waiting.iter().map(|name| format!("{name}_async")).collect();
    assert_eq!(expected, futures);
}

/// Adds the source files below a directory.
fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else {
            files.push(path);
        }
    }
}
