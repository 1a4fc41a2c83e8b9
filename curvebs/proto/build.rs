//! Compiles the `.proto` files with a pure-Rust compiler, so that no `protoc` is needed to build.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["data.proto", "mds.proto", "state.proto"], ["proto"])?;
    // A secret must not get into a log by way of `{:?}`: `pb` writes this one's `Debug` by hand.
    tonic_prost_build::configure().bytes(".").skip_debug(["curve.mds.v1.IscsiAuth"]).compile_fds(files)?;
    Ok(())
}
