//! What a function may return instead of what it should.

use std::collections::HashMap;
use std::path::Path;

use syn::spanned::Spanned;
use syn::{Fields, GenericArgument, Item, PathArguments, Type};

/// The variants without fields of each enum of the core.
pub(crate) type Variants = HashMap<String, Vec<String>>;

pub(crate) fn variants(root: &Path, files: &[String]) -> Variants {
    let mut found = Variants::new();
    for path in files {
        let source = std::fs::read_to_string(root.join(path)).expect("a source can be read");
        let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("{path}: {error}"));
        for item in file.items {
            let Item::Enum(item) = item else { continue };
            let names = item
                .variants
                .iter()
                .filter(|variant| matches!(variant.fields, Fields::Unit))
                .map(|variant| variant.ident.to_string());
            found.insert(item.ident.to_string(), names.collect());
        }
    }
    found
}

/// Values of this type, as code. Those that do not compile are found by the compiler.
pub(crate) fn values(ty: &Type, source: &str, variants: &Variants) -> Vec<String> {
    let text = &source[ty.span().byte_range()];
    match ty {
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else {
                return Vec::new();
            };
            let name = last.ident.to_string();
            let inner = || match &last.arguments {
                PathArguments::AngleBracketed(arguments) => arguments
                    .args
                    .iter()
                    .find_map(|argument| match argument {
                        GenericArgument::Type(ty) => Some(values(ty, source, variants)),
                        _ => None,
                    })
                    .unwrap_or_default(),
                _ => Vec::new(),
            };
            let wrapped = |around: &str| {
                let inner = inner().into_iter();
                inner.map(|value| format!("{around}({value})")).collect()
            };
            if let Some(variants) = variants.get(&name) {
                let variants = variants.iter().take(6);
                return variants
                    .map(|variant| format!("{text}::{variant}"))
                    .collect();
            }
            match name.as_str() {
                "bool" => strings(&["true", "false"]),
                "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i32" | "i64" | "isize" => {
                    strings(&["0", "1"])
                }
                "String" => strings(&["String::new()", "\"xyzzy\".to_owned()"]),
                "Option" => {
                    let mut some: Vec<_> = wrapped("Some");
                    some.insert(0, "None".to_owned());
                    some
                }
                "Result" => wrapped("Ok"),
                "Poll" => wrapped("std::task::Poll::Ready"),
                "Box" => wrapped("Box::new"),
                "Arc" => wrapped("std::sync::Arc::new"),
                "Vec" => {
                    let one = inner().into_iter().map(|value| format!("vec![{value}]"));
                    std::iter::once("Vec::new()".to_owned())
                        .chain(one)
                        .collect()
                }
                _ => strings(&["Default::default()"]),
            }
        }
        Type::Tuple(tuple) if tuple.elems.is_empty() => strings(&["()"]),
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => strings(&["\"\"", "\"xyzzy\""]),
            Type::Slice(_) => strings(&["Vec::leak(Vec::new())"]),
            _ => strings(&["Box::leak(Box::new(Default::default()))"]),
        },
        Type::Tuple(_) | Type::Array(_) => strings(&["Default::default()"]),
        _ => Vec::new(),
    }
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}
