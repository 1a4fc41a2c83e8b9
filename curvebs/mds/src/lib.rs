//! Metadata server: namespace, topology, placement, leases, repair.
