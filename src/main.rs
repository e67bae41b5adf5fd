//! The `capatch` command.

fn main() {}
