use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use md5::Md5;
use sha2::Digest;

use super::*;
use crate::core::catalog::{Access, Portal, TargetEntry};
use crate::core::chap::{Account, CHALLENGE_BYTES, Secret};
use crate::core::digest::Digests;
use crate::core::pdu::PduDecoder;
use crate::core::text::hex;

const CHALLENGE: Challenge = Challenge { id: 7, bytes: [0xab; CHALLENGE_BYTES] };
const NAMES: &str = "InitiatorName=iqn.i:a TargetName=iqn.t:open";

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a good name")
}

fn credentials() -> Credentials {
    let account = |user: &str, secret: &str| Account {
        user: user.to_owned(),
        secret: Secret::new(secret.as_bytes().to_vec()).expect("long enough"),
    };
    let mutual = account("target", "another secret");
    Credentials::new(account("alice", "secret of alice"), Some(mutual)).expect("they go together")
}

fn catalog() -> Catalog {
    let target =
        |text: &str, access, credentials| TargetEntry { name: name(text), alias: None, access, credentials };
    let mut open = target("iqn.t:open", Access::All, None);
    open.alias = Some("Open".to_owned());
    Catalog {
        targets: vec![
            open,
            target("iqn.t:chap", Access::All, Some(credentials())),
            target("iqn.t:mine", Access::Only([name("iqn.i:b")].into()), None),
        ],
        portals: vec![Portal { address: None, group: 1 }],
        discovery: Some(credentials()),
    }
}

/// A request: `stage` is "0", "1", "0>1", "0>3" or "1>3", `text` has blanks for null bytes.
fn request(stage: &str, text: &str) -> LoginRequest {
    let mut stages = stage.split('>').map(|digit| digit.parse().expect("a digit"));
    let (current_stage, next) = (stages.next().expect("one"), stages.next());
    let pairs = text.split_whitespace().flat_map(|pair| [pair, "\0"]).collect::<String>();
    LoginRequest {
        transit: next.is_some(),
        more: false,
        current_stage,
        next_stage: next.unwrap_or(0),
        version_min: 0,
        isid: [1; 6],
        tsih: 0,
        itt: 5,
        cid: 1,
        number: Serial(10),
        data: Bytes::from(pairs),
    }
}

struct Client {
    login: Login,
    out: Outbox,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Answered {
    /// Bit 7 transit, bits 3–2 and 1–0 the stages.
    flags: u8,
    status: u16,
    text: String,
}

impl Client {
    fn new() -> Self {
        Self { login: Login::new(Arc::new(catalog()), CHALLENGE, 32), out: Outbox::default() }
    }

    fn say(&mut self, request: LoginRequest) -> (LoginStep, Option<Answered>) {
        let step = self.login.handle(request, &mut self.out);
        (step, self.answered())
    }

    fn answered(&mut self) -> Option<Answered> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = self.out.slices(&mut slices);
        let wire: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        self.out.advance(wire.len());
        let mut input = BytesMut::from(&wire[..]);
        let pdu =
            PduDecoder::new(Digests::default(), 1 << 20).next(&mut input).expect("it is well formed")?;
        assert_eq!(pdu.bhs[0], 0x23);
        Some(Answered {
            flags: pdu.bhs[1],
            status: u16::from_be_bytes([pdu.bhs[36], pdu.bhs[37]]),
            text: String::from_utf8(pdu.data.to_vec()).expect("text").replace('\0', " "),
        })
    }
}

fn refused(stage: &str, text: &str) -> Option<LoginRefusal> {
    let (step, answered) = Client::new().say(request(stage, text));
    match step {
        LoginStep::Refused(refusal) => {
            let answered = answered.expect("a refusal is told");
            assert_eq!((answered.flags & 0x80, answered.status), (0, refusal as u16));
            Some(refusal)
        }
        _ => None,
    }
}

