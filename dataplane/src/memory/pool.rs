//! (being written)
#![allow(missing_docs)]
pub struct Pool;
pub struct PoolConfig;
pub struct PoolError;
