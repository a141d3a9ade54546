//! What a layer publishes of itself: that it says everything, that it is
//! valid where it has to be, and that it is true.

mod layers;
mod openapi;
mod options;
mod page;
mod serving;
