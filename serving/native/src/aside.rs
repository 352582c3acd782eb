//! Work that is long is done beside the event loops: it would hold up every other connection of its thread.

use crate::error::{Failure, Result};

/// From so many bytes on, that are parsed, written, packed or unpacked. To go aside takes as long as some 10 KiB.
pub const LARGE: usize = 32 * 1024;

/// Do work on `size` bytes.
pub async fn aside<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if size < LARGE {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::internal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn only_what_is_long_goes_to_another_thread() {
        let me = thread::current().id();
        let where_is = |size| aside(size, || Ok(thread::current().id()));
        assert_eq!(where_is(LARGE - 1).await.unwrap(), me);
        assert_ne!(where_is(LARGE).await.unwrap(), me);
    }
}
