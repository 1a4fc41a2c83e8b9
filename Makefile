# make help          the targets
# Everything works from a fresh Debian 12 with a Rust toolchain; missing packages are installed when root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help playground wipe build deps test unit e2e install-libcurve soak catchup fs-posix fs-s3 fs-programs fs-git fs-sqlite fs-postgres fs-rsync fs-build fs-dbench bench bench-ceph bench-iscsi bench-fs bench-fs-line bench-table sim fuzz lint lint-deny samples doc

SEEDS ?= 200
SECONDS_EACH ?= 60
LINE ?= 4gbit
DIR ?= ./playground
comma := ,

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

playground: ## a three-replica volume over NBD in ./playground (DIR=…), from nothing
	tools/deps.sh build try
	cargo build --release --locked -p curve -p curve-nbd -p curve-fuse
	tools/playground-demo.sh $(DIR)

wipe: ## end the playground and remove its data
	if grep -qs " $(abspath $(DIR))/mnt fuse.curvefs" /proc/mounts; then target/release/curve-fuse umount $(DIR)/mnt; fi
	if [ -d $(DIR)/mnt ]; then rmdir --ignore-fail-on-non-empty $(DIR)/mnt; fi
	test -x target/release/curve || cargo build --release --locked -p curve -p curve-nbd -p curve-fuse
	target/release/curve playground wipe --yes --dir $(DIR)

build: ## release binaries in target/release
	tools/deps.sh build
	cargo build --release --locked -p curve -p curve-nbd -p curve-iscsi -p curve-fuse

install-libcurve: ## headers and libraries for C and C++ programs below PREFIX=/usr/local
	tools/deps.sh build
	cargo build --profile libcurve --locked -p curve-libcurve
	frontends/libcurve/install.sh $${PREFIX:-/usr/local} target/libcurve/libcurve_c.so target/libcurve/libcurve_c.a

deps: ## install the Debian packages that are missing
	tools/deps.sh build try test

# One build profile for all tests: `dev`, whose third-party crates are optimised. The binaries are built first, since
# the end-to-end tests run them.
test: deps ## all tests: units, models, 200 simulator seeds, real clients against real clusters
	cargo build --locked --workspace --bins
	cargo test --locked --workspace

unit: ## tests without real clusters
	cargo test --locked --workspace --exclude curve-e2e

e2e: deps ## only the tests with real clients; ARGS=name to choose
	cargo build --locked --workspace --bins
	cargo test --locked -p curve-e2e -- $(ARGS)

soak: deps ## the checker under faults for ten minutes on a release build (SOAK_SECONDS=…)
	cargo build --release --locked --workspace --bins
	CURVE_SOAK_SECONDS=$${SOAK_SECONDS:-600} cargo test --release --locked -p curve-e2e -- --nocapture soak

fs-posix: deps ## pjdfstest, fsx (1,000,000 operations, 200,000 on two mounts), 10,000 sequences compared with ext4
	cargo install --locked --quiet --root target/tools pjdfstest@0.2.2
	cargo build --release --locked -p curve -p curve-fuse
	PJDFSTEST=$(CURDIR)/target/tools/bin/pjdfstest CURVE_FSX=1000000 CURVE_DIFFERENTIAL=10000 \
	  cargo test --release --locked -p curve-e2e -- --nocapture curvefs_posix curvefs_differential

# Not part of `make test`: moto comes from Python's package index.
fs-s3: deps ## the same data tests and a file system on moto's S3 server (installed in target/tools), and its boto3 on ours
	tools/deps.sh s3
	cargo build --locked -p curve -p curve-fuse
	tools/fs-s3.sh

fs-git fs-sqlite fs-postgres fs-rsync fs-build fs-dbench: fs-%: deps
	cargo build --release --locked -p curve -p curve-fuse
	CURVE_FS_LARGE=1 cargo test --release --locked -p curve-e2e -- --nocapture curvefs_programs::$*

fs-programs: fs-git fs-sqlite fs-postgres fs-rsync fs-build fs-dbench ## these on a mounted CurveFS, in sizes of every day; each alone, too: fs-git, …

