"""What a program does with boto3, on any S3 store: client.py ENDPOINT REGION BUCKET ACCESS_KEY SECRET_KEY_FILE.

Makes the bucket when it is missing, works below a prefix of its own and leaves nothing there. Ends with an
AssertionError, or the error that boto3 raised, where the store does something else than S3.
"""
import base64
import hashlib
import sys
import tempfile
import uuid
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, REGION, BUCKET, ACCESS_KEY = sys.argv[1:5]
SECRET_KEY = open(sys.argv[5]).read()
PREFIX = f"boto3-{uuid.uuid4().hex}/"
MIB = 1 << 20


def connect(access_key=ACCESS_KEY, secret_key=SECRET_KEY):
    config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    return boto3.client("s3", endpoint_url=ENDPOINT, region_name=REGION, aws_access_key_id=access_key,
                        aws_secret_access_key=secret_key, config=config)


s3 = connect()


def refused(call, **arguments):
    """The code and status of the error that a call must end with."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError(f"{arguments} was not refused")


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def content(size, seed):
    period = bytes((at * 7 + seed) % 251 for at in range(1009))
    return (period * (size // len(period) + 1))[:size]


def body(key, **arguments):
    return s3.get_object(Bucket=BUCKET, Key=key, **arguments)["Body"].read()


def buckets():
    existing = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    if BUCKET not in existing:
        s3.create_bucket(Bucket=BUCKET)
    s3.head_bucket(Bucket=BUCKET)
    equal(refused(s3.head_bucket, Bucket="curve-none-" + uuid.uuid4().hex)[1], 404)
    another = "curve-made-" + uuid.uuid4().hex
    s3.create_bucket(Bucket=another)
    assert another in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket=another, Key="k", Body=b"x")
    equal(refused(s3.delete_bucket, Bucket=another), ("BucketNotEmpty", 409))
    s3.delete_object(Bucket=another, Key="k")
    s3.delete_bucket(Bucket=another)
    equal(refused(s3.list_objects_v2, Bucket=another), ("NoSuchBucket", 404))


def objects():
    key, whole = PREFIX + "objects/one ä+&", content(300_000, 1)
    put = s3.put_object(Bucket=BUCKET, Key=key, Body=whole, ContentType="text/x", Metadata={"name": "value"})
    head = s3.head_object(Bucket=BUCKET, Key=key)
    equal((head["ContentLength"], head["ContentType"], head["Metadata"]), (300_000, "text/x", {"name": "value"}))
    equal(head["ETag"], put["ETag"])
    assert body(key) == whole
    assert body(key, Range="bytes=65535-65536") == whole[65535:65537]
    assert body(key, Range="bytes=-10") == whole[-10:]
    equal(refused(s3.get_object, Bucket=BUCKET, Key=key, Range="bytes=300000-"), ("InvalidRange", 416))
    equal(refused(s3.get_object, Bucket=BUCKET, Key=key, IfMatch='"another"'), ("PreconditionFailed", 412))
    equal(refused(s3.get_object, Bucket=BUCKET, Key=key, IfNoneMatch=put["ETag"])[1], 304)
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"another")
    equal(body(key), b"another")
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    equal(body(key), b"")
    s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_object(Bucket=BUCKET, Key=key)
    equal(refused(s3.get_object, Bucket=BUCKET, Key=key), ("NoSuchKey", 404))
    equal(refused(s3.head_object, Bucket=BUCKET, Key=key)[1], 404)
    wrong = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    equal(refused(s3.put_object, Bucket=BUCKET, Key=key, Body=b"x", ContentMD5=wrong), ("BadDigest", 400))


def copies():
    source, target = PREFIX + "copies/from é", PREFIX + "copies/to"
    s3.put_object(Bucket=BUCKET, Key=source, Body=content(MIB, 2), Metadata={"name": "value"})
    s3.copy_object(Bucket=BUCKET, Key=target, CopySource={"Bucket": BUCKET, "Key": source})
    assert body(target) == content(MIB, 2)
    equal(s3.head_object(Bucket=BUCKET, Key=target)["Metadata"], {"name": "value"})
    s3.copy_object(Bucket=BUCKET, Key=target, CopySource={"Bucket": BUCKET, "Key": source},
                   MetadataDirective="REPLACE", Metadata={"name": "other"})
    equal(s3.head_object(Bucket=BUCKET, Key=target)["Metadata"], {"name": "other"})
    absent = {"Bucket": BUCKET, "Key": PREFIX + "absent"}
    equal(refused(s3.copy_object, Bucket=BUCKET, Key=target, CopySource=absent), ("NoSuchKey", 404))


def listings():
    root = PREFIX + "list/"
    wanted = [root + name for name in ["a", "a b+%&<>", "d/1", "d/2", "e/f/3", "z", "ä"]]
    for key in wanted:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"abc")
    for size in [1, 2, 1000]:
        pages = list(s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=root, PaginationConfig={"PageSize": size}))
        equal([one["Key"] for page in pages for one in page.get("Contents", [])], wanted)
        pages = list(s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=root, Delimiter="/", PaginationConfig={"PageSize": size}))
        equal([one["Key"] for page in pages for one in page.get("Contents", [])],
              [key for key in wanted if "/" not in key[len(root):]])
        equal([one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])], [root + "d/", root + "e/"])
        pages = s3.get_paginator("list_objects").paginate(
            Bucket=BUCKET, Prefix=root, PaginationConfig={"PageSize": size})
        equal([one["Key"] for page in pages for one in page.get("Contents", [])], wanted)
    after = s3.list_objects_v2(Bucket=BUCKET, Prefix=root, StartAfter=root + "d/1", MaxKeys=1)
    equal(([one["Key"] for one in after["Contents"]], after["IsTruncated"]), ([root + "d/2"], True))
    equal({one["Size"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix=root)["Contents"]}, {3})
    keys = [{"Key": key} for key in [*wanted, root + "never there"]]
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
    equal((len(deleted["Deleted"]), deleted.get("Errors", [])), (len(keys), []))
    equal(s3.list_objects_v2(Bucket=BUCKET, Prefix=root)["KeyCount"], 0)


def uploads():
    key = PREFIX + "uploads/large"
    upload = dict(Bucket=BUCKET, Key=key)
    upload["UploadId"] = s3.create_multipart_upload(**upload, Metadata={"name": "value"})["UploadId"]
    pieces = [content(5 * MIB, number) for number in (1, 2)]
    tags = [s3.upload_part(**upload, PartNumber=number, Body=piece)["ETag"] for number, piece in enumerate(pieces, 1)]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    equal([(part["PartNumber"], part["ETag"], part["Size"]) for part in s3.list_parts(**upload)["Parts"]],
          [(number, tag, 5 * MIB) for number, tag in enumerate(tags, 1)])
    bad = {"Parts": [dict(parts[0], ETag='"0"'), parts[1]]}
    equal(refused(s3.complete_multipart_upload, **upload, MultipartUpload=bad), ("InvalidPart", 400))
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert done["ETag"].endswith('-2"'), done
    assert body(key) == pieces[0] + pieces[1]
    across = body(key, Range=f"bytes={5 * MIB - 3}-{5 * MIB + 2}")
    equal(across, (pieces[0] + pieces[1])[5 * MIB - 3:5 * MIB + 3])
    equal(s3.head_object(Bucket=BUCKET, Key=key)["Metadata"], {"name": "value"})
    upload["UploadId"] = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    s3.upload_part(**upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**upload)
    equal(refused(s3.list_parts, **upload), ("NoSuchUpload", 404))
    assert body(key) == pieces[0] + pieces[1], "an upload that was aborted changes nothing"


def transfers(directory):
    """boto3's own way with files: several parts at a time."""
    source, target = f"{directory}/source", f"{directory}/target"
    with open(source, "wb") as file:
        file.write(content(20 * MIB, 3))
    s3.upload_file(source, BUCKET, PREFIX + "transfers/file")
    s3.download_file(BUCKET, PREFIX + "transfers/file", target)
    with open(source, "rb") as one, open(target, "rb") as other:
        assert one.read() == other.read()


