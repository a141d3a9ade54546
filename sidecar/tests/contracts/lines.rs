//! This module turns the promises of a contract into tests. Each promise must hold.
//! Each line of the contract's file, and each number and string in the line, must
//! be needed for one of the promises.

use std::future::Future;
use std::pin::Pin;

use crate::api::Api;

/// Makes the tests of one contract from its file and its promises.
macro_rules! contract {
    ($file:literal: $($promise:ident),+ $(,)?) => {
        const FILE: &str = include_str!($file);

        mod promises {
            use crate::api::Api;

            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(&Api::start(super::FILE).await).await;
                }
            )+
        }

        #[test]
        fn the_file_is_right_as_it_stands() {
            let said = crate::sidecar::check($file);
            assert!(said.starts_with("# Idempotency\n"), "{said}");
        }

        #[test]
        fn every_refusal_has_the_form_of_the_vendors_errors() {
            crate::refusals::all_are_errors(FILE, is_error);
        }

        #[tokio::test]
        async fn with_any_of_its_lines_gone_or_changed_a_promise_is_broken() {
            crate::lines::all_count(FILE, |api| {
                Box::pin(async move {
                    $(
                        $promise(api).await;
                    )+
                })
            })
            .await;
        }
    };
}

/// This function checks all promises of a contract, one after the other.
type Promises = for<'a> fn(&'a Api) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

pub(crate) async fn all_count(file: &str, promises: Promises) {
    assert!(
        holds(file.to_owned(), promises).await,
        "it is broken as it stands"
    );
    let mut idle = Vec::new();
    for (at, line) in file.lines().enumerate() {
        for other in changes(line) {
            let with = file.lines().enumerate();
            let with = with.filter_map(|(own, line)| {
                if own == at {
                    other.as_deref()
                } else {
                    Some(line)
                }
            });
            let changed = with.collect::<Vec<_>>().join("\n");
            if holds(changed, promises).await {
                let other = other.unwrap_or_else(|| "(gone)".to_owned());
                idle.push(format!("{line} -> {other}"));
            }
        }
    }
    assert!(idle.is_empty(), "no promise is broken by: {idle:#?}");
}

/// Returns the changes of a line: once the line is removed, and once for each of
/// its numbers and strings with another value.
fn changes(line: &str) -> Vec<Option<String>> {
    let said = line.split(" #").next().unwrap_or_default().trim_end();
    // The tests use a listen address, an upstream and a Redis of their own, so
    // changes of these lines would break nothing.
    let ours = ["listen", "upstream", "store = \"redis:", "#"];
    if said.is_empty() || ours.iter().any(|ours| said.starts_with(ours)) {
        return Vec::new();
    }
    let mut changes = vec![None];
    let bytes = said.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let ends_a_number =
            byte.is_ascii_digit() && !bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let ends_a_string = *byte == b'"' && said[..at].matches('"').count() % 2 == 1;
        let (before, after) = said.split_at(at);
        if ends_a_number {
            let digit = char::from(if *byte == b'9' { b'8' } else { byte + 1 });
            changes.push(Some(format!("{before}{digit}{}", &after[1..])));
        } else if ends_a_string {
            changes.push(Some(format!("{before}x{after}")));
        }
    }
    changes
}

async fn holds(file: String, promises: Promises) -> bool {
    let run = async move { promises(&Api::start(&file).await).await };
    tokio::spawn(run).await.is_ok()
}
