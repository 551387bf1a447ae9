//! The table of calls in the documentation of `Node`, against the list of public items.

use std::collections::BTreeSet;

use crate::read;

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
