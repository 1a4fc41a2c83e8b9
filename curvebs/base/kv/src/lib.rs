//! Ordered key-value state store with the applied index in the same batch.
