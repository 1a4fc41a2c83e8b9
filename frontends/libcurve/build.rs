//! What the linker must know of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcurve.so.1");
    // Our threads run its code until the process ends, so `dlclose` must leave it in place.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
