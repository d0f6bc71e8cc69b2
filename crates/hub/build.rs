//! A new migration is a reason to build again; cargo cannot see that by itself.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
