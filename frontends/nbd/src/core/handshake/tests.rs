use curve_blockdev::DeviceShape;

use super::{
    ALLOCATION_CONTEXT, BytesMut, Catalog, EXPORT_NAME_PADDING, ExportInfo, Framing, Handshake, Negotiated,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, SKIP_BYTES_MAX, Step, TlsPolicy, can, opt, rep,
};
use crate::core::fields::Fields;
use crate::core::option::OPTION_BYTES_MAX;

const FIXED: u32 = 1;
const FIXED_NO_ZEROES: u32 = 3;

fn catalog() -> Catalog {
    let shape = DeviceShape {
        size: 1 << 30,
        block_min: 4096,
        block_preferred: 8192,
        request_max: 64 << 20,
        read_only: false,
    };
    let export = |name: &str, read_only| ExportInfo {
        name: name.to_owned(),
        description: "a disk".to_owned(),
        shape: DeviceShape { read_only, ..shape },
    };
    Catalog::new(vec![export("/demo", false), export("/ro", true)])
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn text(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat()
}

fn info_query(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
    data
}

fn context_query(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(text(query)));
    data
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    option: u32,
    kind: u32,
    data: Vec<u8>,
}

fn parse_replies(out: &[u8]) -> Vec<Reply> {
    let mut fields = Fields::new(out);
    let mut replies = Vec::new();
    while let Some(magic) = fields.u64() {
        assert_eq!(magic, OPTION_REPLY_MAGIC);
        let (option, kind, len) = (fields.u32().unwrap(), fields.u32().unwrap(), fields.u32().unwrap());
        replies.push(Reply { option, kind, data: fields.bytes(len as usize).unwrap().to_vec() });
    }
    assert!(fields.is_empty());
    replies
}

/// A client that has sent its flags.
struct Client {
    handshake: Handshake,
    input: BytesMut,
}

impl Client {
    fn with_flags(tls: TlsPolicy, flags: u32) -> Self {
        let mut client = Self { handshake: Handshake::new(tls), input: BytesMut::new() };
        client.input.extend_from_slice(&flags.to_be_bytes());
        client
    }

    fn new(tls: TlsPolicy) -> Self {
        Self::with_flags(tls, FIXED_NO_ZEROES)
    }

    fn send_raw(&mut self, bytes: &[u8]) -> (Step, Vec<u8>) {
        let mut out = Vec::new();
        self.input.extend_from_slice(bytes);
        let step = self.handshake.advance(&mut self.input, &catalog(), &mut out);
        (step, out)
    }

    fn send(&mut self, kind: u32, data: &[u8]) -> (Step, Vec<Reply>) {
        let (step, out) = self.send_raw(&option(kind, data));
        (step, parse_replies(&out))
    }

    /// Sends an option and gives the type of the last reply to it.
    fn verdict(&mut self, kind: u32, data: &[u8]) -> u32 {
        let (step, replies) = self.send(kind, data);
        assert_eq!(step, Step::NeedInput);
        replies.last().expect("every option is answered").kind
    }
}

