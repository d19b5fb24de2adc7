//! What this machine has of cores.

/// Whether workers can run beside each other; says so if not.
pub fn has_two_cores(test: &str) -> bool {
    let has = std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2);
    if !has {
        println!("SKIPPED {test}: this machine has one core");
    }
    has
}
