//! The handshake: from the greeting to the chosen export.

use bytes::{Buf, BytesMut};
use curve_blockdev::DeviceShape;

use super::catalog::{Catalog, ExportInfo};
use super::fields::Fields;
use super::option::{ContextQuery, InfoQuery, OPTION_BYTES_MAX, name};
use super::request::{Limits, PAYLOAD_BYTES_MAX};
use super::wire::{
    ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, Framing, GREETING_MAGIC, OPTION_HEADER_BYTES, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, can, hello, info, opt, rep,
};

/// The longest data of an unknown or malformed option that is skipped. A client that announces more is dropped.
const SKIP_BYTES_MAX: u32 = 16 << 20;
/// How many options a client may send. Real clients send about ten.
const OPTIONS_MAX: u32 = 1000;
const EXPORT_NAME_PADDING: [u8; 124] = [0; 124];

/// Whether a connection is, may or must be encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsPolicy {
    /// The server has no certificate: `NBD_OPT_STARTTLS` is refused (the protocol's NOTLS).
    Off,
    /// The server has one, and the client must use it (FORCEDTLS).
    Required,
    /// TLS has been started on this connection.
    Active,
}

/// What a client has chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Its place in the catalog.
    pub export: usize,
    /// How the transmission phase is framed.
    pub framing: Framing,
    /// Whether `base:allocation` may be asked for.
    pub allocation: bool,
}

/// What has to happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send the output, then bring more input.
    NeedInput,
    /// Send the output, run the TLS handshake, and begin anew with [`Handshake::after_tls`].
    StartTls,
    /// Send the output; what is left of the input belongs to the transmission phase.
    Transmit(Negotiated),
    /// Send the output and close. The reason is for the log.
    Close(&'static str),
}

/// One client's handshake. Holds no more input than one option of [`OPTION_BYTES_MAX`].
#[derive(Debug)]
pub struct Handshake {
    tls: TlsPolicy,
    state: State,
    no_zeroes: bool,
    framing: Framing,
    /// The export that `base:allocation` was selected for.
    allocation_of: Option<usize>,
    options_left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    OptionData { option: u32, len: usize },
    Skip { option: u32, left: u32 },
}

/// Replies to one option, appended to the output.
struct Replies<'a> {
    out: &'a mut Vec<u8>,
    option: u32,
}

impl Replies<'_> {
    fn reply(&mut self, kind: u32, data: &[&[u8]]) {
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        self.out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.out.extend_from_slice(&self.option.to_be_bytes());
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&(len as u32).to_be_bytes());
        data.iter().for_each(|piece| self.out.extend_from_slice(piece));
    }

    fn ack(&mut self) {
        self.reply(rep::ACK, &[]);
    }

    fn error(&mut self, kind: u32, message: &str) {
        self.reply(kind, &[message.as_bytes()]);
    }
}

