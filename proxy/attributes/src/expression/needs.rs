//! What an expression reads: `request.headers['x'] == source.address` is two paths.

use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};

use super::Ast;

/// From a variable down through names that are spelled out.
pub(super) type Path = Vec<Arc<str>>;

/// The paths of an expression; one that another contains is left out.
pub(super) fn of(ast: &Ast) -> Vec<Path> {
    let mut all = Vec::new();
    collect(ast, &mut all);
    all.sort();
    // What begins with a path comes right behind it.
    let mut kept: Vec<Path> = Vec::new();
    for path in all {
        if kept.last().is_none_or(|last| !path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

fn collect(ast: &Ast, out: &mut Vec<Path>) {
    if let Some(path) = path_of(ast) {
        return out.push(path);
    }
    match &ast.expr {
        Expr::Select(select) => collect(&select.operand, out),
        Expr::List(list) => list.elements.iter().for_each(|element| collect(element, out)),
        Expr::Call(call) => {
            call.target.iter().for_each(|target| collect(target, out));
            call.args.iter().for_each(|arg| collect(arg, out));
        }
        Expr::Map(map) => map.entries.iter().for_each(|entry| {
            if let EntryExpr::MapEntry(entry) = &entry.expr {
                collect(&entry.key, out);
                collect(&entry.value, out);
            }
        }),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Comprehension(_) | Expr::Struct(_) => {}
    }
}

fn path_of(ast: &Ast) -> Option<Path> {
    match &ast.expr {
        Expr::Ident(name) => Some(vec![Arc::from(name.as_str())]),
        Expr::Select(select) => {
            let mut path = path_of(&select.operand)?;
            path.push(Arc::from(select.field.as_str()));
            Some(path)
        }
        Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
            let [operand, index] = &call.args[..] else { return None };
            let Expr::Literal(LiteralValue::String(key)) = &index.expr else { return None };
            let mut path = path_of(operand)?;
            path.push(Arc::from(key.inner()));
            Some(path)
        }
        _ => None,
    }
}
