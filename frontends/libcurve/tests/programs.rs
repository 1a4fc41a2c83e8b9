//! C and C++ programs that use every call, against a real cluster.

use std::path::{Path, PathBuf};

use curve_harness::{Playground, PlaygroundOptions, has_program, run};

/// Installs the library that was built with this test below `prefix`.
async fn install(prefix: &Path) {
    let own = std::env::current_exe().expect("a test has a file");
    let dir = own.parent().expect("a file lies in a directory");
    // `deps/` has the newest; the directory above it only after a build by name.
    let library = dir.join("libcurve_c.so");
    assert!(library.is_file(), "{} was not built", library.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    let arguments = [script.as_path(), prefix, &library].map(|path| path.display().to_string());
    run(30, "sh", &arguments.each_ref().map(String::as_str)).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Compiles a program as one for the original's library would be.
async fn compile(prefix: &Path, compiler: &str, standard: &str, source: &str) -> PathBuf {
    let program = prefix.join(source.replace('.', "-"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let (include, lib) = (prefix.join("include"), prefix.join("lib"));
    let arguments = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-g",
        standard,
        "-D_DEFAULT_SOURCE",
        "-I",
        &include.display().to_string(),
        &source.display().to_string(),
        "-o",
        &program.display().to_string(),
        "-L",
        &lib.display().to_string(),
        &format!("-Wl,-rpath,{}", lib.display()),
        "-lcurve",
        "-lpthread",
    ];
    run(60, compiler, &arguments).await.unwrap_or_else(|error| panic!("{error}"));
    program
}

async fn succeed(seconds: u64, program: &str, arguments: &[&str]) {
    run(seconds, program, arguments).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn c_and_cpp_programs_use_every_call_and_share_a_volume() {
    if !has_program("cc") || !has_program("c++") {
        eprintln!("skipped: no C or C++ compiler");
        return;
    }
    let options = PlaygroundOptions { chunkservers: 3, mds: 1, ..PlaygroundOptions::default() };
    let (playground, built) = tokio::join!(Playground::start(options), async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        install(dir.path()).await;
        let c = compile(dir.path(), "cc", "-std=c99", "every.c").await;
        let cpp = compile(dir.path(), "c++", "-std=c++11", "client.cpp").await;
        (dir, c.display().to_string(), cpp.display().to_string())
    });
    let playground = playground.unwrap_or_else(|error| panic!("{error}"));
    let (dir, c, cpp) = built;
    let config = playground.config().display().to_string();
    let original = dir.path().join("client.conf");
    std::fs::write(&original, original_config(&config)).expect("a file can be written");
    let original = original.display().to_string();

    succeed(30, &c, &[&config, &original]).await;
    playground.create("/vol", "64MiB").await.unwrap_or_else(|error| panic!("{error}"));
    succeed(30, &cpp, &["every", &config, "/vol_me_"]).await;
    playground.create("/shared", "64MiB").await.unwrap_or_else(|error| panic!("{error}"));
    let reader = ["read", &original, "/shared_me_"];
    let writer = ["write", &config, "/shared_me_"];
    tokio::join!(succeed(30, &cpp, &reader), succeed(30, &cpp, &writer));
    if has_program("valgrind") {
        let checks = ["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"];
        succeed(120, "valgrind", &[&checks[..], &[&c, &config, &original]].concat()).await;
        succeed(120, "valgrind", &[&checks[..], &[&cpp, "every", &config, "/vol_me_"]].concat()).await;
    } else {
        eprintln!("skipped: valgrind is not installed");
    }
}

/// The addresses of a configuration of ours in the original's form.
fn original_config(config: &str) -> String {
    let text = std::fs::read_to_string(config).expect("a playground has a configuration");
    let list = text.lines().find_map(|line| line.strip_prefix("mds_addresses = ")).expect("it has addresses");
    let list: String = list.chars().filter(|character| !"[]\" ".contains(*character)).collect();
    format!("# of the original\nglobal.logPath=./\nmds.listen.addr={list}\nmds.refreshTimesPerLease=4\n")
}