catchup: deps ## a chunkserver misses 1 GiB of changes to a 4 GiB volume: what it copies, on a release build
	cargo build --release --locked -p curve -p curve-nbd
	CURVE_CATCHUP_MIB=4096 cargo test --release --locked -p curve-e2e -- --nocapture a_replica_that_was_away

sim: ## simulator: SEEDS=200 seeds of the production code under faults (FROM=1)
	tools/deps.sh build
	cargo build --release --locked -p curve-sim
	target/release/curve-sim --seeds $(SEEDS) --from $${FROM:-1}

fuzz: ## every decoder for SECONDS_EACH=60 seconds
	tools/deps.sh build
	cargo build --release --locked -p curve-fuzz
	cargo build --release --locked -p curve-nbd --example fuzz
	cargo build --release --locked -p curve-iscsi --example fuzz_iscsi
	cargo build --release --locked -p curve-scsi --example fuzz_scsi
	target/release/curve-fuzz --seconds $(SECONDS_EACH)
	target/release/examples/fuzz --seconds $(SECONDS_EACH)
	target/release/examples/fuzz_iscsi --seconds $(SECONDS_EACH)
	target/release/examples/fuzz_scsi $(SECONDS_EACH)

bench: deps ## disk, NBD front end and cluster with fio, in one run (ARGS=--help)
	cargo build --release --locked -p curve -p curve-nbd -p curve-bench
	target/release/curve-bench $(ARGS)

bench-ceph: deps ## the same beside Ceph, with the floors that the ratios must keep
	tools/deps.sh peers
	cargo build --release --locked -p curve -p curve-nbd -p curve-bench
	target/release/curve-bench --targets disk,disk-sync,nbd-memory,cluster,ceph $(ARGS)

bench-iscsi: deps ## iSCSI beside NBD, tgt in memory and tgt on Ceph, by one initiator, with the floors
	tools/deps.sh peers
	cargo build --release --locked -p curve -p curve-nbd -p curve-iscsi -p curve-fuse -p curve-bench
	target/release/curve-bench --cases randwrite-4k-qd32,randread-4k-qd32 \
	  --targets nbd-memory-qemu,cluster-qemu,iscsi-memory,iscsi-cluster,tgt,tgt-rbd $(or $(ARGS),--size 1GiB)

bench-fs: deps ## CurveFS beside ceph-fuse, s3fs and a parallel S3 client, with the floors; ARGS=--table: creates against mounts
	tools/deps.sh peers
	cargo build --release --locked -p curve -p curve-fuse -p curve-bench
	target/release/curve-bench files $(or $(ARGS),--targets disk$(comma)curvefs$(comma)ceph-fuse$(comma)s3fs$(comma)s3-client)

bench-fs-line: deps ## writing and reading large files beside a parallel S3 client, the store behind a line; LINE=4gbit; needs root
	cargo build --release --locked -p curve -p curve-fuse -p curve-bench
	tools/with-line.sh $(LINE) target/release/curve-bench files --targets curvefs$(comma)s3-client --cases write$(comma)read $(ARGS)

bench-table: deps ## IOPS and CPU at depth 1 to 64 for 6, 30 and 150 copysets, as a table
	cargo build --release --locked -p curve -p curve-nbd -p curve-bench
	target/release/curve-bench --growth 6,30,150 --runtime 5s $(ARGS)

lint: ## format, clippy, licences, lengths of files and functions
	tools/deps.sh build lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	if command -v cargo-deny >/dev/null; then cargo deny --locked check; else tools/licenses.sh; fi
	tools/file-lengths.sh
	tools/function-lengths.py --self-test
	tools/function-lengths.py

lint-deny: ## install cargo-deny (takes minutes) and run it
	command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny --locked check

samples: ## write deploy/*.toml anew from the configuration structs
	CURVE_UPDATE_SAMPLES=1 cargo test -p curve --test samples

doc: ## API documentation in target/doc
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