impl Handshake {
    /// The first 18 bytes of a connection, sent by the server.
    pub fn greeting() -> [u8; 18] {
        let mut greeting = [0; 18];
        greeting[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
        greeting[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        greeting[16..].copy_from_slice(&(hello::FIXED_NEWSTYLE | hello::NO_ZEROES).to_be_bytes());
        greeting
    }

    /// A handshake whose greeting has been sent.
    pub fn new(tls: TlsPolicy) -> Self {
        Self {
            tls,
            state: State::ClientFlags,
            no_zeroes: false,
            framing: Framing::Simple,
            allocation_of: None,
            options_left: OPTIONS_MAX,
        }
    }

    /// Goes on over TLS. Whatever was negotiated in the clear is forgotten, as the protocol demands.
    pub fn after_tls(self) -> Self {
        Self { tls: TlsPolicy::Active, framing: Framing::Simple, allocation_of: None, ..self }
    }

    /// Takes whole messages from the front of `input` and appends the answers to `out`.
    pub fn advance(&mut self, input: &mut BytesMut, catalog: &Catalog, out: &mut Vec<u8>) -> Step {
        loop {
            let step = match self.state {
                State::ClientFlags if input.len() >= 4 => self.client_flags(input.get_u32()),
                State::OptionHeader if input.len() >= OPTION_HEADER_BYTES => self.option_header(input),
                State::OptionData { option, len } if input.len() >= len => {
                    self.state = State::OptionHeader;
                    let data = input.split_to(len);
                    let step = self.option(option, &data, catalog, &mut Replies { out, option });
                    // Bytes after NBD_OPT_STARTTLS were sent in the clear but would be read as if they had come
                    // encrypted: the way to inject commands into a protected session.
                    if step == Some(Step::StartTls) && !input.is_empty() {
                        Some(Step::Close("data in the clear after NBD_OPT_STARTTLS"))
                    } else {
                        step
                    }
                }
                State::Skip { option, left } => {
                    let skipped = input.len().min(left as usize);
                    input.advance(skipped);
                    let left = left - skipped as u32;
                    self.state = State::Skip { option, left };
                    if left > 0 {
                        return Step::NeedInput;
                    }
                    self.state = State::OptionHeader;
                    Replies { out, option }.error(rep::ERR_TOO_BIG, "the option's data is too long");
                    None
                }
                _ => return Step::NeedInput,
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn client_flags(&mut self, flags: u32) -> Option<Step> {
        if flags & !u32::from(hello::FIXED_NEWSTYLE | hello::NO_ZEROES) != 0 {
            return Some(Step::Close("unknown client flags"));
        }
        self.no_zeroes = flags & u32::from(hello::NO_ZEROES) != 0;
        self.state = State::OptionHeader;
        None
    }

    fn option_header(&mut self, input: &mut BytesMut) -> Option<Step> {
        let magic = input.get_u64();
        let option = input.get_u32();
        let len = input.get_u32();
        if magic != OPTION_MAGIC {
            return Some(Step::Close("an option does not begin with its magic"));
        }
        let Some(options_left) = self.options_left.checked_sub(1) else {
            return Some(Step::Close("too many options"));
        };
        self.options_left = options_left;
        self.state = match len as usize {
            len if len <= OPTION_BYTES_MAX => State::OptionData { option, len },
            // This option has no reply that could say why.
            _ if option == opt::EXPORT_NAME => return Some(Step::Close("the export name is too long")),
            _ if len <= SKIP_BYTES_MAX => State::Skip { option, left: len },
            _ => return Some(Step::Close("an option announces more data than a client could mean")),
        };
        None
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        catalog: &Catalog,
        replies: &mut Replies<'_>,
    ) -> Option<Step> {
        match option {
            opt::ABORT => {
                replies.ack();
                return Some(Step::Close("the client went away"));
            }
            opt::STARTTLS => return self.start_tls(data, replies),
            opt::EXPORT_NAME => return Some(self.export_name(data, catalog, replies.out)),
            _ if self.tls == TlsPolicy::Required => {
                replies.error(rep::ERR_TLS_REQD, "this server wants TLS; start it with NBD_OPT_STARTTLS");
            }
            opt::LIST => list(data, catalog, replies),
            opt::INFO | opt::GO => return self.info(option, data, catalog, replies),
            opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS => self.raise_framing(option, data, replies),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.contexts(option, data, catalog, replies),
            _ => replies.error(rep::ERR_UNSUP, "unknown option"),
        }
        None
    }

    fn start_tls(&self, data: &[u8], replies: &mut Replies<'_>) -> Option<Step> {
        match self.tls {
            _ if !data.is_empty() => replies.error(rep::ERR_INVALID, "NBD_OPT_STARTTLS has no data"),
            TlsPolicy::Off => replies.error(rep::ERR_POLICY, "this server has no certificate"),
            TlsPolicy::Active => replies.error(rep::ERR_INVALID, "TLS is already active"),
            TlsPolicy::Required => {
                replies.ack();
                return Some(Step::StartTls);
            }
        }
        None
    }

    fn export_name(&self, data: &[u8], catalog: &Catalog, out: &mut Vec<u8>) -> Step {
        if self.tls == TlsPolicy::Required {
            return Step::Close("the client chose an export without TLS, which this server wants");
        }
        let Some(export) = name(data).and_then(|name| catalog.find(name)) else {
            return Step::Close("no export has the name the client chose");
        };
        let negotiated = self.negotiated(export);
        let shape = catalog.exports()[export].shape;
        out.extend_from_slice(&shape.size.to_be_bytes());
        out.extend_from_slice(
            &self.abilities(&catalog.exports()[export], negotiated.allocation).to_be_bytes(),
        );
        if !self.no_zeroes {
            out.extend_from_slice(&EXPORT_NAME_PADDING);
        }
        Step::Transmit(negotiated)
    }

    fn info(
        &mut self,
        option: u32,
        data: &[u8],
        catalog: &Catalog,
        replies: &mut Replies<'_>,
    ) -> Option<Step> {
        let Some(query) = InfoQuery::parse(data) else {
            replies.error(rep::ERR_INVALID, "malformed NBD_OPT_INFO or NBD_OPT_GO");
            return None;
        };
        let Some(index) = catalog.find(query.name) else {
            replies.error(rep::ERR_UNKNOWN, "no export has this name");
            return None;
        };
        let export = &catalog.exports()[index];
        let negotiated = self.negotiated(index);
        let abilities = self.abilities(export, negotiated.allocation || option == opt::INFO);
        let export_info =
            [&info::EXPORT.to_be_bytes()[..], &export.shape.size.to_be_bytes(), &abilities.to_be_bytes()];
        replies.reply(rep::INFO, &export_info);
        replies.reply(rep::INFO, &[&info::BLOCK_SIZE.to_be_bytes(), &block_sizes(export)]);
        if query.wants_name {
            replies.reply(rep::INFO, &[&info::NAME.to_be_bytes(), export.name.as_bytes()]);
        }
        if query.wants_description {
            replies.reply(rep::INFO, &[&info::DESCRIPTION.to_be_bytes(), export.description.as_bytes()]);
        }
        replies.ack();
        (option == opt::GO).then_some(Step::Transmit(negotiated))
    }

    fn raise_framing(&mut self, option: u32, data: &[u8], replies: &mut Replies<'_>) {
        let wanted = if option == opt::EXTENDED_HEADERS { Framing::Extended } else { Framing::Structured };
        if !data.is_empty() {
            replies.error(rep::ERR_INVALID, "this option has no data");
        } else if wanted == self.framing {
            replies.error(rep::ERR_INVALID, "already negotiated");
        } else if wanted < self.framing {
            replies.error(rep::ERR_EXT_HEADER_REQD, "extended headers were negotiated before");
        } else {
            self.framing = wanted;
            replies.ack();
        }
    }

    fn contexts(&mut self, option: u32, data: &[u8], catalog: &Catalog, replies: &mut Replies<'_>) {
        let selecting = option == opt::SET_META_CONTEXT;
        if selecting {
            self.allocation_of = None;
        }
        let Some(query) = ContextQuery::parse(data) else {
            return replies.error(rep::ERR_INVALID, "malformed metadata context query");
        };
        if selecting && self.framing == Framing::Simple {
            return replies.error(rep::ERR_INVALID, "metadata contexts need structured replies first");
        }
        let Some(export) = catalog.find(query.name) else {
            return replies.error(rep::ERR_UNKNOWN, "no export has this name");
        };
        // A bare namespace, or nothing at all, lists everything but selects nothing.
        let matches = |query: &&str| *query == ALLOCATION_CONTEXT || (!selecting && *query == "base:");
        if query.queries.iter().any(matches) || (!selecting && query.queries.is_empty()) {
            let id = if selecting { ALLOCATION_CONTEXT_ID } else { 0 };
            replies.reply(rep::META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION_CONTEXT.as_bytes()]);
            if selecting {
                self.allocation_of = Some(export);
            }
        }
        replies.ack();
    }

    fn negotiated(&self, export: usize) -> Negotiated {
        Negotiated { export, framing: self.framing, allocation: self.allocation_of == Some(export) }
    }

    fn abilities(&self, export: &ExportInfo, allocation: bool) -> u16 {
        let mut flags = can::HAS_FLAGS | can::FLUSH | can::FUA | can::MULTI_CONN | can::CACHE;
        flags |= match export.shape.read_only {
            true => can::READ_ONLY,
            false => can::TRIM | can::WRITE_ZEROES | can::FAST_ZERO,
        };
        if self.framing >= Framing::Structured {
            flags |= can::DF;
        }
        if self.framing == Framing::Extended && allocation {
            flags |= can::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}

impl Negotiated {
    /// What requests on this connection are held to.
    pub fn limits(&self, catalog: &Catalog) -> Limits {
        let shape = catalog.exports()[self.export].shape;
        Limits {
            framing: self.framing,
            allocation: self.allocation,
            size: shape.size,
            block_min: shape.block_min,
            payload_max: payload_max(&catalog.exports()[self.export]),
            read_only: shape.read_only,
        }
    }
}

/// What the kernel's driver is told that it may send. Every write is durable when it is answered, so that it need not be
/// told of a cache, and the block layer need not send flushes through it.
pub fn kernel_flags(shape: &DeviceShape) -> u16 {
    can::HAS_FLAGS
        | match shape.read_only {
            true => can::READ_ONLY,
            false => can::TRIM | can::WRITE_ZEROES,
        }
}

/// What requests of the kernel's driver are held to. It knows the size and keeps to it; a device that grows while it is
/// attached decides for itself what is beyond its end.
pub fn kernel_limits(shape: &DeviceShape) -> Limits {
    Limits {
        framing: Framing::Simple,
        allocation: false,
        size: i64::MAX as u64,
        block_min: shape.block_min,
        payload_max: PAYLOAD_BYTES_MAX,
        read_only: shape.read_only,
    }
}

fn payload_max(export: &ExportInfo) -> u32 {
    export.shape.request_max.min(PAYLOAD_BYTES_MAX)
}

fn block_sizes(export: &ExportInfo) -> [u8; 12] {
    let mut sizes = [0; 12];
    sizes[..4].copy_from_slice(&export.shape.block_min.to_be_bytes());
    sizes[4..8].copy_from_slice(&export.shape.block_preferred.to_be_bytes());
    sizes[8..].copy_from_slice(&payload_max(export).to_be_bytes());
    sizes
}

fn list(data: &[u8], catalog: &Catalog, replies: &mut Replies<'_>) {
    if !Fields::new(data).is_empty() {
        return replies.error(rep::ERR_INVALID, "NBD_OPT_LIST has no data");
    }
    for export in catalog.exports() {
        let name = export.name.as_bytes();
        replies
            .reply(rep::SERVER, &[&(name.len() as u32).to_be_bytes(), name, export.description.as_bytes()]);
    }
    replies.ack();
}

#[cfg(test)]
mod tests;
