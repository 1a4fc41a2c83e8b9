#!/usr/bin/env bash
# licenses.sh: every third-party crate has a licence that Apache-2.0 code may be linked with. The quick stand-in for
# `cargo deny check` (make lint-deny), which needs a tool that takes minutes to build.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 - <(cargo metadata --format-version 1 --locked) <<'PY'
import json, re, sys

ALLOWED = {"Apache-2.0", "MIT", "ISC", "Zlib", "BSD-2-Clause", "BSD-3-Clause", "Unicode-3.0", "Unlicense",
           "MPL-2.0", "CC0-1.0", "0BSD", "Apache-2.0 WITH LLVM-exception", "CDLA-Permissive-2.0"}

def allowed(expression):
    """An OR needs one allowed side, an AND all of them; a slash is an old OR."""
    expression = expression.replace("/", " OR ").replace("(", " ").replace(")", " ")
    return all(any(term.strip() in ALLOWED for term in re.split(r"\s+OR\s+", part))
               for part in re.split(r"\s+AND\s+", expression))

packages = json.load(open(sys.argv[1]))["packages"]
bad = [f"{p['name']} {p['version']}: {p['license']}" for p in packages
       if p["source"] and not allowed(p["license"] or "none")]
foreign = [f"{p['name']} {p['version']}: {p['source']}" for p in packages
           if p["source"] and not p["source"].startswith("registry+https://github.com/rust-lang/crates.io-index")]
for line in bad + foreign:
    print("not allowed:", line)
print(f"licences and sources of {sum(1 for p in packages if p['source'])} crates: {'ok' if not bad + foreign else 'refused'}")
sys.exit(1 if bad or foreign else 0)
PY
