//! The documents of the repository, as pages.
//!
//! A platform and the first calls: [`embedding`]. A library OS in C: [`porting`]. What may be called from where: [`concurrency`].
//! A leader that ends or is killed: [`succession`]. What went wrong: [`debugging`]. Who is trusted for what: [`security`]. The parts and how they work: [`architecture`], [`design`].
//! [`protocol`] and [`kernel_rules`] state the guarantees of each operation, and [`glossary`] explains special words.

/// A page: a document, whose links lead to other pages here, and to files of the package elsewhere.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("links.md")]
        #[doc = ""]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

page!(architecture, "../../docs/architecture.md");
page!(concurrency, "../../docs/concurrency.md");
page!(debugging, "../../docs/debugging.md");
page!(design, "../../docs/design.md");
page!(embedding, "../../docs/embedding.md");
page!(glossary, "../../docs/glossary.md");
page!(kernel_rules, "../../docs/kernel-rules.md");
page!(porting, "../../docs/porting.md");
page!(protocol, "../../docs/protocol.md");
page!(security, "../../docs/security.md");
page!(succession, "../../docs/succession.md");
