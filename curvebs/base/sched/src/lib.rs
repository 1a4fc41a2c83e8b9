//! Placement and balancing as pure functions over a view of the cluster.