#[test]
fn the_shortest_login() {
    let mut client = Client::new();
    let (step, answered) =
        client.say(request("1>3", &format!("{NAMES} InitialR2T=No HeaderDigest=CRC32C,None")));
    let LoginStep::Admit(established) = step else { panic!("let in: {step:?}") };
    assert_eq!(answered, None, "the last answer waits for the session");
    client.login.admit(77, &mut client.out);
    let answered = client.answered().expect("the last answer");
    let text = "TargetAlias=Open TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144 InitialR2T=No HeaderDigest=CRC32C ";
    assert_eq!(answered, Answered { flags: 0x87, status: 0, text: text.to_owned() });
    assert_eq!((established.initiator.as_str(), established.target), ("iqn.i:a", Some(0)));
    assert_eq!((established.isid, established.cid), ([1; 6], 1));
    assert_eq!((established.first_command, established.first_status), (Serial(10), Serial(2)));
    assert!(established.params.digests.header && !established.params.initial_r2t);
}

#[test]
fn a_login_in_three_stages() {
    let mut client = Client::new();
    let text = |text: &str| text.to_owned();
    let (step, answered) = client.say(request("0>1", &format!("{NAMES} AuthMethod=CHAP,None")));
    assert_eq!(step, LoginStep::Continue);
    let declared = "TargetAlias=Open TargetPortalGroupTag=1 AuthMethod=None ";
    assert_eq!(answered, Some(Answered { flags: 0x81, status: 0, text: text(declared) }));
    let (step, answered) = client.say(request("1", "MaxBurstLength=65536 X-odd=1"));
    assert_eq!(step, LoginStep::Continue);
    let agreed = "MaxRecvDataSegmentLength=262144 MaxBurstLength=65536 X-odd=NotUnderstood ";
    assert_eq!(answered, Some(Answered { flags: 0x04, status: 0, text: text(agreed) }));
    let (step, _) = client.say(request("1>3", ""));
    assert!(matches!(step, LoginStep::Admit(_)));
    // The session could not be made after all.
    client.login.refuse(LoginRefusal::OutOfResources, &mut client.out);
    assert_eq!(client.answered().map(|answered| answered.status), Some(0x0302));
}

#[test]
fn first_requests_that_are_refused() {
    let chap = "InitiatorName=iqn.i:a TargetName=iqn.t:chap";
    for (stage, text, refusal) in [
        ("1>3", NAMES, None),
        ("0>3", NAMES, None),
        ("0", NAMES, None),
        ("1", "", Some(LoginRefusal::MissingParameter)),
        ("1", "InitiatorName=iqn.i:a", Some(LoginRefusal::MissingParameter)),
        ("1", "TargetName=iqn.t:open", Some(LoginRefusal::MissingParameter)),
        ("1", "InitiatorName=me TargetName=iqn.t:open", Some(LoginRefusal::InitiatorError)),
        ("1", "InitiatorName=iqn.i:a TargetName=iqn.t:none", Some(LoginRefusal::NotFound)),
        ("1", "InitiatorName=iqn.i:a TargetName=iqn.t:mine", Some(LoginRefusal::Forbidden)),
        ("1", "InitiatorName=iqn.i:b TargetName=iqn.t:mine", None),
        ("1", "InitiatorName=iqn.i:a SessionType=Discovery", None),
        ("1", "InitiatorName=iqn.i:a SessionType=Odd", Some(LoginRefusal::SessionType)),
        ("1", &format!("{NAMES} nonsense"), Some(LoginRefusal::InitiatorError)),
        ("1", &format!("{NAMES} InitialR2T=No InitialR2T=No"), Some(LoginRefusal::InitiatorError)),
        ("2", NAMES, Some(LoginRefusal::InitiatorError)),
        ("3", NAMES, Some(LoginRefusal::InitiatorError)),
        ("1>1", NAMES, Some(LoginRefusal::InitiatorError)),
        ("1>0", NAMES, Some(LoginRefusal::InitiatorError)),
        ("0>2", NAMES, Some(LoginRefusal::InitiatorError)),
        // Whoever has to show who it is cannot skip that.
        ("1", chap, Some(LoginRefusal::Authentication)),
        ("1>3", chap, Some(LoginRefusal::Authentication)),
        ("0>1", chap, Some(LoginRefusal::Authentication)),
        ("0>3", chap, Some(LoginRefusal::Authentication)),
        ("0", chap, None),
        ("0>1", &format!("{chap} AuthMethod=None"), Some(LoginRefusal::Authentication)),
        ("0>1", &format!("{chap} AuthMethod=KRB5,SRP"), Some(LoginRefusal::Authentication)),
        ("0>1", &format!("{chap} AuthMethod=CHAP,None"), None),
        ("0", &format!("{NAMES} AuthMethod=CHAP"), Some(LoginRefusal::Authentication)),
        ("0", &format!("{NAMES} CHAP_A=5 CHAP_A=5"), Some(LoginRefusal::InitiatorError)),
    ] {
        assert_eq!(refused(stage, text), refusal, "{stage} {text}");
    }
}

