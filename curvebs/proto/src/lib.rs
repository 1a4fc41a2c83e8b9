//! Wire messages of the data and control planes and their conversion at the edge.
