//! Deterministic simulation of the production code under seeds and faults.
