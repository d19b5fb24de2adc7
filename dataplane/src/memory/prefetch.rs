//! Prefetching: asking for a cache line some tens of nanoseconds before it is read.
#![allow(unsafe_code)]

/// Asks the CPU for the first cache line of `value`, for reading. A hint, free of effects; nothing on CPUs for
/// which the language has no stable intrinsic.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast());
}

/// Asks for the cache line at `address`; any address will do.
#[inline]
pub(crate) fn prefetch_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it faults on no address and changes nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
