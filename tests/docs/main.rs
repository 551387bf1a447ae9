//! README.md and the documents against the repository: every command, output, link, file, test and identifier that they name exists.
#![allow(missing_docs)]

mod embedding;
mod groups;
mod names;
mod output;
mod rooms;

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

struct Document {
    path: PathBuf,
    blocks: Vec<Block>,
    /// The text outside of code blocks.
    prose: String,
}

/// A fenced code block.
struct Block {
    language: String,
    text: String,
}

impl Document {
    fn read(path: &Path) -> Document {
        let mut document = Document {
            path: path.to_owned(),
            blocks: Vec::new(),
            prose: String::new(),
        };
        let mut open = false;
        for line in read(path).lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                open = !open;
                if open {
                    document.blocks.push(Block {
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                continue;
            }
            let text = match document.blocks.last_mut() {
                Some(block) if open => &mut block.text,
                _ => &mut document.prose,
            };
            text.push_str(line);
            text.push('\n');
        }
        assert!(!open, "{}: a block does not end", path.display());
        document
    }

    /// Returns the README, the changelog and all documents.
    fn all() -> Vec<Document> {
        let directories = ["docs", "docs/reports"].map(|directory| root().join(directory));
        let entries = directories.iter().flat_map(|it| it.read_dir().unwrap());
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
            .collect();
        paths.sort();
        paths.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
        paths.iter().map(|path| Document::read(path)).collect()
    }

    /// Returns the code spans, with a line end replaced by a blank.
    fn code(&self) -> Vec<String> {
        let spans = self.prose.split('`').skip(1).step_by(2);
        let blanks = |span: &str| span.split_whitespace().collect::<Vec<_>>().join(" ");
        spans.map(blanks).collect()
    }

    /// Returns the lines of shell blocks, and the code spans of the text.
    fn commands(&self) -> Vec<String> {
        let lines = self.blocks.iter().filter(|block| block.language == "sh");
        let lines = lines.flat_map(|block| block.text.lines().map(str::to_owned));
        let without_comment =
            |line: String| line.split(" #").next().unwrap_or("").trim().to_owned();
        lines.map(without_comment).chain(self.code()).collect()
    }
}