#[test]
fn the_greeting() {
    assert_eq!(Handshake::greeting(), *b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn unknown_client_flags_end_the_connection() {
    for flags in [4u32, 0x8000_0000, 0xffff_ffff] {
        let (step, out) = Client::with_flags(TlsPolicy::Off, flags).send_raw(&[]);
        assert_eq!((step, out.len()), (Step::Close("unknown client flags"), 0));
    }
}

#[test]
fn export_name_has_its_own_reply_and_padding_unless_waived() {
    for (flags, padding) in [(FIXED, 124), (FIXED_NO_ZEROES, 0), (0, 124), (2, 0)] {
        let (step, out) =
            Client::with_flags(TlsPolicy::Off, flags).send_raw(&option(opt::EXPORT_NAME, b"demo"));
        let chosen = Negotiated { export: 0, framing: Framing::Simple, allocation: false };
        assert_eq!(step, Step::Transmit(chosen));
        assert_eq!(out[..8], (1u64 << 30).to_be_bytes());
        assert_eq!(out.len(), 10 + padding);
        assert_eq!(out[10..], EXPORT_NAME_PADDING[..padding]);
    }
    let (step, out) = Client::new(TlsPolicy::Off).send_raw(&option(opt::EXPORT_NAME, b"other"));
    assert_eq!((step, out.len()), (Step::Close("no export has the name the client chose"), 0));
}

#[test]
fn go_tells_size_abilities_and_block_sizes() {
    let mut client = Client::new(TlsPolicy::Off);
    let (step, replies) = client.send(opt::INFO, &info_query("/demo", &[1, 2, 3, 77]));
    assert_eq!(step, Step::NeedInput);
    let flags = can::HAS_FLAGS | can::FLUSH | can::FUA | can::MULTI_CONN | can::CACHE;
    let writable = flags | can::TRIM | can::WRITE_ZEROES | can::FAST_ZERO;
    let expected: [&[u8]; 5] = [
        &[&[0, 0][..], &(1u64 << 30).to_be_bytes(), &writable.to_be_bytes()].concat(),
        // The largest block is the protocol's limit, although the device could do more.
        &[&[0, 3][..], &4096u32.to_be_bytes(), &8192u32.to_be_bytes(), &(32u32 << 20).to_be_bytes()].concat(),
        b"\0\x01demo",
        b"\0\x02a disk",
        b"",
    ];
    assert_eq!(replies.iter().map(|reply| &reply.data[..]).collect::<Vec<_>>(), expected);
    assert_eq!(replies.last().unwrap().kind, rep::ACK);

    let (step, replies) = client.send(opt::GO, &info_query("ro", &[]));
    assert_eq!(step, Step::Transmit(Negotiated { export: 1, framing: Framing::Simple, allocation: false }));
    assert_eq!(replies[0].data[10..], (flags | can::READ_ONLY).to_be_bytes());
    assert_eq!(replies.len(), 3);
}

#[test]
fn refused_options_leave_the_connection_usable() {
    let too_long = vec![0; OPTION_BYTES_MAX + 1];
    let table: &[(u32, &[u8], u32)] = &[
        (99, b"whatever", rep::ERR_UNSUP),
        (4, b"", rep::ERR_UNSUP),
        (0, b"", rep::ERR_UNSUP),
        (opt::LIST, b"x", rep::ERR_INVALID),
        (opt::STARTTLS, b"", rep::ERR_POLICY),
        (opt::STARTTLS, b"x", rep::ERR_INVALID),
        (opt::STRUCTURED_REPLY, b"x", rep::ERR_INVALID),
        (opt::EXTENDED_HEADERS, b"x", rep::ERR_INVALID),
        (opt::INFO, b"", rep::ERR_INVALID),
        (opt::GO, b"\0\0\0\x09demo\0\0", rep::ERR_INVALID),
        (opt::GO, &info_query("other", &[]), rep::ERR_UNKNOWN),
        (opt::LIST_META_CONTEXT, b"\0", rep::ERR_INVALID),
        (opt::SET_META_CONTEXT, &context_query("demo", &["base:allocation"]), rep::ERR_INVALID),
        (opt::LIST_META_CONTEXT, &context_query("other", &[]), rep::ERR_UNKNOWN),
        (opt::GO, &too_long, rep::ERR_TOO_BIG),
        (77, &too_long, rep::ERR_TOO_BIG),
    ];
    let mut client = Client::new(TlsPolicy::Off);
    for (kind, data, verdict) in table {
        assert_eq!(client.verdict(*kind, data), *verdict, "option {kind}");
    }
    assert!(matches!(client.send(opt::GO, &info_query("demo", &[])).0, Step::Transmit(_)));
}

#[test]
fn an_oversize_option_is_skipped_without_being_held() {
    let mut client = Client::new(TlsPolicy::Off);
    let mut header = option(55, &[]);
    header[12..].copy_from_slice(&SKIP_BYTES_MAX.to_be_bytes());
    assert_eq!(client.send_raw(&header), (Step::NeedInput, vec![]));
    for _ in 0..SKIP_BYTES_MAX / 4096 - 1 {
        assert_eq!(client.send_raw(&[0; 4096]), (Step::NeedInput, vec![]));
        assert!(client.input.is_empty());
    }
    let (_, out) = client.send_raw(&[0; 4096]);
    assert_eq!(parse_replies(&out)[0].kind, rep::ERR_TOO_BIG);
}

#[test]
fn what_cannot_be_answered_ends_the_connection() {
    let announce = |kind, len: u32| {
        let mut header = option(kind, &[]);
        header[12..].copy_from_slice(&len.to_be_bytes());
        header
    };
    for bytes in [
        b"NOTMAGIC\0\0\0\x07\0\0\0\0".to_vec(),
        announce(opt::EXPORT_NAME, OPTION_BYTES_MAX as u32 + 1),
        announce(opt::GO, SKIP_BYTES_MAX + 1),
        announce(opt::GO, u32::MAX),
        option(opt::EXPORT_NAME, b"\xff"),
    ] {
        let (step, out) = Client::new(TlsPolicy::Off).send_raw(&bytes);
        assert!(matches!(step, Step::Close(_)) && out.is_empty(), "{bytes:?}");
    }
    let mut client = Client::new(TlsPolicy::Off);
    let (step, replies) = client.send(opt::ABORT, &[]);
    assert_eq!((step, replies[0].kind), (Step::Close("the client went away"), rep::ACK));
}

#[test]
fn a_client_cannot_haggle_for_ever() {
    let mut client = Client::new(TlsPolicy::Off);
    for _ in 0..1000 {
        client.verdict(99, b"");
    }
    assert_eq!(client.send_raw(&option(99, b"")).0, Step::Close("too many options"));
}

#[test]
fn list_names_every_export() {
    let (_, replies) = Client::new(TlsPolicy::Off).send(opt::LIST, b"");
    assert_eq!(
        replies.iter().map(|reply| reply.kind).collect::<Vec<_>>(),
        [rep::SERVER, rep::SERVER, rep::ACK]
    );
    assert_eq!(replies[0].data, b"\0\0\0\x04demoa disk");
    assert_eq!(replies[1].data, b"\0\0\0\x02roa disk");
}

#[test]
fn framing_only_rises() {
    let mut client = Client::new(TlsPolicy::Off);
    assert_eq!(client.verdict(opt::STRUCTURED_REPLY, b""), rep::ACK);
    assert_eq!(client.verdict(opt::STRUCTURED_REPLY, b""), rep::ERR_INVALID);
    assert_eq!(client.verdict(opt::EXTENDED_HEADERS, b""), rep::ACK);
    assert_eq!(client.verdict(opt::EXTENDED_HEADERS, b""), rep::ERR_INVALID);
    assert_eq!(client.verdict(opt::STRUCTURED_REPLY, b""), rep::ERR_EXT_HEADER_REQD);
    let (step, replies) = client.send(opt::GO, &info_query("", &[]));
    assert_eq!(step, Step::Transmit(Negotiated { export: 0, framing: Framing::Extended, allocation: false }));
    let flags = u16::from_be_bytes(replies[0].data[10..].try_into().unwrap());
    assert_eq!(flags & (can::DF | can::BLOCK_STATUS_PAYLOAD), can::DF);
}

#[test]
fn contexts_are_selected_for_one_export_by_their_full_name() {
    let select = |queries: &[&str], go: &str| {
        let mut client = Client::new(TlsPolicy::Off);
        client.verdict(opt::EXTENDED_HEADERS, b"");
        let (_, replies) = client.send(opt::SET_META_CONTEXT, &context_query("demo", queries));
        let (step, infos) = client.send(opt::GO, &info_query(go, &[]));
        let Step::Transmit(negotiated) = step else { panic!("{step:?}") };
        let flags = u16::from_be_bytes(infos[0].data[10..].try_into().unwrap());
        assert_eq!(negotiated.allocation, flags & can::BLOCK_STATUS_PAYLOAD != 0);
        (replies.len() - 1, negotiated.allocation)
    };
    assert_eq!(select(&["base:allocation"], "demo"), (1, true));
    assert_eq!(select(&["base:allocation"], "/demo"), (1, true));
    assert_eq!(select(&["x:y", "base:allocation"], "demo"), (1, true));
    assert_eq!(select(&["base:allocation"], "ro"), (1, false));
    assert_eq!(select(&["base:"], "demo"), (0, false));
    assert_eq!(select(&["base:other", "qemu:dirty-bitmap:b"], "demo"), (0, false));
    assert_eq!(select(&[], "demo"), (0, false));
}

#[test]
fn a_failed_selection_undoes_the_one_before() {
    let mut client = Client::new(TlsPolicy::Off);
    client.verdict(opt::STRUCTURED_REPLY, b"");
    assert_eq!(
        client.verdict(opt::SET_META_CONTEXT, &context_query("demo", &[ALLOCATION_CONTEXT])),
        rep::ACK
    );
    assert_eq!(client.verdict(opt::SET_META_CONTEXT, b"x"), rep::ERR_INVALID);
    let (step, _) = client.send(opt::GO, &info_query("demo", &[]));
    assert_eq!(
        step,
        Step::Transmit(Negotiated { export: 0, framing: Framing::Structured, allocation: false })
    );
}

#[test]
fn contexts_are_listed_by_name_by_namespace_or_all() {
    let mut client = Client::new(TlsPolicy::Off);
    for (queries, listed) in [(&[][..], 1), (&["base:"], 1), (&["base:allocation"], 1), (&["x:"], 0)] {
        let (_, replies) = client.send(opt::LIST_META_CONTEXT, &context_query("demo", queries));
        assert_eq!(replies.len(), listed + 1, "{queries:?}");
    }
}

#[test]
fn a_server_with_a_certificate_insists_on_it() {
    let mut client = Client::new(TlsPolicy::Required);
    for (kind, data) in
        [(opt::LIST, &b""[..]), (opt::GO, &info_query("demo", &[])), (opt::STRUCTURED_REPLY, b""), (99, b"x")]
    {
        assert_eq!(client.verdict(kind, data), rep::ERR_TLS_REQD);
    }
    let (step, replies) = client.send(opt::STARTTLS, b"");
    assert_eq!((step, replies[0].kind), (Step::StartTls, rep::ACK));
    let mut client = Client { handshake: client.handshake.after_tls(), ..client };
    assert_eq!(client.verdict(opt::STARTTLS, b""), rep::ERR_INVALID);
    assert!(matches!(client.send(opt::GO, &info_query("demo", &[])).0, Step::Transmit(_)));

    let (step, _) = Client::new(TlsPolicy::Required).send_raw(&option(opt::EXPORT_NAME, b"demo"));
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn commands_smuggled_in_before_tls_are_not_obeyed() {
    let bytes = [option(opt::STARTTLS, b""), option(opt::GO, &info_query("demo", &[]))].concat();
    let (step, _) = Client::new(TlsPolicy::Required).send_raw(&bytes);
    assert_eq!(step, Step::Close("data in the clear after NBD_OPT_STARTTLS"));
}

#[test]
fn the_cut_into_packets_makes_no_difference() {
    let mut bytes = option(opt::STRUCTURED_REPLY, b"");
    bytes.extend(option(opt::SET_META_CONTEXT, &context_query("demo", &[ALLOCATION_CONTEXT])));
    bytes.extend(option(98, &[7; 300]));
    bytes.extend(option(opt::GO, &info_query("demo", &[1, 3])));
    bytes.extend(b"first request");
    let whole = Client::new(TlsPolicy::Off).send_raw(&bytes);
    for step_bytes in [1, 2, 7, 100] {
        let mut client = Client::new(TlsPolicy::Off);
        let mut all = Vec::new();
        let mut end = Step::NeedInput;
        for piece in bytes.chunks(step_bytes) {
            if end != Step::NeedInput {
                client.input.extend_from_slice(piece);
                continue;
            }
            let (step, out) = client.send_raw(piece);
            all.extend(out);
            end = step;
        }
        assert_eq!((end, all), whole);
        assert_eq!(&client.input[..], b"first request");
    }
}
