//! The options of a file that limit what requests hold.

use crate::config::amount::Size;
use crate::config::file::Idempotency;
use crate::layer::builder::IdempotencyLayerBuilder;

type Set<T> = fn(IdempotencyLayerBuilder, T) -> IdempotencyLayerBuilder;

impl Idempotency {
    pub(super) fn set_limits(&self, builder: IdempotencyLayerBuilder) -> IdempotencyLayerBuilder {
        type Builder = IdempotencyLayerBuilder;
        let bytes = |size: Size| size.0;
        let own: [(Option<usize>, Set<usize>); 12] = [
            (
                self.max_in_flight_operations,
                Builder::max_in_flight_operations,
            ),
            (
                self.max_in_flight_per_caller,
                Builder::max_in_flight_per_caller,
            ),
            (
                self.max_buffered_bytes.map(bytes),
                Builder::max_buffered_bytes,
            ),
            (
                self.max_buffered_bytes_per_caller.map(bytes),
                Builder::max_buffered_bytes_per_caller,
            ),
            (
                self.max_background_operations,
                Builder::max_background_operations,
            ),
            (
                self.max_background_per_caller,
                Builder::max_background_per_caller,
            ),
            (self.max_waiting_requests, Builder::max_waiting_requests),
            (self.max_waiting_per_caller, Builder::max_waiting_per_caller),
            (self.max_read_ahead.map(bytes), Builder::max_read_ahead),
            (
                self.max_read_ahead_per_caller.map(bytes),
                Builder::max_read_ahead_per_caller,
            ),
            (self.max_unsent_bytes.map(bytes), Builder::max_unsent_bytes),
            (
                self.max_unsent_bytes_per_caller.map(bytes),
                Builder::max_unsent_bytes_per_caller,
            ),
        ];
        own.into_iter()
            .fold(builder, |builder, (value, set)| match value {
                Some(value) => set(builder, value),
                None => builder,
            })
    }
}
