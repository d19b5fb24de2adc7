//! The ports to the host stack, as the thread finds them that is behind them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_dataplane::port::host::HostAccess;

use crate::host::probe::Board;

/// By chain, the way to connect to the port of its host stack. Copies are the same.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Changes with what is open.
    version: AtomicU64,
    open: Mutex<BTreeMap<String, HostAccess>>,
    board: Board,
}

impl Hosts {
    /// The port of a chain was opened.
    pub(crate) fn opened(&self, chain: &str, access: HostAccess) {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert(chain.to_owned(), access);
        self.changed();
    }

    /// The configuration is another: ports of chains that `stays` does not know are closed.
    pub(crate) fn keep(&self, stays: impl Fn(&str) -> bool) {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|chain, _| stays(chain));
        self.changed();
    }

    fn changed(&self) {
        self.0.version.fetch_add(1, Ordering::Release);
    }

    /// What probes found.
    pub fn board(&self) -> &Board {
        &self.0.board
    }

    /// A number that is another after each change of the configuration.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The way to the port of a chain, if it is open.
    pub fn access(&self, chain: &str) -> Option<HostAccess> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).get(chain).cloned()
    }
}
