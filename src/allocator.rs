//! How the C library shares memory out among threads.

/// Keeps all threads to one arena. By default each has its own, and what one thread has freed is of no use to another:
/// rows are made on one thread and freed on another, so the arenas together held two to four times what was in use.
/// Rows are few large allocations; nobody waits for the lock (measured: less CPU, because less memory is touched).
pub(crate) fn keep_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "a call of the C library; see the SAFETY comment")]
        // SAFETY: `mallopt` takes two integers and is called before there is a second thread.
        let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        debug_assert_eq!(accepted, 1, "glibc knows this parameter");
    }
}
