//! The platform that docs/embedding.md goes through.

use super::{Document, read, root};

#[test]
fn the_document_has_the_whole_program() {
    let document = Document::read(&root().join("docs/embedding.md"));
    let shown = document.blocks.iter().filter(|it| it.language == "rust");
    let shown: Vec<&str> = shown.map(|block| block.text.trim_end()).collect();
    // Between the blocks there is text here, and an empty line there.
    assert!(
        shown.join("\n\n") == read("examples/tiny_pal.rs").trim_end(),
        "docs/embedding.md and examples/tiny_pal.rs differ"
    );
}
