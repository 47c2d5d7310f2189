//! What is taken, what is read, and what comes out.

use outrigger_http::{HeaderName, StreamState};

use super::{Expression, ExpressionError, Property};

#[test]
fn expressions_are_bounded() {
    let check = |text: &str, good: bool| assert_eq!(Expression::parse(text).is_ok(), good, "{text:.80}");
    check("request.path.startsWith('/a') && !(response.code >= 500)", true);
    check("has(request.headers.cookie) ? 'a' : 'b'", true);
    check("'x' in ['x', 'y'] || {'a': 1}['a'] == 1", true);
    check("request.path.matches('^/a+$')", true);
    check("request.path.matches(request.headers.pattern)", false);
    check("request.path.matches('((a{99}){99}){99}')", false);
    check("1 +", false);
    check("[1, 2].map(x, x)", false);
    check("[1, 2].exists(x, x == 1)", false);
    check(&"(".repeat(900), false);
    check(&"!".repeat(900), false);
    check(&"- ".repeat(400), false);
    check(&format!("1{}", "+1".repeat(400)), false);
    check(&format!("a{}", ".a".repeat(400)), false);
    check(&format!("{}1", "true?1:".repeat(100)), false);
    check(&format!("'{}'", "a".repeat(1024)), false);
}

#[test]
fn trees_are_bounded() {
    let mut deep = Expression::parse("a").unwrap().ast.as_ref().clone();
    for _ in 0..100 {
        let not = cel::common::ast::CallExpr { func_name: "!_".to_owned(), target: None, args: vec![deep] };
        deep = super::Ast { id: 0, expr: cel::common::ast::Expr::Call(not) };
    }
    assert_eq!(Expression::of_ast(deep).unwrap_err(), ExpressionError::TooLarge);
    assert_eq!(Expression::of_ast(super::Ast::default()).unwrap_err(), ExpressionError::Unsupported);
    for (text, name) in
        [("request.path.lowerAscii() == '/a'", "lowerAscii"), ("strtsWith(request.path, '/')", "strtsWith")]
    {
        assert_eq!(Expression::parse(text).unwrap_err(), ExpressionError::Function(name.to_owned()), "{text}");
    }
}

#[test]
fn only_what_is_named_is_read() {
    let check = |text: &str, expected: &[&str]| {
        let needs = Expression::parse(text).unwrap().needs;
        let found: Vec<String> = needs.iter().map(|path| path.join("/")).collect();
        assert_eq!(found, expected, "{text}");
    };
    check("request.headers['x-a'] == source.address", &["request/headers/x-a", "source/address"]);
    check("request.headers['x-a'] == 'a' && 'x-b' in request.headers", &["request/headers"]);
    check(
        "has(request.headers.a) && request.path.startsWith(request.headers[request.method])",
        &["request/headers", "request/method", "request/path"],
    );
    check("metadata.filter_metadata['a']['b'][0]", &["metadata/filter_metadata/a/b"]);
    check("request == request.path", &["request"]);
    check("1 == 2", &[]);
}

#[test]
fn values_are_those_of_the_stream() {
    let mut state = StreamState::default();
    state.request.path = bytes::Bytes::from_static(b"/a?b");
    state.request.headers.append(HeaderName::COOKIE, bytes::Bytes::from_static(b"c"));
    let check = |text: &str, expected: Option<&str>| {
        let outcome = Expression::parse(text).unwrap().evaluate(&|path| crate::lookup(&state, path));
        let found = outcome.map(|outcome| String::from_utf8(outcome.into_text()).unwrap());
        assert_eq!(found.as_deref(), expected, "{text}");
    };
    check("request.path", Some("/a?b"));
    check("request.headers['Cookie'] + '!'", Some("c!"));
    check("has(request.headers.none)", Some("false"));
    check("request.headers.none", None);
    check("request.headers.none == 'a' || request.method == 'GET'", Some("true"));
    check("size(request.headers) > 1", Some("true"));
    check("response.code", None);
    check("has(response.code)", Some("false"));
    check("nobody", None);
    check("1.5 < 2.0 ? 1u : 2u", Some("1"));
    check("null", Some("NULL"));
    check("request.headers", Some("CelMap value"));
    check("[1]", Some("CelList value"));
    let outcome = Expression::parse("connection.mtls").unwrap().evaluate(&|path| crate::lookup(&state, path));
    assert_eq!(outcome.unwrap().into_value(), Property::Bool(false));
}
