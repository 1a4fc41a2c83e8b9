//! Tables for people and JSON for programs.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use curve_telemetry::say;
use serde::Serialize;

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) {
    say!("{}", serde_json::to_string_pretty(value).expect("our own types are always representable"));
}

/// Prints rows below a header, aligned, without lines.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    say!("{}", table.trim_fmt());
}
