//! The output of programs that README.md and docs/embedding.md show, compared with what the programs print.

use std::path::PathBuf;
use std::process::Command;

use super::{Document, root};

/// Returns the path of a built example. `cargo test` builds all examples; `cargo test --test docs`
/// builds none.
fn example(name: &str) -> Option<PathBuf> {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is not built",
        path.display()
    );
    println!(
        "skipped: {} is not built (cargo build --examples)",
        path.display()
    );
    None
}

/// Returns the lines, with every number replaced by `#` and every unit of time by `s`.
fn shape(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words = line.split_whitespace().map(shape_of_word);
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines()
        .map(line)
        .filter(|line| !line.is_empty())
        .collect()
}

fn shape_of_word(word: &str) -> String {
    let mut shape = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(|it: char| it.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let is_inside = |it: char| it.is_ascii_digit() || it == '.' || it == ',';
        let behind = number.trim_start_matches(is_inside);
        // A comma or a full stop at the end belongs to the sentence.
        let length = number[..number.len() - behind.len()]
            .trim_end_matches(['.', ','])
            .len();
        rest = &number[length..];
        shape.push_str(before);
        shape.push('#');
        let mut units = ["ns", "µs", "ms"].iter();
        if let Some(behind) = units.find_map(|unit| rest.strip_prefix(unit)) {
            shape.push('s');
            rest = behind;
        }
    }
    shape + rest
}

/// Runs the example and compares its output with the block after its command. `…` stands for omitted lines.
fn assert_output(document: &str, example_name: &str) {
    let Some(program) = example(example_name) else {
        return;
    };
    let document = Document::read(&root().join(document));
    let command = format!("--example {example_name}\n");
    let at = document
        .blocks
        .iter()
        .position(|block| block.language == "sh" && block.text.ends_with(&command))
        .unwrap_or_else(|| panic!("no block with the command for {example_name}"));
    let shown = &document.blocks[at + 1];
    assert_eq!(shown.language, "text");
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let (mut left, shown) = (shape(&printed), shape(&shown.text));
    let is_whole = !shown.iter().any(|line| line == "…");
    // The order of lines of different processes varies.
    for line in shown.iter().filter(|line| *line != "…") {
        let at = left.iter().position(|printed| printed == line);
        let at = at.unwrap_or_else(|| panic!("not printed: {line}\n{printed}"));
        left.swap_remove(at);
    }
    assert!(!is_whole || left.is_empty(), "not shown: {left:#?}");
}

#[test]
fn the_family_example_prints_what_the_readme_shows() {
    assert_output("README.md", "family");
}

/// Runs the example, which prints so many tables, and fails if one is wider than a terminal of 80 columns.
fn assert_tables_fit(example_name: &str, arguments: &[&str], tables: usize) {
    let Some(program) = example(example_name) else {
        return;
    };
    // A verdict depends on how busy the machine is; the tables are printed in any case.
    let output = Command::new(program).args(arguments).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let ends = printed.lines().filter(|line| line.starts_with('└'));
    assert!(ends.count() >= tables, "{printed}");
    for line in printed.lines() {
        let is_table = line.starts_with(['│', '┌', '└', '╞']);
        assert!(!is_table || line.chars().count() <= 80, "{line}\n{printed}");
    }
}

#[test]
fn the_tables_of_the_family_example_fit_80_columns() {
    // Two of the display, two of the members, one of the processes.
    assert_tables_fit("family", &["--top", "--ids", "1000"], 5);
}

#[test]
fn the_tables_of_other_examples_fit_80_columns() {
    assert_tables_fit("locks", &["--seconds", "0.5"], 1);
    assert_tables_fit("counter", &["--seconds", "0.5"], 1);
    assert_tables_fit("soak", &["--members", "3", "--seconds", "1"], 1);
    let siege = ["--seconds", "0.1", "--attack", "ids", "--limits", "default"];
    assert_tables_fit("siege", &siege, 1);
}

#[test]
fn the_processes_example_prints_what_the_readme_shows() {
    assert_output("README.md", "processes");
}

#[test]
fn the_tiny_pal_example_prints_what_the_document_shows() {
    assert_output("docs/embedding.md", "tiny_pal");
}

#[test]
fn an_example_that_has_no_descriptors_for_its_processes_says_what_to_do() {
    let Some(program) = example("counter") else {
        return;
    };
    let limited = format!("ulimit -n 12 && exec {} 2>&1", program.display());
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{stdout}");
    // The library prints it as well, if it is the first to need one.
    assert!(
        stdout.contains("process has no descriptors left"),
        "{stdout}"
    );
}

#[test]
fn the_family_example_leads_programs_of_any_kind_at_no_address_of_a_network() {
    let Some(program) = example("family") else {
        return;
    };
    for address in ["tcp:127.0.0.1:4000", "vsock:1:4000"] {
        let output = Command::new(&program)
            .args(["--serve", address])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(stderr.contains("give a path"), "{stderr}");
    }
}