def signed_addresses():
    key = PREFIX + "signed"
    address = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=60)
    urlopen(Request(address, data=b"hello", method="PUT", headers={"Content-Type": ""})).close()
    address = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=60)
    with urlopen(address) as answer:
        equal(answer.read(), b"hello")


def wrong_keys():
    key = dict(Bucket=BUCKET, Key=PREFIX + "refused")
    for client, code in [(connect(secret_key="wrong-secret"), "SignatureDoesNotMatch"),
                         (connect(access_key="AKIANOBODY"), "InvalidAccessKeyId")]:
        equal(refused(client.put_object, **key, Body=b"x"), (code, 403))
        equal(refused(client.get_object, **key), (code, 403))
        equal(refused(client.list_objects_v2, Bucket=BUCKET), (code, 403))
        equal(refused(client.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": "k"}]}), (code, 403))
    equal(refused(s3.put_object, Bucket="curve-none-" + uuid.uuid4().hex, Key="k", Body=b"x"), ("NoSuchBucket", 404))


def emptied():
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
        keys = [{"Key": one["Key"]} for one in page.get("Contents", [])]
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
    equal(s3.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX)["KeyCount"], 0)


def main():
    with tempfile.TemporaryDirectory() as directory:
        for step in [buckets, objects, copies, listings, uploads, lambda: transfers(directory), signed_addresses,
                     wrong_keys, emptied]:
            step()
    print(f"boto3 {boto3.__version__}: ok")


main()
