//! Compiles the `.proto` files with a pure-Rust compiler, so that no `protoc` is needed to build.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["data.proto", "mds.proto", "meta.proto", "state.proto"], ["proto"])?;
    // A secret must not get into a log by way of `{:?}`: `pb` writes these ones' `Debug` by hand.
    let secrets = ["curve.mds.v1.IscsiAuth", "curve.fs.v1.S3Backend", "curve.fs.v1.FsSetKeys"];
    tonic_prost_build::configure().bytes(".").skip_debug(secrets).compile_fds(files)?;
    Ok(())
}
