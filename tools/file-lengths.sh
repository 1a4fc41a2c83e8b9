#!/usr/bin/env bash
# file-lengths.sh: no source file over 800 lines.
set -euo pipefail
cd "$(dirname "$0")/.."
long=$(git ls-files '*.rs' | xargs -r wc -l | awk '$2 != "total" && $1 > 800 {print $1, $2}')
if [ -n "$long" ]; then
  echo "longer than 800 lines; split by what each part owns:"
  echo "$long"
  exit 1
fi
echo "file lengths: ok"