#[test]
fn who_is_refused_is_known_by_name() {
    for target in ["none", "mine"] {
        let mut client = Client::new();
        let (step, _) = client.say(request("1", &format!("InitiatorName=iqn.i:a TargetName=iqn.t:{target}")));
        assert!(matches!(step, LoginStep::Refused(_)), "{target}: {step:?}");
        assert_eq!(client.login.initiator().map(NodeName::as_str), Some("iqn.i:a"), "{target}");
    }
}

#[test]
fn headers_that_are_refused() {
    type Change = fn(&mut LoginRequest);
    let changes: [(Change, LoginRefusal); 4] = [
        (|request| request.version_min = 1, LoginRefusal::Version),
        (|request| (request.transit, request.more) = (true, true), LoginRefusal::InitiatorError),
        (|request| request.isid = [2; 6], LoginRefusal::InitiatorError),
        (|request| request.cid = 2, LoginRefusal::InitiatorError),
    ];
    for (index, (change, refusal)) in changes.into_iter().enumerate() {
        let mut client = Client::new();
        client.say(request("1", NAMES));
        let mut second = request("1>3", "");
        change(&mut second);
        assert_eq!(client.say(second).0, LoginStep::Refused(refusal), "change {index}");
    }
    // Back to an earlier stage.
    let mut client = Client::new();
    client.say(request("0>1", NAMES));
    assert_eq!(client.say(request("0>1", "")).0, LoginStep::Refused(LoginRefusal::InitiatorError));
}

#[test]
fn a_text_in_parts() {
    let mut client = Client::new();
    let mut first = request("1", "");
    (first.more, first.data) = (true, Bytes::from_static(b"InitiatorName=iq"));
    let (step, answered) = client.say(first);
    assert_eq!(step, LoginStep::Continue);
    assert_eq!(answered, Some(Answered { flags: 0x04, status: 0, text: String::new() }));
    let mut second = request("1>3", "");
    second.data = Bytes::from_static(b"n.i:a\0TargetName=iqn.t:open\0");
    assert!(matches!(client.say(second).0, LoginStep::Admit(_)));
}

#[test]
fn nobody_negotiates_for_ever() {
    let mut client = Client::new();
    client.say(request("1", NAMES));
    let rounds = (0..100).find(|_| client.say(request("1", "")).0 != LoginStep::Continue);
    assert!(rounds.is_some_and(|rounds| rounds < 40), "{rounds:?}");
    // Nor by a text that has no end.
    let mut client = Client::new();
    let endless = || LoginRequest { more: true, data: Bytes::from(vec![b'x'; 8192]), ..request("1", "") };
    let refused = (0..10).find(|_| client.say(endless()).0 != LoginStep::Continue);
    assert_eq!(refused, Some(4));
}

/// CHAP_R for a secret.
fn response(id: u8, secret: &str, challenge: &[u8]) -> String {
    hex(&Md5::digest([&[id], secret.as_bytes(), challenge].concat()))
}

