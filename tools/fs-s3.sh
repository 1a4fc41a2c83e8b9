#!/usr/bin/env bash
# fs-s3.sh: the tests of the data backend and of a whole file system on moto's S3 server, and boto3 as it is now on ours.
# Installs moto in target/tools/moto (from Python's package index), starts it on a free port of loopback with keys that it
# checks, and ends it. It keeps everything in memory.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/tools/moto
python=$tools/bin/python
if ! [ -x "$tools/bin/moto_server" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check 'moto[server]>=5.2,<6'
fi

log=$(mktemp "${TMPDIR:-/tmp}/curve-moto.XXXXXX")
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# The five calls of the set-up are the last ones that need no valid signature.
INITIAL_NO_AUTH_ACTION_COUNT=5 "$tools/bin/moto_server" -H 127.0.0.1 -p "$port" >"$log" 2>&1 </dev/null &
moto=$!
end() {
  status=$?
  kill "$moto" 2>/dev/null || true
  wait "$moto" 2>/dev/null || true
  if [ "$status" -ne 0 ]; then
    echo "fs-s3.sh: the last lines of moto's log:" >&2
    tail -n 20 "$log" >&2
  fi
  rm -f "$log"
}
trap end EXIT

export CURVE_TEST_S3_ENDPOINT=http://127.0.0.1:$port CURVE_TEST_S3_BUCKET=one,two
for _ in $(seq 300); do
  kill -0 "$moto" 2>/dev/null || { echo "fs-s3.sh: moto_server has ended" >&2; exit 1; }
  if curl -sS -o /dev/null "$CURVE_TEST_S3_ENDPOINT/moto-api/" 2>/dev/null; then break; fi
  sleep 0.2
done

keys=$("$python" - <<'PY'
import os
import boto3

def client(service):
    return boto3.client(service, endpoint_url=os.environ["CURVE_TEST_S3_ENDPOINT"], region_name="us-east-1",
                        aws_access_key_id="setup", aws_secret_access_key="setup")

iam, s3 = client("iam"), client("s3")
policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
iam.create_user(UserName="curve")
iam.put_user_policy(UserName="curve", PolicyName="s3", PolicyDocument=policy)
key = iam.create_access_key(UserName="curve")["AccessKey"]
for bucket in os.environ["CURVE_TEST_S3_BUCKET"].split(","):
    s3.create_bucket(Bucket=bucket)
print(key["AccessKeyId"], key["SecretAccessKey"])
PY
)
read -r CURVE_TEST_S3_ACCESS_KEY CURVE_TEST_S3_SECRET_KEY <<<"$keys"
export CURVE_TEST_S3_ACCESS_KEY CURVE_TEST_S3_SECRET_KEY CURVE_PYTHON=$python
echo "moto $("$python" -c 'import moto; print(moto.__version__)') serves $CURVE_TEST_S3_BUCKET at $CURVE_TEST_S3_ENDPOINT"

cargo test --locked -p curvefs-data --test s3
cargo test --locked -p curve-e2e -- --nocapture s3::
