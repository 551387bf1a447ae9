//! The program in docs/embedding.md is `examples/tiny_pal.rs`.

use super::{Document, read, root};

#[test]
fn the_document_contains_the_whole_program() {
    let document = Document::read(&root().join("docs/embedding.md"));
    let shown = document.blocks.iter().filter(|it| it.language == "rust");
    let shown: Vec<&str> = shown.map(|block| block.text.trim_end()).collect();
    // The document has text between two blocks, the program an empty line.
    assert!(
        shown.join("\n\n") == read("examples/tiny_pal.rs").trim_end(),
        "docs/embedding.md and examples/tiny_pal.rs differ"
    );
}
