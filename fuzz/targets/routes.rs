//! A pattern is refused when the layer is built, or protects the paths that it stands for.
//!
//! The input is a path, then patterns, one line each.

#![no_main]

use http::{Method, Request};
use libfuzzer_sys::fuzz_target;
use tower_idempotency::options::Require;
use tower_idempotency::{IdempotencyLayer, scope};

fn layer(patterns: &[&str], order: impl Fn(usize) -> usize) -> Option<IdempotencyLayer> {
    let layer = IdempotencyLayer::builder(fuzz::OneRecord::default(), scope::shared());
    let layer = layer.defaults(|options| options.require(Require::Ignored));
    let layer = (0..patterns.len()).map(order).fold(layer, |layer, at| {
        layer.route(patterns[at], |options| options.require(Require::Required))
    });
    layer.build().ok()
}

fn protects(layer: &IdempotencyLayer, method: &Method, path: &str) -> Option<bool> {
    let request = Request::builder().method(method).uri(path).body(()).ok()?;
    Some(layer.protects(&request.into_parts().0))
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines();
    let path = lines.next().unwrap_or_default();
    let patterns: Vec<_> = lines.take(8).collect();
    // One order of patterns may be refused where another is not: the router finds more conflicts.
    let forwards = layer(&patterns, |at| at);
    let backwards = layer(&patterns, |at| patterns.len() - 1 - at);
    let layers: Vec<_> = [forwards, backwards].into_iter().flatten().collect();
    let found = layers.iter().map(|layer| {
        [Method::POST, Method::PATCH, Method::DELETE].map(|method| protects(layer, &method, path))
    });
    let found: Vec<_> = found.collect();
    assert!(
        found.windows(2).all(|pair| pair[0] == pair[1]),
        "the order of patterns counts"
    );

    let alone = |pattern: &&str| layer(&[*pattern], |at| at);
    for (pattern, alone) in patterns
        .iter()
        .filter_map(|pattern| Some((pattern, alone(pattern)?)))
    {
        let (method, own) = match pattern.split_once(' ') {
            Some((method, own)) => (method.parse().expect("a method"), own.trim()),
            None => (Method::POST, *pattern),
        };
        let is_path = http::Uri::try_from(own).is_ok_and(|uri| uri.path() == own);
        let is_literal = !own.contains(['{', '}']) && is_path;
        for layer in &layers {
            // A pattern that protects a path alone does so beside others.
            if protects(&alone, &method, path) == Some(true) {
                assert_eq!(protects(layer, &method, path), Some(true), "{pattern}");
            }
            if is_literal {
                assert_eq!(protects(layer, &method, own), Some(true), "{own}");
            }
        }
    }
});
