//! Values of the API: identifiers that are parsed once, and readers for types that wobble.

pub(crate) mod ids;
pub(crate) mod lenient;
pub(crate) mod upid;
