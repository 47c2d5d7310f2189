//! What a guest's memories and tables may grow to.

use wasmtime::ResourceLimiter;

/// Counts linear memory and tables against the plugin's limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_max: usize,
    bytes: usize,
    /// Growth was refused since the guest was entered: how a following trap is explained.
    pub(crate) refused: bool,
}

impl Limiter {
    pub(crate) const fn new(bytes_max: usize) -> Limiter {
        Limiter { bytes_max, bytes: 0, refused: false }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let bytes = self.bytes.saturating_sub(current).saturating_add(desired);
        if bytes > self.bytes_max {
            self.refused = true;
            return false;
        }
        self.bytes = bytes;
        true
    }
}

const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Past its own maximum a memory doesn't grow, so that isn't ours to count.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let (current, desired) =
            (current.saturating_mul(TABLE_ELEMENT_BYTES), desired.saturating_mul(TABLE_ELEMENT_BYTES));
        Ok(maximum.is_none_or(|maximum| desired / TABLE_ELEMENT_BYTES <= maximum) && self.grow(current, desired))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limiter_counts_all_memories_and_tables() {
        let mut limiter = Limiter::new(1000);
        let mut memory =
            |current, desired, maximum| limiter.memory_growing(current, desired, maximum).expect("no error");
        assert!(memory(0, 600, None));
        assert!(!memory(0, 600, None));
        assert!(memory(600, 700, None));
        assert!(!memory(700, 750, Some(720)));
        assert!(limiter.table_growing(0, 30, None).expect("no error"));
        assert!(limiter.refused);
        assert!(!limiter.table_growing(30, 100, None).expect("no error"));
    }
}
