//! S3 as a client sees it: Amazon's SDK against the server.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier,
    ServerSideEncryption,
};
use curve_types::{ByteSize, HumanDuration};
use curvefs_objectstore::{ObjectStoreConfig, SetupError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SECRET: &str = "a-secret-key";

struct Server {
    address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), SetupError>>,
}

impl Server {
    async fn start(dir: &Path) -> Self {
        std::fs::write(dir.join("secret"), SECRET).unwrap();
        let config = ObjectStoreConfig {
            data_dir: dir.join("data"),
            http_address: String::new(),
            access_key: "access".into(),
            secret_key_file: dir.join("secret"),
            buckets: vec!["first".into()],
            reserve: ByteSize(0),
            object_max: ByteSize(20 << 20),
            stop_timeout: HumanDuration(Duration::from_secs(5)),
            ..Default::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            curvefs_objectstore::serve(config, listener, stopped, || ready.send(()).unwrap()).await
        });
        is_ready.await.unwrap();
        Self { address, stop, served }
    }

    fn client(&self, access: &str, secret: &str, checksums: RequestChecksumCalculation) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(access, secret, None, None, "test"))
            .endpoint_url(format!("http://{}", self.address))
            .force_path_style(true)
            .request_checksum_calculation(checksums);
        Client::from_conf(config.build())
    }

    fn good_client(&self) -> Client {
        self.client("access", SECRET, RequestChecksumCalculation::WhenRequired)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn get(client: &Client, key: &str) -> Vec<u8> {
    let got = client.get_object().bucket("first").key(key).send().await.unwrap();
    got.body.collect().await.unwrap().to_vec()
}

#[track_caller]
fn code<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(result: Result<T, E>) -> String {
    let error = result.unwrap_err();
    error.code().unwrap_or_else(|| panic!("{error:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_no_md5_where_another_checksum_vouches() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let sum = |bytes: &[u8]| aws_smithy_types::base64::encode(crc32c::crc32c(bytes).to_be_bytes());
    let put = |bytes: &[u8], sum: String| {
        let put = client.put_object().bucket("first").key("k").body(ByteStream::from(bytes.to_vec()));
        put.checksum_crc32_c(sum).customize().disable_payload_signing().send()
    };
    let mut tags = Vec::new();
    for seed in [1, 1, 2] {
        let content = bytes(100_000, seed);
        let tag = put(&content, sum(&content)).await.unwrap().e_tag().unwrap().to_owned();
        assert!(tag.len() == 36 && tag.ends_with("-1\"") && !tags.contains(&tag), "{tag}");
        assert!(get(&client, "k").await == content);
        let matching = client.get_object().bucket("first").key("k").if_match(&tag).send().await;
        assert_eq!(matching.unwrap().e_tag(), Some(&*tag));
        tags.push(tag);
    }
    let damaged = put(&bytes(10, 3), sum(&bytes(10, 4))).await;
    assert_eq!(code(damaged), "BadDigest");
    assert!(get(&client, "k").await == bytes(100_000, 2), "what was there stays");
    let both = client.put_object().bucket("first").key("k").body(ByteStream::from(b"foo".to_vec()));
    let both =
        both.checksum_crc32_c(sum(b"foo")).content_md5("rL0Y20zC+Fzt72VPzMSk2A==").send().await.unwrap();
    assert_eq!(both.e_tag(), Some("\"acbd18db4cc2f85cedef654fccc4a4d8\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_back_whole_in_parts_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let sizes = [0, 1, 65_536, 65_537, 5 << 20];
    for size in sizes {
        let put = client.put_object().bucket("first").key(format!("o/{size}")).metadata("k", "v");
        let put = put.content_type("a/b").body(ByteStream::from(bytes(size, 1))).send().await.unwrap();
        assert!(put.e_tag().unwrap().len() == 34, "MD5 in quotes");
    }
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    for size in sizes {
        assert!(get(&client, &format!("o/{size}")).await == bytes(size, 1), "{size}");
    }
    let head = client.head_object().bucket("first").key("o/65537").send().await.unwrap();
    assert_eq!((head.content_length(), head.content_type()), (Some(65_537), Some("a/b")));
    assert_eq!(head.metadata().unwrap()["k"], "v");
    let whole = bytes(5 << 20, 1);
    for (range, part) in [
        ("bytes=0-0", &whole[..1]),
        ("bytes=65535-65536", &whole[65_535..65_537]),
        ("bytes=1000000-", &whole[1_000_000..]),
        ("bytes=-5", &whole[whole.len() - 5..]),
    ] {
        let got = client.get_object().bucket("first").key("o/5242880").range(range).send().await.unwrap();
        assert!(got.content_range().unwrap().ends_with("/5242880"));
        assert!(got.body.collect().await.unwrap().to_vec() == part, "{range}");
    }
    let beyond = client.get_object().bucket("first").key("o/1").range("bytes=1-").send().await;
    assert_eq!(code(beyond), "InvalidRange");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_keys_and_signatures_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let put = || client.put_object().bucket("first").key("k").body(ByteStream::from_static(b"x"));
    let etag = put().if_none_match("*").send().await.unwrap().e_tag.unwrap();
    assert_eq!(code(put().if_none_match("*").send().await), "PreconditionFailed");
    assert_eq!(code(put().if_match("\"0\"").send().await), "PreconditionFailed");
    put().if_match(&etag).send().await.unwrap();
    let read = client.get_object().bucket("first").key("k").if_match("\"0\"").send().await;
    assert_eq!(code(read), "PreconditionFailed");
    assert_eq!(code(client.get_object().bucket("first").key("none").send().await), "NoSuchKey");
    assert_eq!(code(client.get_object().bucket("none").key("k").send().await), "NoSuchBucket");
    assert_eq!(code(client.put_object().bucket("none").key("k").send().await), "NoSuchBucket");
    let when = RequestChecksumCalculation::WhenRequired;
    let wrong = server.client("access", "wrong-secret", when);
    assert_eq!(code(wrong.list_buckets().send().await), "SignatureDoesNotMatch");
    let wrong = server.client("nobody", SECRET, when);
    assert_eq!(code(wrong.list_buckets().send().await), "InvalidAccessKeyId");
    let large = client.put_object().bucket("first").key("k").body(ByteStream::from(bytes((20 << 20) + 1, 0)));
    assert_eq!(code(large.send().await), "EntityTooLarge");
    let long = client.put_object().bucket("first").key("k".repeat(1025)).send().await;
    assert_eq!(code(long), "KeyTooLongError");
    let md5 = client.put_object().bucket("first").key("m").content_md5("1B2M2Y8AsgTpgAmY7PhCfg==");
    assert_eq!(code(md5.body(ByteStream::from_static(b"x")).send().await), "BadDigest");
    let crc = client.put_object().bucket("first").key("m").checksum_crc32_c("AAAAAA==");
    assert_eq!(code(crc.body(ByteStream::from_static(b"x")).send().await), "BadDigest");
    server.stop().await;
}

/// What would be done in another way than it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_cannot_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let put = || client.put_object().bucket("first").key("k").body(ByteStream::from_static(b"x"));
    put().send().await.unwrap();
    let encrypted = put().server_side_encryption(ServerSideEncryption::Aes256).send().await;
    assert_eq!(code(encrypted), "NotImplemented");
    let upload = client.create_multipart_upload().bucket("first").key("k");
    let upload = upload.server_side_encryption(ServerSideEncryption::AwsKms).send().await;
    assert_eq!(code(upload), "NotImplemented");
    let read = || client.get_object().bucket("first").key("k");
    assert_eq!(code(read().part_number(2).send().await), "NotImplemented");
    assert_eq!(code(read().version_id("1").send().await), "NoSuchVersion");
    read().version_id("null").send().await.unwrap();
    let delete = client.delete_object().bucket("first").key("k").version_id("1").send().await;
    assert_eq!(code(delete), "NoSuchVersion");
    let old = ObjectIdentifier::builder().key("k").version_id("1").build().unwrap();
    let delete = Delete::builder().objects(old).build().unwrap();
    let delete = client.delete_objects().bucket("first").delete(delete).send().await;
    assert_eq!(code(delete), "NoSuchVersion");
    assert_eq!(get(&client, "k").await, b"x", "it is still there");
    let tags = client.get_object_tagging().bucket("first").key("k").send().await;
    assert_eq!(code(tags), "NotImplemented");
    assert_eq!(code(client.list_object_versions().bucket("first").send().await), "NotImplemented");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_in_trailers_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.client("access", SECRET, RequestChecksumCalculation::WhenSupported);
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Crc64Nvme,
    ] {
        let content = bytes(300_000, 7);
        let put = client.put_object().bucket("first").key("t").checksum_algorithm(algorithm.clone());
        put.body(ByteStream::from(content.clone())).send().await.unwrap();
        assert!(get(&client, "t").await == content, "{algorithm:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_deletes_copies_and_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    for key in ["a", "d/1", "d/2", "d/e/3", "z +&<"] {
        client
            .put_object()
            .bucket("first")
            .key(key)
            .body(ByteStream::from_static(b"abc"))
            .send()
            .await
            .unwrap();
    }
    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let list = client.list_objects_v2().bucket("first").delimiter("/").max_keys(1);
        let page = list.set_continuation_token(token).send().await.unwrap();
        keys.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        prefixes.extend(page.common_prefixes().iter().map(|it| it.prefix().unwrap().to_owned()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!((keys, prefixes), (vec!["a".to_owned(), "z +&<".to_owned()], vec!["d/".to_owned()]));
    let source = client.copy_object().copy_source("first/d/1").bucket("first");
    source.key("copied").send().await.unwrap();
    assert_eq!(get(&client, "copied").await, b"abc");
    let onto_itself = client.copy_object().copy_source("first/a").bucket("first").key("a");
    let replaced = onto_itself.metadata_directive(MetadataDirective::Replace).metadata("n", "1");
    replaced.send().await.unwrap();
    let head = client.head_object().bucket("first").key("a").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["n"], "1");
    let id = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let all = ["a", "d/1", "d/2", "d/e/3", "z +&<", "copied", "was never there"].map(id);
    assert_eq!(code(client.delete_bucket().bucket("first").send().await), "BucketNotEmpty");
    let delete = Delete::builder().set_objects(Some(all.to_vec())).build().unwrap();
    let deleted = client.delete_objects().bucket("first").delete(delete).send().await.unwrap();
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (7, 0));
    client.delete_bucket().bucket("first").send().await.unwrap();
    assert_eq!(code(client.list_objects_v2().bucket("first").send().await), "NoSuchBucket");
    client.create_bucket().bucket("second").send().await.unwrap();
    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets().iter().map(|it| it.name().unwrap()).collect::<Vec<_>>(), ["second"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let create = client.create_multipart_upload().bucket("first").key("u").metadata("m", "1");
    let upload = create.send().await.unwrap().upload_id.unwrap();
    let (mut parts, mut whole) = (Vec::new(), Vec::new());
    for (number, size) in [(1, 5 << 20), (2, 6 << 20), (3, 100)] {
        let content = bytes(size, number as u8);
        let part = client.upload_part().bucket("first").key("u").upload_id(&upload).part_number(number);
        let part = part.body(ByteStream::from(content.clone())).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).e_tag(part.e_tag.unwrap()).build());
        whole.extend(content);
    }
    let listed = client.list_parts().bucket("first").key("u").upload_id(&upload).send().await.unwrap();
    assert_eq!(listed.parts().len(), 3);
    let uploads = client.list_multipart_uploads().bucket("first").send().await.unwrap();
    assert_eq!(uploads.uploads().len(), 1);
    let complete = |parts: Vec<CompletedPart>| {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = client.complete_multipart_upload().bucket("first").key("u").upload_id(&upload);
        complete.multipart_upload(parts).send()
    };
    assert_eq!(code(complete(parts.iter().rev().cloned().collect()).await), "InvalidPartOrder");
    let etag = complete(parts.clone()).await.unwrap().e_tag.unwrap();
    assert!(etag.ends_with("-3\""), "{etag}");
    assert_eq!(code(complete(parts).await), "NoSuchUpload");
    assert!(get(&client, "u").await == whole);
    let across = client.get_object().bucket("first").key("u").range("bytes=5242870-5242890");
    let across = across.send().await.unwrap().body.collect().await.unwrap().to_vec();
    assert!(across == whole[5_242_870..=5_242_890]);
    let head = client.head_object().bucket("first").key("u").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["m"], "1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_conditional_puts_have_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let client = server.good_client();
    let puts = (0..16u8).map(|at| {
        let put = client.put_object().bucket("first").key("one").if_none_match("*");
        put.body(ByteStream::from(bytes(70_000, at))).send()
    });
    let won = futures::future::join_all(puts).await;
    let winners = won.iter().enumerate().filter(|(_, put)| put.is_ok()).map(|(at, _)| at).collect::<Vec<_>>();
    let [winner] = winners[..] else { panic!("{winners:?} have won") };
    assert!(get(&client, "one").await == bytes(70_000, winner as u8));
    server.stop().await;
}
