//! grantsmith.
fn main() {}
