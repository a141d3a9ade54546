//! Patterns of routes as OpenAPI's path templates.

/// A path template of OpenAPI: `/files/{*rest}` becomes `/files/{rest}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) path: String,
    pub(super) parameters: Vec<Parameter>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// Whether the parameter matches slashes too.
    pub(super) rest: bool,
}

impl Template {
    /// `pattern` is one that the router has accepted.
    pub(super) fn of(pattern: &str) -> Self {
        let mut template = Self {
            path: String::with_capacity(pattern.len()),
            parameters: Vec::new(),
        };
        let mut rest = pattern;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            template.path.push_str(before);
            // A doubled brace stands for the brace itself. OpenAPI has no such
            // escape, so the brace is percent-encoded.
            if brace.starts_with("{{") || brace.starts_with("}}") {
                let open = brace.starts_with('{');
                template.path.push_str(if open { "%7B" } else { "%7D" });
                rest = &brace[2..];
            } else if let Some((name, after)) = brace[1..].split_once('}') {
                let takes_all = name.starts_with('*');
                let name = name.trim_start_matches('*');
                template.path.extend(["{", name, "}"]);
                template.parameters.push(Parameter {
                    name: name.to_owned(),
                    rest: takes_all,
                });
                rest = after;
            } else {
                break;
            }
        }
        template.path.push_str(rest);
        template
    }

    /// The path without the names of its parameters. For OpenAPI, two templates
    /// that differ only in these names are the same path.
    pub(super) fn shape(&self) -> String {
        let mut shape = self.path.clone();
        for parameter in &self.parameters {
            shape = shape.replacen(&format!("{{{}}}", parameter.name), "{}", 1);
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_templates_with_their_parameters_named() {
        for (pattern, path, parameters) in [
            ("/orders", "/orders", &[][..]),
            (
                "/orders/{id}/lines/{n}",
                "/orders/{id}/lines/{n}",
                &[("id", false), ("n", false)],
            ),
            ("/files/{*rest}", "/files/{rest}", &[("rest", true)]),
            ("/a/{id}.json", "/a/{id}.json", &[("id", false)]),
            ("/a/{{b}}/{c}", "/a/%7Bb%7D/{c}", &[("c", false)]),
        ] {
            let template = Template::of(pattern);
            assert_eq!(template.path, path);
            let own: Vec<_> = template
                .parameters
                .iter()
                .map(|own| (&*own.name, own.rest))
                .collect();
            assert_eq!(own, parameters, "{pattern}");
        }
    }

    #[test]
    fn names_do_not_make_two_paths_of_one() {
        assert_eq!(
            Template::of("/a/{x}/{y}").shape(),
            Template::of("/a/{y}/{x}").shape()
        );
        assert_ne!(Template::of("/a/{x}").shape(), Template::of("/a/x").shape());
    }
}
