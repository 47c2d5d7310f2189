//! Writes a JSON value as block-style YAML, so that the proxies under test read what users write.

use std::fmt::Write as _;

use serde_json::Value;

/// The value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn write_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (name, field)) in fields.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                let _ = write!(out, "{}:", Value::String(name.clone()));
                write_nested(out, field, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                write_value(out, item, indent + 2);
                end_line(out);
            }
        }
        // JSON's scalars, empty lists and empty maps are YAML's.
        scalar => {
            let _ = writeln!(out, "{scalar}");
        }
    }
}

/// What follows a field's name: a scalar on the same line, a block on lines of its own.
fn write_nested(out: &mut String, value: &Value, indent: usize) {
    let block = matches!(value, Value::Object(map) if !map.is_empty())
        || matches!(value, Value::Array(list) if !list.is_empty());
    if block {
        out.push('\n');
        pad(out, indent);
    } else {
        out.push(' ');
    }
    write_value(out, value, indent);
    end_line(out);
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn end_line(out: &mut String) {
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_yaml;

    #[test]
    fn nests_maps_and_lists() {
        let value = json!({"a": {"b": [1, {"c": "x: y", "d": []}], "e": {}}, "f": null});
        let expected = "\"a\":\n  \"b\":\n    - 1\n    - \"c\": \"x: y\"\n      \"d\": []\n  \"e\": {}\n\"f\": null\n";
        assert_eq!(to_yaml(&value), expected);
    }
}
