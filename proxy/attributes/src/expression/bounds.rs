//! Which expressions are taken.

use cel::Context;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue};

use super::{Ast, ENV, ExpressionError};

const TEXT_BYTES_MAX: usize = 1024;
/// Brackets in brackets: the parser descends for each.
const BRACKETS_MAX: usize = 16;
/// Operators that nest to the right or stand in a row.
const OPERATORS_MAX: usize = 128;
const UNARY_RUN_MAX: usize = 8;
const DEPTH_MAX: usize = 64;
/// Parts of an expression that came without a text.
const PARTS_MAX: usize = 1024;
const LITERAL_BYTES_MAX: usize = 4096;
const PATTERNS_MAX: usize = 4;
/// What a pattern may compile to.
const PATTERN_BYTES_MAX: usize = 32 << 10;

/// Whether the parser can be let loose on a text: what it descends for is counted first, over the literals too.
pub(super) fn is_shallow(text: &str) -> bool {
    if text.len() > TEXT_BYTES_MAX {
        return false;
    }
    let (mut depth, mut run, mut operators) = (0usize, 0, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > BRACKETS_MAX {
                    return false;
                }
            }
            // One too many is for the parser to complain about.
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'!' | b'-' => {
                run += 1;
                operators += 1;
                if run > UNARY_RUN_MAX {
                    return false;
                }
                continue;
            }
            b'?' | b':' | b'.' | b'&' | b'|' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => operators += 1,
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        run = 0;
    }
    operators <= OPERATORS_MAX
}

/// What an expression has used up of what it may have.
#[derive(Default)]
struct Counts {
    parts: usize,
    literal_bytes: usize,
    patterns: usize,
}

/// No loops, no depth, no patterns that aren't literal and small.
pub(super) fn check(ast: &Ast) -> Result<(), ExpressionError> {
    part(ast, DEPTH_MAX, &mut Counts::default())
}

fn part(ast: &Ast, depth: usize, counts: &mut Counts) -> Result<(), ExpressionError> {
    let depth = depth.checked_sub(1).ok_or(ExpressionError::TooLarge)?;
    counts.parts += 1;
    if counts.parts > PARTS_MAX {
        return Err(ExpressionError::TooLarge);
    }
    match &ast.expr {
        Expr::Unspecified | Expr::Comprehension(_) | Expr::Struct(_) => Err(ExpressionError::Unsupported),
        Expr::Ident(_) => Ok(()),
        Expr::Literal(literal) => {
            counts.literal_bytes += match literal {
                LiteralValue::String(text) => text.inner().len(),
                LiteralValue::Bytes(bytes) => bytes.inner().len(),
                _ => 0,
            };
            if counts.literal_bytes > LITERAL_BYTES_MAX { Err(ExpressionError::TooLarge) } else { Ok(()) }
        }
        Expr::Select(select) => part(&select.operand, depth, counts),
        Expr::List(list) => list.elements.iter().try_for_each(|element| part(element, depth, counts)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                part(&entry.key, depth, counts)?;
                part(&entry.value, depth, counts)
            }
            EntryExpr::StructField(_) => Err(ExpressionError::Unsupported),
        }),
        Expr::Call(call) => {
            call.target.iter().try_for_each(|target| part(target, depth, counts))?;
            call.args.iter().try_for_each(|arg| part(arg, depth, counts))?;
            if !is_known(call) {
                return Err(ExpressionError::Function(call.func_name.clone()));
            }
            if call.func_name == "matches" {
                counts.patterns += 1;
                let small = call.args.last().is_some_and(is_small_pattern);
                return if counts.patterns <= PATTERNS_MAX && small { Ok(()) } else { Err(ExpressionError::Pattern) };
            }
            Ok(())
        }
    }
}

/// As the CEL specification names them, with the optional ones of its implementations.
const OPERATORS: [&str; 20] = [
    "_?_:_", "_&&_", "_||_", "!_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_",
    "-_", "_[_]", "@in", "_?._", "_[?_]",
];

/// A function that isn't there would be an error at each evaluation, and a condition that never holds refuses nobody.
fn is_known(call: &CallExpr) -> bool {
    let of_optional =
        call.target.as_deref().is_some_and(|target| matches!(&target.expr, Expr::Ident(name) if name == "optional"));
    // Nothing else tells which functions there are: one may not be declared again.
    let is_declared = || {
        let mut context = ENV.with(|env| Context::with_env(env.clone()));
        context.add_function(&call.func_name, |value: bool| value).is_err()
    };
    OPERATORS.contains(&&*call.func_name) || of_optional || is_declared()
}

fn is_small_pattern(ast: &Ast) -> bool {
    let Expr::Literal(LiteralValue::String(pattern)) = &ast.expr else { return false };
    regex::RegexBuilder::new(pattern.inner()).size_limit(PATTERN_BYTES_MAX).build().is_ok()
}
