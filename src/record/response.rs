//! A response that is to be recorded, of which nothing is copied yet.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::record::Completion;

/// What of a response is recorded. A store that keeps completions in a form of its own makes that
/// form of the response itself, so that its headers and its body are copied once.
pub(crate) struct RecordedResponse<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: RecordedFields<'a>,
    pub(crate) trailers: Option<RecordedFields<'a>>,
    pub(crate) body: &'a Bytes,
    /// Whether the body has an allocation of its own, which a record may keep.
    pub(crate) is_body_alone: bool,
    pub(crate) began_at: SystemTime,
    pub(crate) completed_at: SystemTime,
    pub(crate) retention: Duration,
}

impl RecordedResponse<'_> {
    /// The body in an allocation that holds nothing else, since a record keeps that whole.
    pub(crate) fn own_body(&self) -> Bytes {
        if self.is_body_alone {
            self.body.clone()
        } else {
            Bytes::copy_from_slice(self.body)
        }
    }

    /// As [`Completion::kept_until`].
    pub(crate) fn kept_until(&self) -> Option<SystemTime> {
        self.completed_at.checked_add(self.retention)
    }

    /// The completion of the response: a copy of all that is recorded.
    pub(crate) fn completion(&self) -> Completion {
        Completion {
            status: self.status,
            headers: self.headers.copied(),
            body: self.own_body(),
            trailers: self.trailers.as_ref().map(RecordedFields::copied),
            began_at: self.began_at,
            completed_at: self.completed_at,
            retention: self.retention,
        }
    }
}

impl<'a> From<&'a Completion> for RecordedResponse<'a> {
    fn from(completion: &'a Completion) -> Self {
        Self {
            status: completion.status,
            headers: RecordedFields::all(&completion.headers),
            trailers: completion.trailers.as_ref().map(RecordedFields::all),
            body: &completion.body,
            is_body_alone: true,
            began_at: completion.began_at,
            completed_at: completion.completed_at,
            retention: completion.retention,
        }
    }
}

/// The headers or trailers of a response that are recorded.
pub(crate) struct RecordedFields<'a> {
    fields: Fields<'a>,
    /// A set of those of the first 64 fields that are not recorded.
    left_out: u64,
}

enum Fields<'a> {
    Sent(&'a HeaderMap),
    /// A copy of those that are recorded, of more than 64.
    Chosen(Box<HeaderMap>),
}

impl<'a> RecordedFields<'a> {
    pub(crate) fn all(fields: &'a HeaderMap) -> Self {
        Self {
            fields: Fields::Sent(fields),
            left_out: 0,
        }
    }

    /// The fields whose names are recorded.
    pub(crate) fn chosen(fields: &'a HeaderMap, records: impl Fn(&HeaderName) -> bool) -> Self {
        if fields.len() > 64 {
            let mut chosen = HeaderMap::new();
            for (name, value) in fields.iter().filter(|(name, _)| records(name)) {
                chosen.append(name, value.clone());
            }
            return Self {
                fields: Fields::Chosen(Box::new(chosen)),
                left_out: 0,
            };
        }
        let mut left_out = 0;
        for (at, (name, _)) in fields.iter().enumerate() {
            left_out |= u64::from(!records(name)) << at;
        }
        Self {
            fields: Fields::Sent(fields),
            left_out,
        }
    }

    fn fields(&self) -> &HeaderMap {
        match &self.fields {
            Fields::Sent(fields) => fields,
            Fields::Chosen(fields) => fields,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let left_out = self.left_out;
        let is_left_out = move |at| at < 64 && left_out >> at & 1 == 1;
        let fields = self.fields().iter().enumerate();
        fields.filter_map(move |(at, field)| (!is_left_out(at)).then_some(field))
    }

    pub(crate) fn len(&self) -> usize {
        self.fields().len() - self.left_out.count_ones() as usize
    }

    /// A copy of the fields, each value in an allocation of its own.
    pub(crate) fn copied(&self) -> HeaderMap {
        let mut copy = HeaderMap::with_capacity(self.len());
        for (name, value) in self.iter() {
            copy.append(name, own_value(value));
        }
        copy
    }
}

/// The same value, in an allocation of its own: a value can be a slice of the buffer that a
/// whole message was read into.
pub(crate) fn own_value(value: &HeaderValue) -> HeaderValue {
    let copy = HeaderValue::from_bytes(value.as_bytes());
    let mut copy = copy.unwrap_or_else(|_| value.clone());
    copy.set_sensitive(value.is_sensitive());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_of_a_sensitive_value_is_sensitive() {
        for is_sensitive in [false, true] {
            let mut value = HeaderValue::from_static("v");
            value.set_sensitive(is_sensitive);
            let copy = own_value(&value);
            assert_eq!((&copy, copy.is_sensitive()), (&value, is_sensitive));
        }
    }

    #[test]
    fn fields_are_chosen_by_their_names_however_many_there_are() {
        for number in [0, 1, 2, 63, 64, 65, 200] {
            let mut fields = HeaderMap::new();
            for at in 0..number {
                let name: HeaderName = format!("x-{at}").parse().unwrap();
                fields.append(name, HeaderValue::from(at));
            }
            let is_even = |name: &HeaderName| name.as_str().ends_with(['0', '2', '4', '6', '8']);
            let chosen = RecordedFields::chosen(&fields, is_even);
            let left: Vec<_> = chosen.iter().map(|(name, _)| name).collect();
            let even: Vec<_> = fields.keys().filter(|name| is_even(name)).collect();
            assert_eq!((&left, chosen.len()), (&even, even.len()), "{number}");
            assert_eq!(chosen.copied().len(), even.len());
            assert_eq!(RecordedFields::all(&fields).iter().count(), fields.len());
        }
    }

    #[test]
    fn only_a_body_that_is_alone_in_its_allocation_is_recorded_without_a_copy() {
        let body = Bytes::from(vec![b'x'; 100]);
        let completion = Completion::new(StatusCode::OK, body.clone(), SystemTime::UNIX_EPOCH);
        for is_body_alone in [false, true] {
            let response = RecordedResponse {
                is_body_alone,
                ..RecordedResponse::from(&completion)
            };
            let recorded = response.completion().body;
            assert_eq!(recorded, body);
            assert_eq!(recorded.as_ptr() == body.as_ptr(), is_body_alone);
        }
    }
}
