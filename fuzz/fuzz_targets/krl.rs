//! See the body: it is shared with the bounded run of `cargo test -p authz --test fuzz_smoke`.
#![no_main]

#[path = "../../crates/authz/tests/fuzz_smoke/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bodies::krl(bytes);
});
