//! Where the core's sources can be mutated, and how.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Lit, Pat, ReturnType, Stmt, Type, UnOp};

use crate::values::{Variants, values};

/// One mutant: a place in a file, and what stands there while the mutant is active.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The path below the repository.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// `Type::function`.
    pub(crate) function: String,
    /// What is mutated, for a reader: without line numbers, which change often.
    pub(crate) what: String,
    /// The bytes of the source that the mutant replaces; empty for an insertion.
    pub(crate) range: Range<usize>,
    /// The code of the mutant. In an insertion, `$on` is the check of the switch.
    pub(crate) code: String,
    pub(crate) statement: bool,
    /// A digest of the function's text: a result holds for as long as this does.
    digest: u64,
}

impl Site {
    /// Names the mutant from one run to the next, as long as its function is unchanged.
    pub(crate) fn key(&self) -> String {
        format!("{}\t{:016x}", self.name(), self.digest)
    }

    /// Names the mutant for people, and in the list of survivors.
    pub(crate) fn name(&self) -> String {
        format!("{} {}: {}", self.file, self.function, self.what)
    }
}

/// The mutants of one file.
pub(crate) fn of_file(root: &Path, path: &str, variants: &Variants) -> Vec<Site> {
    let source = std::fs::read_to_string(root.join(path)).expect("a source can be read");
    let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut finder = Finder {
        path,
        source: &source,
        variants,
        scope: Vec::new(),
        digest: 0,
        found: Vec::new(),
    };
    finder.visit_file(&file);
    let mut found = finder.found;
    // The same mutation of the same text in one function gets a number.
    let mut seen = HashMap::new();
    for site in &mut found {
        let times = seen.entry(site.name()).or_insert(0);
        *times += 1;
        if *times > 1 {
            site.what = format!("{} ({times})", site.what);
        }
    }
    found
}

/// The files of a folder that are no part of the library as it is tested here.
pub(crate) fn modules_left_out(root: &Path, path: &str) -> Vec<String> {
    let source = std::fs::read_to_string(root.join(path)).expect("a folder has this file");
    let file = syn::parse_file(&source).unwrap_or_else(|error| panic!("{path}: {error}"));
    let left_out = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if is_left_out(&module.attrs, &source) => Some(&module.ident),
        _ => None,
    });
    left_out.map(|name| format!("{name}.rs")).collect()
}

struct Finder<'a> {
    path: &'a str,
    source: &'a str,
    variants: &'a Variants,
    /// The types and functions around the current place.
    scope: Vec<String>,
    digest: u64,
    found: Vec<Site>,
}

