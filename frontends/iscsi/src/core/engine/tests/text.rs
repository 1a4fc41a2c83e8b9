//! SendTargets and other text.

use super::*;

const LAST: u8 = 0x80;
const MORE: u8 = 0x40;

fn request(flags: u8, ttt: u32, text: &str) -> Pdu {
    let text = text.replace(' ', "\0");
    pdu(
        &[(0, &[0x44, flags]), (16, &[0, 0, 0, 5]), (20, &ttt.to_be_bytes()), (24, &[0, 0, 0, 1])],
        text.as_bytes(),
    )
}

fn text(pdu: &Pdu) -> String {
    String::from_utf8(pdu.data.to_vec()).expect("text").replace('\0', " ")
}

#[test]
fn send_targets() {
    let address = "TargetAddress=10.0.0.1:3260,1 ";
    let (a, b) = (format!("TargetName=iqn.t:a {address}"), format!("TargetName=iqn.t:b {address}"));
    for (kind, asked, answer) in [
        (SessionKind::Discovery, "All", format!("{a}{b}")),
        (SessionKind::Discovery, "iqn.t:b", b.clone()),
        (SessionKind::Discovery, "iqn.t:c", String::new()),
        (SessionKind::Normal, "", a.clone()),
        (SessionKind::Normal, "iqn.t:a", a.clone()),
        (SessionKind::Normal, "iqn.t:b", "SendTargets=Reject ".to_owned()),
        (SessionKind::Normal, "All", "SendTargets=Reject ".to_owned()),
    ] {
        let mut harness = Harness::with(kind, params());
        harness.good(request(LAST, TAG_NONE, &format!("SendTargets={asked} ")));
        let response = harness.answer();
        assert_eq!(text(&response), answer, "{kind:?} {asked}");
        assert_eq!((response.bhs[0], response.bhs[1], field(&response, 20)), (0x24, 0x80, TAG_NONE));
    }
}

#[test]
fn a_long_answer_comes_in_parts() {
    let mut harness = Harness::with(SessionKind::Discovery, SessionParams { send_data_max: 30, ..params() });
    harness.good(request(LAST, TAG_NONE, "SendTargets=All "));
    let mut all = String::new();
    loop {
        let response = harness.answer();
        all += &text(&response);
        let ttt = field(&response, 20);
        if response.bhs[1] == 0x80 {
            assert_eq!(ttt, TAG_NONE);
            break;
        }
        assert_eq!((response.bhs[1], response.data.len()), (MORE, 30));
        harness.good(request(LAST, ttt, ""));
    }
    assert_eq!(all.matches("TargetName=").count(), 2);
    assert!(all.ends_with("3260,1 "), "{all}");
}

#[test]
fn a_long_request_comes_in_parts() {
    let mut harness = Harness::with(SessionKind::Discovery, params());
    harness.good(request(MORE, TAG_NONE, "SendTar"));
    let response = harness.answer();
    assert_eq!((response.bhs[1], text(&response)), (0, String::new()));
    harness.good(request(LAST, field(&response, 20), "gets=iqn.t:b "));
    assert!(text(&harness.answer()).starts_with("TargetName=iqn.t:b"));
    // The negotiation is over; its tag means nothing any more.
    harness.send(request(LAST, field(&response, 20), "x=y ")).expect_err("a violation");
}

#[test]
fn other_keys() {
    for (asked, answer) in [
        ("MaxRecvDataSegmentLength=1024 ", ""),
        ("MaxRecvDataSegmentLength=1 ", "MaxRecvDataSegmentLength=Reject "),
        ("InitiatorAlias=me ", ""),
        ("X-odd=1 ", "X-odd=NotUnderstood "),
        ("MaxBurstLength=1024 ", "MaxBurstLength=Reject "),
    ] {
        let mut harness = Harness::new();
        harness.good(request(LAST, TAG_NONE, asked));
        assert_eq!(text(&harness.answer()), answer, "{asked}");
    }
    let mut harness = Harness::new();
    harness.send(request(LAST, TAG_NONE, "nonsense ")).expect_err("a violation");
}

#[test]
fn a_new_length_holds_from_then_on() {
    let mut harness = Harness::new();
    harness.good(request(LAST, TAG_NONE, "MaxRecvDataSegmentLength=1024 "));
    harness.answer();
    harness.good(command(READ, 1, 1024, b""));
    harness.complete(1, 0, &[1024]);
    assert_eq!(harness.answer().data.len(), 1024);
}

#[test]
fn discovery_sessions_have_no_commands() {
    let mut harness = Harness::with(SessionKind::Discovery, params());
    harness.good(command(READ, 1, 512, b""));
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 5]);
    let reset = pdu(&[(0, &[0x42, 0x80 | 6]), (16, &[0, 0, 0, 9]), (24, &[0, 0, 0, 2])], b"");
    harness.good(reset);
    assert_eq!(harness.answer().bhs[..3], [0x3f, 0x80, 5]);
}
