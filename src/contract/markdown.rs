//! The contract as a page of a developer portal.

use std::fmt::Write;

use crate::contract::words::Sentences;
use crate::contract::{Contract, Endpoint, GatewayError, RejectionExample, Terms, refusals, words};
use crate::display::{duration, header_name, join_with};
use crate::rejection::RejectionCode;

impl Contract {
    /// The contract as a page for people, in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut page = String::from("# Idempotency\n\n");
        if self.terms().next().is_none() {
            page.push_str("This API takes no idempotency keys: every request is executed.\n");
            return page;
        }
        page.push_str(
            "An operation that is sent with a key is executed once. Whoever sends the same request again \
             with the same key gets the first answer again.\n\n",
        );
        self.table(&mut page);
        page.push_str("\nOn any other request a key has no effect: it is executed each time.\n");
        for (title, say) in [
            ("Sending a key", words::sending as fn(&Terms) -> Sentences),
            ("What a retry gets", words::retrying),
            ("While the first request runs", words::running),
            ("A key used twice", words::reusing),
            ("What is not kept", words::not_kept),
        ] {
            write!(page, "\n## {title}\n").expect(INFALLIBLE);
            self.section(&mut page, say);
        }
        self.errors(&mut page);
        self.gateway_errors(&mut page);
        if let Some(url) = &self.docs_url {
            write!(page, "\nEvery error links to <{url}>.\n").expect(INFALLIBLE);
        }
        page
    }

    fn terms(&self) -> impl Iterator<Item = (&Endpoint, &Terms)> {
        let with = |endpoint| Some((endpoint, Endpoint::terms(endpoint)?));
        self.endpoints.iter().filter_map(with)
    }

    fn table(&self, page: &mut String) {
        page.push_str("| endpoint | methods | key | header | answers are kept |\n");
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for endpoint in &self.endpoints {
            let (path, methods) = (endpoint.place(), endpoint.methods());
            // A bar would end the cell.
            let path = path.replace('|', "\\|");
            match &endpoint.terms {
                None => writeln!(page, "| {path} | {methods} | ignored | | |"),
                Some(terms) => {
                    let need = if terms.key_required {
                        "required"
                    } else {
                        "optional"
                    };
                    let headers: Vec<_> = terms
                        .header
                        .iter()
                        .map(|name| format!("`{}`", header_name(name)))
                        .collect();
                    let (headers, kept) = (join_with(&headers, "or"), duration(terms.retention));
                    writeln!(page, "| {path} | {methods} | {need} | {headers} | {kept} |")
                }
            }
            .expect(INFALLIBLE);
        }
    }

    /// What is said of all endpoints, once; else of each with its name.
    fn section(&self, page: &mut String, say: fn(&Terms) -> Sentences) {
        let all: Vec<_> = self
            .terms()
            .map(|(endpoint, terms)| (endpoint.name(), say(terms)))
            .collect();
        let subjects = all.first().map_or(0, |(_, said)| said.len());
        for subject in 0..subjects {
            let groups = grouped(
                all.iter()
                    .map(|(name, said)| (name.clone(), &said[subject])),
            );
            for (names, said) in groups.iter().filter(|(_, said)| !said.is_empty()) {
                if names.len() < all.len() {
                    write!(page, "\n**On {}:** {said}\n", join_with(names, "and"))
                } else {
                    write!(page, "\n{said}\n")
                }
                .expect(INFALLIBLE);
            }
        }
    }

    fn errors(&self, page: &mut String) {
        page.push_str(
            "\n## Errors\n\nA request that gets one of these was not executed. Act on the code, or on what \
             stands for it in the body.\n\n| code | status | when | what to do |\n| --- | --- | --- | --- |\n",
        );
        let mut examples = String::new();
        for code in RejectionCode::ALL {
            let refusals = self
                .terms()
                .filter_map(|(endpoint, terms)| Some((endpoint.name(), terms.refusal(*code)?)));
            let shown = grouped(refusals);
            let mut statuses: Vec<_> = shown
                .iter()
                .map(|(_, refusal)| refusal.status.as_str().to_owned())
                .collect();
            statuses.dedup();
            if statuses.is_empty() {
                continue;
            }
            let (statuses, when) = (statuses.join(", "), refusals::when(*code));
            let advice = refusals::advice(*code);
            writeln!(page, "| `{code}` | {statuses} | {when} | {advice} |").expect(INFALLIBLE);
            write!(examples, "\n### `{code}`\n").expect(INFALLIBLE);
            let everywhere = self.terms().count();
            for (names, refusal) in &shown {
                if names.len() < everywhere {
                    write!(examples, "\nOn {}:\n", join_with(names, "and")).expect(INFALLIBLE);
                }
                example(&mut examples, refusal);
            }
        }
        page.push_str(&examples);
    }

    fn gateway_errors(&self, page: &mut String) {
        if self.gateway.is_empty() {
            return;
        }
        page.push_str(
            "\n## Errors on the way to the service\n\n| code | status | when | what to do |\n\
             | --- | --- | --- | --- |\n",
        );
        for error in &self.gateway {
            let status = error.status.as_u16();
            let GatewayError {
                code, when, advice, ..
            } = error;
            writeln!(page, "| `{code}` | {status} | {when} | {advice} |").expect(INFALLIBLE);
        }
    }
}

/// Those who have the same, together, in the order of the first of each.
fn grouped<T: PartialEq>(all: impl Iterator<Item = (String, T)>) -> Vec<(Vec<String>, T)> {
    let mut groups: Vec<(Vec<String>, T)> = Vec::new();
    for (name, item) in all {
        match groups.iter_mut().find(|(_, own)| *own == item) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], item)),
        }
    }
    groups
}

impl Endpoint {
    fn terms(&self) -> Option<&Terms> {
        self.terms.as_ref()
    }

    fn place(&self) -> String {
        let path = self.path.as_ref();
        path.map_or("every other endpoint".to_owned(), |path| {
            format!("`{path}`")
        })
    }

    fn methods(&self) -> String {
        let methods: Vec<_> = self.methods.iter().map(http::Method::as_str).collect();
        methods.join(", ")
    }

    fn name(&self) -> String {
        match &self.path {
            Some(path) => format!("`{} {path}`", self.methods()),
            None => "every other endpoint".to_owned(),
        }
    }
}

/// As it comes over the wire, but for `Content-Length` and `Date`.
fn example(page: &mut String, refusal: &RejectionExample) {
    if refusal.rendered {
        page.push_str("\nThe application makes this answer from the request, so it may differ.\n");
    }
    let Some(body) = &refusal.body else {
        return;
    };
    write!(page, "\n```http\nHTTP/1.1 {}\n", refusal.status).expect(INFALLIBLE);
    for (name, value) in &refusal.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        writeln!(page, "{}: {value}", header_name(name)).expect(INFALLIBLE);
    }
    if !body.is_empty() {
        writeln!(page, "\n{}", String::from_utf8_lossy(body).trim_end()).expect(INFALLIBLE);
    }
    page.push_str("```\n");
}

/// Of writing to a string.
const INFALLIBLE: &str = "a string takes it";
