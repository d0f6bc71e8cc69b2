//! Installs the package in a booted Debian machine, where systemd, SMART and USB are real.
//!
//! **Not built yet**, because there is no package yet. The binary says so and fails.
