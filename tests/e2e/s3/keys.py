"""The keys in a bucket, a line each: keys.py ENDPOINT REGION BUCKET ACCESS_KEY SECRET_KEY_FILE."""
import sys

import boto3
from botocore.config import Config

endpoint, region, bucket, access_key = sys.argv[1:5]
secret_key = open(sys.argv[5]).read()
s3 = boto3.client("s3", endpoint_url=endpoint, region_name=region, aws_access_key_id=access_key,
                  aws_secret_access_key=secret_key, config=Config(s3={"addressing_style": "path"}))
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
    for found in page.get("Contents", []):
        print(found["Key"])
