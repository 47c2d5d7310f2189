//! CEL expressions that come as syntax trees (`google.api.expr.v1alpha1.Expr`), or as texts.

use outrigger_attributes::ast::{
    CallExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr, SelectExpr,
};
use outrigger_attributes::{Ast, Expression};
use outrigger_proto::pb::google::api::expr::v1alpha1 as proto;
use proto::constant::ConstantKind;
use proto::expr::ExprKind;

use crate::Diagnostics;

/// Expressions within expressions.
const DEPTH_MAX: usize = 64;

pub(super) fn text(text: &str, d: &mut Diagnostics) -> Option<Expression> {
    Expression::parse(text).map_err(|error| d.error(error.to_string())).ok()
}

pub(super) fn expression(proto: &proto::Expr, d: &mut Diagnostics) -> Option<Expression> {
    let Some(ast) = ast(proto, DEPTH_MAX) else {
        d.error(format!("has an empty or unknown part, or is nested more than {DEPTH_MAX} deep"));
        return None;
    };
    Expression::of_ast(ast).map_err(|error| d.error(error.to_string())).ok()
}

fn ast(proto: &proto::Expr, depth: usize) -> Option<Ast> {
    let depth = depth.checked_sub(1)?;
    let boxed = |proto: &Option<Box<proto::Expr>>| ast(proto.as_deref()?, depth);
    let list = |protos: &[proto::Expr]| protos.iter().map(|proto| ast(proto, depth)).collect::<Option<Vec<Ast>>>();
    let expr = match proto.expr_kind.as_ref()? {
        ExprKind::ConstExpr(constant) => Expr::Literal(literal(constant)?),
        ExprKind::IdentExpr(ident) if !ident.name.is_empty() => Expr::Ident(ident.name.clone()),
        ExprKind::SelectExpr(select) => Expr::Select(SelectExpr {
            operand: Box::new(boxed(&select.operand)?),
            field: select.field.clone(),
            test: select.test_only,
        }),
        ExprKind::CallExpr(call) => Expr::Call(CallExpr {
            func_name: call.function.clone(),
            target: match &call.target {
                Some(target) => Some(Box::new(ast(target, depth)?)),
                None => None,
            },
            args: list(&call.args)?,
        }),
        ExprKind::ListExpr(created) if created.optional_indices.is_empty() => {
            Expr::List(ListExpr::new(list(&created.elements)?))
        }
        ExprKind::StructExpr(created) if created.message_name.is_empty() => {
            let entries = created.entries.iter().map(|entry| map_entry(entry, depth));
            Expr::Map(MapExpr { entries: entries.collect::<Option<_>>()? })
        }
        ExprKind::IdentExpr(_) | ExprKind::ListExpr(_) | ExprKind::StructExpr(_) | ExprKind::ComprehensionExpr(_) => {
            return None;
        }
    };
    Some(Ast { id: u64::try_from(proto.id).unwrap_or_default(), expr })
}

fn map_entry(proto: &proto::expr::create_struct::Entry, depth: usize) -> Option<IdedEntryExpr> {
    use proto::expr::create_struct::entry::KeyKind;
    let Some(KeyKind::MapKey(key)) = proto.key_kind.as_ref().filter(|_| !proto.optional_entry) else { return None };
    let (key, value) = (ast(key, depth)?, ast(proto.value.as_ref()?, depth)?);
    let entry = EntryExpr::MapEntry(MapEntryExpr { key, value, optional: false });
    Some(IdedEntryExpr { id: u64::try_from(proto.id).unwrap_or_default(), expr: entry })
}

fn literal(constant: &proto::Constant) -> Option<LiteralValue> {
    Some(match constant.constant_kind.as_ref()? {
        ConstantKind::NullValue(_) => LiteralValue::Null,
        ConstantKind::BoolValue(value) => LiteralValue::Boolean((*value).into()),
        ConstantKind::Int64Value(value) => LiteralValue::Int((*value).into()),
        ConstantKind::Uint64Value(value) => LiteralValue::UInt((*value).into()),
        ConstantKind::DoubleValue(value) => LiteralValue::Double((*value).into()),
        ConstantKind::StringValue(text) => LiteralValue::String(text.clone().into()),
        ConstantKind::BytesValue(bytes) => LiteralValue::Bytes(bytes.clone().into()),
        _ => return None,
    })
}
