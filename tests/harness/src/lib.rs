//! Starts real clusters of processes for tests, breaks them, and checks what clients saw.
