//! Tables of figures that fit a terminal of 80 columns.

use std::fmt::Display;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

/// The columns of a terminal that a table has to fit.
const COLUMNS: usize = 80;

/// Returns a table whose first `names` columns have names, and the others numbers, which are aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], names: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Removes the spaces beside the borders, if the table is too wide with them.
pub(crate) fn fit(table: &mut Table) {
    let border = table.lines().next().unwrap_or_default();
    if border.chars().count() > COLUMNS {
        for column in table.column_iter_mut() {
            column.set_padding((0, 0));
        }
    }
}
