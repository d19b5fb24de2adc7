//! Records of firewalls' logging rules on their way from the worker to who prints them.

use std::sync::{Mutex, PoisonError};

use millrace_dataplane::ring::spsc::Consumer;
use millrace_nf::firewall::Firewall;
use millrace_nf::firewall::log::{LogRecord, RING_RECORDS, log_ring};

/// The reading ends of all firewalls' rings.
#[derive(Debug, Default)]
pub struct RuleLogs(Mutex<Vec<Reader>>);

#[derive(Debug)]
struct Reader {
    function: String,
    ring: Consumer<LogRecord>,
}

impl RuleLogs {
    /// Takes the records of this firewall from now on.
    pub fn connect(&self, function: &str, firewall: &mut Firewall) {
        let (producer, ring) = log_ring();
        firewall.log_to(producer);
        self.readers().push(Reader { function: function.to_owned(), ring });
    }

    /// The records that wait, with the names of their functions; at most as many as one ring holds, so that who prints
    /// them gives signs of life.
    pub fn take(&self) -> Vec<(String, LogRecord)> {
        let mut taken = Vec::new();
        self.readers().retain_mut(|reader| {
            // Asked first: what is there then is all that will come.
            let last = reader.ring.is_abandoned();
            while taken.len() < RING_RECORDS
                && let Some(record) = reader.ring.pop()
            {
                taken.push((reader.function.clone(), record));
            }
            !(last && reader.ring.is_empty())
        });
        taken
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
