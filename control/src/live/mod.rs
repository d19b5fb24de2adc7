//! The live view of an instance: a table that updates, for `run` on a terminal and for `top`.
//!
//! 1. [`source`] samples an instance on a thread of its own, through what `show` asks: this process's instance, or the one behind
//!    a management socket.
//! 2. [`tables`] makes tables of two samples: rates, shares, percentiles.
//! 3. [`view`] keeps what its user chose, and [`draw`] draws it into any width and height.
//! 4. [`screen`] takes the terminal and gives it back, also after a panic; [`dashboard`] is the loop.

pub mod dashboard;
pub mod draw;
pub mod screen;
pub mod source;
pub mod tables;
pub mod view;