impl Finder<'_> {
    fn text(&self, node: &impl Spanned) -> &str {
        &self.source[node.span().byte_range()]
    }

    fn add(&mut self, range: Range<usize>, code: String, what: String, statement: bool) {
        self.found.push(Site {
            file: self.path.to_owned(),
            line: 1 + self.source[..range.start].matches('\n').count(),
            function: self.scope.join("::"),
            what: short(&what),
            range,
            code,
            statement,
            digest: self.digest,
        });
    }

    fn replace(&mut self, node: &impl Spanned, code: String, what: String) {
        self.add(node.span().byte_range(), code, what, false);
    }

    /// Visits a function's body, and has it return something else at once.
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        if signature.constness.is_some() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        self.text(block).hash(&mut hasher);
        let outer = std::mem::replace(&mut self.digest, hasher.finish());
        self.scope.push(signature.ident.to_string());
        let at = block.brace_token.span.open().byte_range().end;
        let body = self.text(block)[1..self.text(block).len() - 1]
            .trim()
            .to_owned();
        let returned = match &signature.output {
            // The only statement is deleted by itself, below.
            ReturnType::Default if block.stmts.len() < 2 && !body.contains('{') => Vec::new(),
            ReturnType::Default => vec!["()".to_owned()],
            ReturnType::Type(_, ty) => values(ty, self.source, self.variants),
        };
        // The same, in other words.
        let body = if body == "Self::default()" {
            "Default::default()".to_owned()
        } else {
            body
        };
        for value in returned.into_iter().filter(|value| *value != body) {
            let code = format!(" if $on {{ return {value}; }}");
            self.add(at..at, code, format!("returns {value}"), false);
        }
        visit::visit_block(self, block);
        self.scope.pop();
        self.digest = outer;
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !is_left_out(&item.attrs, self.source) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        if is_left_out(&item.attrs, self.source) {
            return;
        }
        let name = match &*item.self_ty {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        self.scope.push(name.unwrap_or_else(|| "impl".to_owned()));
        visit::visit_item_impl(self, item);
        self.scope.pop();
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        if !is_left_out(&item.attrs, self.source) {
            self.function(&item.sig, &item.block);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !is_left_out(&item.attrs, self.source) {
            self.function(&item.sig, &item.block);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default
            && !is_left_out(&item.attrs, self.source)
        {
            self.function(&item.sig, block);
        }
    }

    // What the compiler evaluates can't ask which mutant is active.
    fn visit_item_const(&mut self, _: &'a syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'a syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'a syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'a syn::TraitItemConst) {}
    fn visit_item_enum(&mut self, _: &'a syn::ItemEnum) {}
    fn visit_type(&mut self, _: &'a Type) {}
    fn visit_attribute(&mut self, _: &'a syn::Attribute) {}
    fn visit_expr_const(&mut self, _: &'a syn::ExprConst) {}
    fn visit_pat(&mut self, pattern: &'a Pat) {
        if let Pat::Guard(guarded) = pattern {
            self.visit_expr(&guarded.guard);
        }
    }
    fn visit_expr_repeat(&mut self, repeat: &'a syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }

    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if let Stmt::Expr(expression, Some(_)) = statement
            && is_deletable(expression)
        {
            let what = format!("deletes {}", self.text(statement));
            let range = statement.span().byte_range();
            self.add(range, String::new(), what, true);
        }
        if let Stmt::Local(local) = statement
            && is_left_out(&local.attrs, self.source)
        {
            return;
        }
        visit::visit_stmt(self, statement);
    }

    fn visit_expr_binary(&mut self, binary: &'a syn::ExprBinary) {
        if !has_let(&binary.left) && !has_let(&binary.right) {
            let (left, right) = (self.text(&*binary.left), self.text(&*binary.right));
            let whole = self.text(binary);
            let others: Vec<_> = other_operators(&binary.op)
                .iter()
                .map(|other| {
                    let what = format!("{whole} with {other}");
                    (format!("{left} {other} {right}"), what)
                })
                .collect();
            for (code, what) in others {
                self.replace(binary, code, what);
            }
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'a syn::ExprUnary) {
        if matches!(unary.op, UnOp::Not(_) | UnOp::Neg(_)) {
            let operand = self.text(&*unary.expr).to_owned();
            let what = format!("{} without its operator", self.text(unary));
            self.replace(unary, operand, what);
        }
        visit::visit_expr_unary(self, unary);
    }

    fn visit_expr_if(&mut self, branch: &'a syn::ExprIf) {
        let negated = matches!(
            *branch.cond,
            Expr::Call(_) | Expr::MethodCall(_) | Expr::Path(_) | Expr::Field(_) | Expr::Macro(_)
        );
        if negated {
            let condition = self.text(&*branch.cond).to_owned();
            let what = format!("if {condition} negated");
            self.replace(&*branch.cond, format!("!({condition})"), what);
        }
        visit::visit_expr_if(self, branch);
    }

    fn visit_expr_match(&mut self, matched: &'a syn::ExprMatch) {
        let catches_all = matched.arms.iter().any(|arm| is_catch_all(&arm.pat));
        for arm in &matched.arms {
            let pattern = self.text(&arm.pat).to_owned();
            if let Pat::Guard(guarded) = &arm.pat {
                for value in ["true", "false"] {
                    let what = format!("the guard of {pattern} is {value}");
                    self.replace(&*guarded.guard, value.to_owned(), what);
                }
            } else if catches_all && !is_catch_all(&arm.pat) {
                let at = arm.pat.span().byte_range().end;
                let what = format!("no arm {pattern}");
                self.add(at..at, " if !$on".to_owned(), what, false);
            }
        }
        visit::visit_expr_match(self, matched);
    }

    /// Capacities and pauses are chosen, and one more or less is as good.
    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        let function = self.text(&*call.func);
        let is_chosen = [
            "with_capacity",
            "::from_secs",
            "::from_millis",
            "::from_mins",
        ];
        if !is_chosen.iter().any(|name| function.ends_with(name)) {
            visit::visit_expr_call(self, call);
        }
    }

    fn visit_expr_lit(&mut self, literal: &'a syn::ExprLit) {
        let Lit::Int(number) = &literal.lit else {
            return;
        };
        let Ok(value) = number.base10_parse::<u128>() else {
            return;
        };
        let before = value.checked_sub(1);
        for other in [value.checked_add(1), before].into_iter().flatten() {
            let code = format!("{other}{}", number.suffix());
            self.replace(literal, code, format!("{value} is {other}"));
        }
    }

    fn visit_expr_path(&mut self, path: &'a syn::ExprPath) {
        let name = path.path.segments.last().map(|last| last.ident.to_string());
        if name.is_some_and(|name| name.len() > 1 && !name.chars().any(char::is_lowercase)) {
            let constant = self.text(path).to_owned();
            for other in ["+ 1", "- 1"] {
                let code = format!("{constant} {other}");
                self.replace(path, code.clone(), format!("{constant} is {code}"));
            }
        }
    }
}

fn other_operators(operator: &BinOp) -> &'static [&'static str] {
    match operator {
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::Lt(_) => &["<=", ">"],
        BinOp::Le(_) => &["<", ">"],
        BinOp::Gt(_) => &[">=", "<"],
        BinOp::Ge(_) => &[">", "<"],
        BinOp::Add(_) => &["-", "*"],
        BinOp::Sub(_) | BinOp::Mul(_) => &["+", "/"],
        BinOp::Div(_) => &["*", "%"],
        BinOp::Rem(_) => &["/", "+"],
        BinOp::Shl(_) => &[">>"],
        BinOp::Shr(_) => &["<<"],
        BinOp::BitAnd(_) => &["|", "^"],
        BinOp::BitOr(_) => &["&", "^"],
        BinOp::BitXor(_) => &["&", "|"],
        BinOp::AddAssign(_) => &["-="],
        BinOp::SubAssign(_) => &["+="],
        BinOp::MulAssign(_) => &["/="],
        BinOp::BitAndAssign(_) => &["|="],
        BinOp::BitOrAssign(_) => &["&="],
        _ => &[],
    }
}

/// Whether this is part of a chain with `let`, where no other expression may stand around it.
fn has_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

fn is_deletable(expression: &Expr) -> bool {
    match expression {
        // Of this name are methods that write to the log.
        Expr::MethodCall(call) => call.method != "warn",
        Expr::Call(_) | Expr::Assign(_) => true,
        Expr::Await(awaited) => is_deletable(&awaited.base),
        Expr::Try(tried) => is_deletable(&tried.expr),
        Expr::Binary(binary) => matches!(
            binary.op,
            BinOp::AddAssign(_)
                | BinOp::SubAssign(_)
                | BinOp::BitOrAssign(_)
                | BinOp::BitAndAssign(_)
        ),
        _ => false,
    }
}

fn is_catch_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(name) => {
            name.subpat.is_none() && name.ident.to_string().starts_with(char::is_lowercase)
        }
        _ => false,
    }
}

/// Whether the item is no part of the library as it is tested here.
fn is_left_out(attributes: &[syn::Attribute], source: &str) -> bool {
    attributes.iter().any(|attribute| {
        let text = source[attribute.span().byte_range()].replace("not(shuttle)", "");
        let conditional = text.starts_with("#[cfg(");
        conditional && (text.contains("test") || text.contains("shuttle"))
            || text.starts_with("#[test]")
    })
}

/// On one line, and not too long.
fn short(what: &str) -> String {
    let what = what.replace('`', "'");
    let mut line = what.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 100 {
        let end: String = line.chars().rev().take(25).collect();
        let end: String = end.chars().rev().collect();
        line = line.chars().take(70).collect::<String>() + " … " + &end;
    }
    line
}
