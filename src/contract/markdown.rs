//! The contract as a page of a developer portal.

use std::fmt::Write;

use crate::contract::sentences::{self, Sentences};
use crate::contract::{Contract, Endpoint, RejectionExample};
use crate::display::{duration, header_name, join_with};
use crate::rejection::RejectionCode;

impl Contract {
    /// The contract as a page for people, in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut page = String::from("# Idempotency\n\n");
        if self.with_keys().next().is_none() {
            page.push_str("This API takes no idempotency keys: every request is executed.\n");
            return page;
        }
        page.push_str(
            "An operation that is sent with a key is executed once. If the same request is sent again with \
             the same key, the API sends the first response again.\n\n",
        );
        self.table(&mut page);
        page.push_str(
            "\nOn any other request a key has no effect: the request is executed each time.\n",
        );
        for (title, say) in [
            (
                "Sending a key",
                sentences::sending as fn(&Endpoint) -> Sentences,
            ),
            ("What a retry gets", sentences::retrying),
            ("While the first request runs", sentences::running),
            ("A key used twice", sentences::reusing),
            ("What is not recorded", sentences::not_recorded),
        ] {
            write!(page, "\n## {title}\n").expect(INFALLIBLE);
            self.section(&mut page, say);
        }
        self.limits.write(&mut page);
        self.errors(&mut page);
        if let Some(url) = &self.docs_url {
            write!(page, "\nEvery error links to <{url}>.\n").expect(INFALLIBLE);
        }
        page
    }

    fn table(&self, page: &mut String) {
        page.push_str("| endpoint | methods | key | header | responses are kept |\n");
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for endpoint in &self.endpoints {
            let (path, methods) = (endpoint.place(), endpoint.methods());
            // A bar would end the cell.
            let path = path.replace('|', "\\|");
            let options = &endpoint.options;
            if options.takes_keys() {
                let require = options.require.as_str();
                let headers = sentences::names(&options.keys.headers, "or");
                let kept = duration(options.retention);
                writeln!(
                    page,
                    "| {path} | {methods} | {require} | {headers} | {kept} |"
                )
            } else {
                writeln!(page, "| {path} | {methods} | ignored | | |")
            }
            .expect(INFALLIBLE);
        }
    }

    /// A sentence that is the same for all endpoints stands there once. Any other
    /// names the endpoints that it is about.
    fn section(&self, page: &mut String, say: fn(&Endpoint) -> Sentences) {
        let all: Vec<_> = self
            .with_keys()
            .map(|endpoint| (endpoint.name(), say(endpoint)))
            .collect();
        let subjects = all.first().map_or(0, |(_, sentences)| sentences.len());
        for subject in 0..subjects {
            let groups = grouped(
                all.iter()
                    .map(|(name, sentences)| (name.clone(), &sentences[subject])),
            );
            for (names, sentence) in groups.iter().filter(|(_, sentence)| !sentence.is_empty()) {
                if names.len() < all.len() {
                    write!(page, "\n**On {}:** {sentence}\n", join_with(names, "and"))
                } else {
                    write!(page, "\n{sentence}\n")
                }
                .expect(INFALLIBLE);
            }
        }
    }

    fn errors(&self, page: &mut String) {
        page.push_str(
            "\n## Errors\n\nA request that gets one of these errors was not executed. A program should act \
             on the code, or on the member of the body that stands for it.\n\n\
             | code | status | when | what to do |\n| --- | --- | --- | --- |\n",
        );
        let everywhere = self.with_keys().count();
        let mut examples = String::new();
        for code in RejectionCode::ALL {
            let shown = grouped(
                self.with_keys()
                    .filter_map(|endpoint| Some((endpoint.name(), endpoint.rejection(*code)?))),
            );
            let mut statuses: Vec<_> = shown
                .iter()
                .map(|(_, example)| example.status.as_str().to_owned())
                .collect();
            statuses.dedup();
            if statuses.is_empty() {
                continue;
            }
            let (statuses, (when, advice)) = (statuses.join(", "), code.for_clients());
            writeln!(page, "| `{code}` | {statuses} | {when} | {advice} |").expect(INFALLIBLE);
            write!(examples, "\n### `{code}`\n").expect(INFALLIBLE);
            for (names, rejection) in &shown {
                if names.len() < everywhere {
                    write!(examples, "\nOn {}:\n", join_with(names, "and")).expect(INFALLIBLE);
                }
                example(&mut examples, rejection);
            }
        }
        page.push_str(&examples);
    }
}

/// The names of equal items together, in the order of the first name of each.
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

/// The response as HTTP/1.1 sends it, without `Content-Length` and `Date`.
fn example(page: &mut String, rejection: &RejectionExample) {
    if rejection.rendered {
        page.push_str(
            "\nThe application makes this response from the request, so it may differ.\n",
        );
    }
    let Some(body) = &rejection.body else {
        return;
    };
    write!(page, "\n```http\nHTTP/1.1 {}\n", rejection.status).expect(INFALLIBLE);
    for (name, value) in &rejection.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        writeln!(page, "{}: {value}", header_name(name)).expect(INFALLIBLE);
    }
    if !body.is_empty() {
        writeln!(page, "\n{}", String::from_utf8_lossy(body).trim_end()).expect(INFALLIBLE);
    }
    page.push_str("```\n");
}

const INFALLIBLE: &str = "writing to a string does not fail";
