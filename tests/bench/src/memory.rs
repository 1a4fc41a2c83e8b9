//! What memory costs: a raw limit of the machine, as the disk is one.
//!
//! A page that was free is cleared and mapped when it is used first. In a virtual machine whose host takes free memory back (free page
//! reporting) the host has to find one, too, which takes many times as long (docs/performance.md). Whatever fills the page cache
//! pays for it: file systems, and a cluster with each block that is written for the first time.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

const PAGE: usize = 4096;
const PAGES: usize = 32 << 10;

/// Microseconds that the first use of a page takes.
pub fn first_use_us() -> f64 {
    // Fresh from the kernel, which has promised zeros and done nothing for them yet.
    let mut memory = vec![0u8; PAGES * PAGE];
    let begun = Instant::now();
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    black_box(&memory);
    begun.elapsed().as_secs_f64() * 1e6 / PAGES as f64
}

/// Says what it was, below the tables.
pub fn print(first_use_us: f64, json: bool) {
    if json {
        println!("{}", json!({"page_first_use_us": first_use_us}));
    } else {
        println!("The first use of a page of memory took {first_use_us:.1} us.");
    }
}
