//! A volume as a BlockDevice: split, route, inflight, retry.
