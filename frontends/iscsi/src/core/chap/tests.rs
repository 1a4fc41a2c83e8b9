use super::*;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).expect("long enough")
}

fn account(user: &str, text: &str) -> Account {
    Account { user: user.to_owned(), secret: secret(text) }
}

fn credentials(mutual: bool) -> Credentials {
    let mutual = mutual.then(|| account("target", "another secret"));
    Credentials::new(account("alice", "secret of alice"), mutual).expect("they go together")
}

const CHALLENGE: Challenge = Challenge { id: 7, bytes: [0xab; CHALLENGE_BYTES] };

fn text(out: TextWriter) -> String {
    String::from_utf8(out.into_bytes()).unwrap().replace('\0', " ")
}

/// A conversation up to the initiator's response.
fn begun(list: &str) -> (Chap, String) {
    let mut chap = Chap::new(CHALLENGE);
    let mut out = TextWriter::default();
    let keys = ChapKeys { algorithms: Some(list), ..ChapKeys::default() };
    chap.advance(keys, &credentials(false), &mut out).expect("there is one in common");
    (chap, text(out))
}

fn response(algorithm: Algorithm, text: &str) -> String {
    hex(&algorithm.hash(CHALLENGE.id, &secret(text), &CHALLENGE.bytes))
}

#[test]
fn the_hash_is_that_of_rfc_1994() {
    // printf '\7secret of alice\253…' | md5sum
    let hash = Algorithm::Md5.hash(1, &secret("aaaaaaaaaaaa"), b"bbbb");
    assert_eq!(hash, Md5::digest(b"\x01aaaaaaaaaaaabbbb").to_vec());
    assert_eq!(Algorithm::Sha256.hash(1, &secret("aaaaaaaaaaaa"), b"b").len(), 32);
}

#[test]
fn the_first_algorithm_in_common_is_taken() {
    for (list, chosen) in [("5", "5"), ("7,5", "7"), ("6,5,7", "5"), ("0x7", "7")] {
        let (_, answer) = begun(list);
        let challenge = "ab".repeat(CHALLENGE_BYTES);
        assert_eq!(answer, format!("CHAP_A={chosen} CHAP_I=7 CHAP_C=0x{challenge} "), "{list}");
    }
    let keys = ChapKeys { algorithms: Some("6,8"), ..ChapKeys::default() };
    let refused = Chap::new(CHALLENGE).advance(keys, &credentials(false), &mut TextWriter::default());
    assert_eq!(refused, Err(ChapError::Algorithm));
}

#[test]
fn who_knows_the_secret_is_let_in() {
    for (list, algorithm) in [("5", Algorithm::Md5), ("7", Algorithm::Sha256)] {
        let right = response(algorithm, "secret of alice");
        let wrong = response(algorithm, "secret of mallory");
        for (name, response, result) in [
            ("alice", right.as_str(), Ok(())),
            ("alice", &wrong, Err(ChapError::Denied)),
            ("alicia", &right, Err(ChapError::Denied)),
            ("", &right, Err(ChapError::Denied)),
            ("alice", "0x", Err(ChapError::Denied)),
            ("alice", "nonsense", Err(ChapError::Denied)),
            ("alice", &right[..right.len() - 2], Err(ChapError::Denied)),
        ] {
            let (mut chap, _) = begun(list);
            let keys = ChapKeys { name: Some(name), response: Some(response), ..ChapKeys::default() };
            let mut out = TextWriter::default();
            assert_eq!(chap.advance(keys, &credentials(true), &mut out), result, "{name} {response}");
            assert_eq!(chap.is_done(), result.is_ok());
            assert_eq!(text(out), "", "nobody asked for proof");
        }
    }
}

#[test]
fn we_prove_who_we_are_if_asked() {
    let right = response(Algorithm::Md5, "secret of alice");
    let theirs = "0x0102030405";
    let proof = hex(&Algorithm::Md5.hash(9, &secret("another secret"), &[1, 2, 3, 4, 5]));
    let reflected = hex(&CHALLENGE.bytes);
    let huge = hex(&[1; 1025]);
    for (mutual, id, challenge, result) in [
        (true, Some("9"), Some(theirs), Ok(format!("CHAP_N=target CHAP_R={proof} "))),
        (false, Some("9"), Some(theirs), Err(ChapError::NoMutual)),
        (true, Some("9"), Some(&reflected), Err(ChapError::Reflected)),
        (true, Some("9"), Some(&huge), Err(ChapError::Order)),
        (true, Some("256"), Some(theirs), Err(ChapError::Order)),
        (true, None, Some(theirs), Err(ChapError::Order)),
        (true, Some("9"), None, Err(ChapError::Order)),
    ] {
        let (mut chap, _) = begun("5");
        let keys = ChapKeys { name: Some("alice"), response: Some(&right), id, challenge, algorithms: None };
        let mut out = TextWriter::default();
        let answer = chap.advance(keys, &credentials(mutual), &mut out).map(|()| text(out));
        assert_eq!(answer, result, "{id:?} {challenge:?}");
        assert_eq!(chap.is_done(), result.is_ok());
    }
}

#[test]
fn steps_cannot_be_skipped() {
    let right = response(Algorithm::Md5, "secret of alice");
    let keys = ChapKeys { name: Some("alice"), response: Some(&right), ..ChapKeys::default() };
    let mut out = TextWriter::default();
    let mut chap = Chap::new(CHALLENGE);
    assert_eq!(chap.advance(keys, &credentials(false), &mut out), Err(ChapError::Order));
    let both = ChapKeys { algorithms: Some("5"), ..keys };
    assert_eq!(chap.advance(both, &credentials(false), &mut out), Err(ChapError::Order));
    let (mut chap, _) = begun("5");
    assert_eq!(chap.advance(both, &credentials(false), &mut out), Err(ChapError::Order));
    let nameless = ChapKeys { name: None, ..keys };
    assert_eq!(chap.advance(nameless, &credentials(false), &mut out), Err(ChapError::Order));
    assert_eq!(chap.advance(ChapKeys::default(), &credentials(false), &mut out), Ok(()));
    assert!(!chap.is_done());
}

#[test]
fn weak_credentials_are_refused() {
    assert_eq!(Secret::new(vec![b'x'; 11]), Err(BadCredentials::SecretLength(11)));
    assert_eq!(Secret::new(vec![b'x'; 256]), Err(BadCredentials::SecretLength(256)));
    let alice = account("alice", "secret of alice");
    let same = account("target", "secret of alice");
    assert_eq!(Credentials::new(alice.clone(), Some(same)), Err(BadCredentials::SameSecret));
    let nameless = Account { user: String::new(), ..alice };
    assert_eq!(Credentials::new(nameless, None), Err(BadCredentials::User));
    assert_eq!(format!("{:?}", secret("secret of alice")), "Secret");
}