fn chap(client: &mut Client) {
    let names = "InitiatorName=iqn.i:a TargetName=iqn.t:chap";
    let (step, answered) = client.say(request("0>1", &format!("{names} AuthMethod=CHAP,None")));
    let answered = answered.expect("an answer");
    assert_eq!((step, answered.flags), (LoginStep::Continue, 0), "the stage is not over");
    assert!(answered.text.ends_with("AuthMethod=CHAP "), "{}", answered.text);
    let (step, answered) = client.say(request("0", "CHAP_A=5"));
    assert_eq!(step, LoginStep::Continue);
    let challenge = format!("CHAP_A=5 CHAP_I=7 CHAP_C={} ", hex(&CHALLENGE.bytes));
    assert_eq!(answered.map(|answered| answered.text), Some(challenge));
}

#[test]
fn chap_both_ways() {
    let mut client = Client::new();
    chap(&mut client);
    let right = response(7, "secret of alice", &CHALLENGE.bytes);
    let proof = response(3, "another secret", &[1, 2, 3]);
    let text = format!("CHAP_N=alice CHAP_R={right} CHAP_I=3 CHAP_C=0x010203");
    let (step, answered) = client.say(request("0>1", &text));
    assert_eq!(step, LoginStep::Continue);
    let expected = Answered { flags: 0x81, status: 0, text: format!("CHAP_N=target CHAP_R={proof} ") };
    assert_eq!(answered, Some(expected));
    assert!(matches!(client.say(request("1>3", "")).0, LoginStep::Admit(_)));
}

#[test]
fn chap_straight_to_the_full_feature_phase() {
    let mut client = Client::new();
    chap(&mut client);
    let right = response(7, "secret of alice", &CHALLENGE.bytes);
    let (step, _) = client.say(request("0>3", &format!("CHAP_N=alice CHAP_R={right}")));
    assert!(matches!(step, LoginStep::Admit(_)));
}

#[test]
fn chap_that_fails() {
    let wrong = response(7, "secret of mallory", &CHALLENGE.bytes);
    let right = response(7, "secret of alice", &CHALLENGE.bytes);
    let reflected = hex(&CHALLENGE.bytes);
    for (text, refusal) in [
        (format!("CHAP_N=alice CHAP_R={wrong}"), LoginRefusal::Authentication),
        (format!("CHAP_N=mallory CHAP_R={right}"), LoginRefusal::Authentication),
        (format!("CHAP_N=alice CHAP_R={right} CHAP_I=7 CHAP_C={reflected}"), LoginRefusal::Authentication),
        (format!("CHAP_R={right}"), LoginRefusal::InitiatorError),
        ("CHAP_A=5".to_owned(), LoginRefusal::InitiatorError),
        ("AuthMethod=None".to_owned(), LoginRefusal::InitiatorError),
    ] {
        let mut client = Client::new();
        chap(&mut client);
        assert_eq!(client.say(request("0>1", &text)).0, LoginStep::Refused(refusal), "{text}");
    }
    // Going on without an answer is not over yet, but leads nowhere.
    let mut client = Client::new();
    chap(&mut client);
    let (step, answered) = client.say(request("0>1", ""));
    assert_eq!((step, answered.map(|answered| answered.flags)), (LoginStep::Continue, Some(0)));
    assert_eq!(client.say(request("1>3", "")).0, LoginStep::Refused(LoginRefusal::InitiatorError));
}

#[test]
fn discovery_needs_no_secret_but_takes_one() {
    let names = "InitiatorName=iqn.i:a SessionType=Discovery";
    for (text, method) in [("None", "None"), ("CHAP,None", "None"), ("CHAP", "CHAP")] {
        let mut client = Client::new();
        let (step, answered) = client.say(request("0", &format!("{names} AuthMethod={text}")));
        assert_eq!(step, LoginStep::Continue);
        assert_eq!(answered.map(|answered| answered.text), Some(format!("AuthMethod={method} ")));
    }
    let mut client = Client::new();
    let (step, _) = client.say(request("1>3", names));
    let LoginStep::Admit(established) = step else { panic!("let in: {step:?}") };
    assert_eq!((established.kind, established.target), (SessionKind::Discovery, None));
}
