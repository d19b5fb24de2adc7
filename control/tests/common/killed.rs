//! Processes beside the instance, which end with the test that started them, also if it fails.

use std::process::Child;

/// A process that ends with the test.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
