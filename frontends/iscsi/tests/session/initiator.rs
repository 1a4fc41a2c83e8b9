//! An initiator in a few lines.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use curve_iscsi::core::{Bhs, Digests, Outbox, Pdu, PduDecoder, PduEncoder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No tag.
pub const NONE: u32 = u32::MAX;

/// One connection.
pub struct Initiator<S> {
    pub stream: S,
    input: BytesMut,
    decoder: PduDecoder,
    pub digests: Digests,
    isid: u8,
    next_itt: u32,
    /// CmdSN of the next command.
    pub number: u32,
}

/// What a login was answered.
#[derive(Debug)]
pub struct LoginAnswer {
    pub flags: u8,
    pub status: u16,
    pub tsih: u16,
    pub text: String,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u8,
    pub data: Vec<u8>,
    pub sense: Vec<u8>,
}

/// A header with these fields.
pub fn bhs(fields: &[(usize, &[u8])]) -> Bhs {
    let mut bhs = [0; 48];
    for (at, field) in fields {
        bhs[*at..*at + field.len()].copy_from_slice(field);
    }
    bhs
}

/// A field of four bytes.
pub fn field(pdu: &Pdu, at: usize) -> u32 {
    u32::from_be_bytes(*pdu.bhs[at..].first_chunk().expect("inside"))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Initiator<S> {
    pub fn new(stream: S, isid: u8) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            decoder: PduDecoder::new(Digests::default(), (1 << 24) - 1),
            digests: Digests::default(),
            isid,
            next_itt: 1,
            number: 1,
        }
    }

    /// The bytes of a PDU.
    pub fn encode(&self, bhs: &Bhs, data: &[u8]) -> Vec<u8> {
        let (mut out, mut bhs) = (Outbox::default(), *bhs);
        PduEncoder { digests: self.digests }.push_copied(&mut out, &mut bhs, data);
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = out.slices(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    pub async fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let wire = self.encode(bhs, data);
        self.stream.write_all(&wire).await.expect("the gateway reads");
    }

    /// The next PDU; `None` at the end of the connection.
    pub async fn receive(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = self.decoder.next(&mut self.input).expect("the gateway sends sound PDUs") {
                return Some(pdu);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next PDU, which has to come.
    pub async fn pdu(&mut self) -> Pdu {
        self.receive().await.expect("the connection goes on")
    }

    /// One login request and its answer. `text` has blanks for null bytes.
    pub async fn login(&mut self, flags: u8, text: &str) -> LoginAnswer {
        let text: String = text.split_whitespace().flat_map(|pair| [pair, "\0"]).collect();
        let number = self.number.to_be_bytes();
        let request = bhs(&[(0, &[0x43, flags]), (8, &[self.isid; 6]), (21, &[1]), (24, &number)]);
        self.send(&request, text.as_bytes()).await;
        let answer = self.pdu().await;
        assert_eq!(answer.bhs[0], 0x23);
        LoginAnswer {
            flags: answer.bhs[1],
            status: u16::from_be_bytes([answer.bhs[36], answer.bhs[37]]),
            tsih: u16::from_be_bytes([answer.bhs[14], answer.bhs[15]]),
            text: String::from_utf8(answer.data.to_vec()).expect("text").replace('\0', " "),
        }
    }

    /// Takes over what was agreed on.
    pub fn agree(&mut self, text: &str) {
        self.digests.header = text.contains("HeaderDigest=CRC32C");
        self.digests.data = text.contains("DataDigest=CRC32C");
        self.decoder = PduDecoder::new(self.digests, (1 << 24) - 1);
    }

    /// Sends a command on unit 0 and gives its tag. `flags` are those of the PDU without the attribute.
    pub async fn command(&mut self, flags: u8, cdb: &[u8], expected: u32, data: &[u8]) -> u32 {
        let (itt, number) = (self.next_itt, self.number);
        self.next_itt += 1;
        self.number += 1;
        let request = bhs(&[
            (0, &[0x01, flags | 1]),
            (16, &itt.to_be_bytes()),
            (20, &expected.to_be_bytes()),
            (24, &number.to_be_bytes()),
            (32, cdb),
        ]);
        self.send(&request, data).await;
        itt
    }

    /// Sends data of a write.
    pub async fn data_out(&mut self, itt: u32, ttt: u32, number: u32, offset: u32, data: &[u8], last: bool) {
        let request = bhs(&[
            (0, &[0x05, if last { 0x80 } else { 0 }]),
            (16, &itt.to_be_bytes()),
            (20, &ttt.to_be_bytes()),
            (36, &number.to_be_bytes()),
            (40, &offset.to_be_bytes()),
        ]);
        self.send(&request, data).await;
    }

    /// Sends an immediate task management request and gives its tag.
    pub async fn manage(&mut self, function: u8, referenced: u32) -> u32 {
        let itt = self.next_itt;
        self.next_itt += 1;
        let (tags, number) =
            ([itt.to_be_bytes(), referenced.to_be_bytes()].concat(), self.number.to_be_bytes());
        self.send(&bhs(&[(0, &[0x42, 0x80 | function]), (16, &tags), (24, &number)]), b"").await;
        itt
    }

    /// Sends an immediate NOP-Out.
    pub async fn nop(&mut self, itt: u32, ttt: u32) {
        let (tags, number) = ([itt.to_be_bytes(), ttt.to_be_bytes()].concat(), self.number.to_be_bytes());
        self.send(&bhs(&[(0, &[0x40, 0x80]), (16, &tags), (24, &number)]), b"").await;
    }

    /// Logs out, up to the end of the connection.
    pub async fn logout(&mut self) {
        self.send(&bhs(&[(0, &[0x46, 0x80]), (19, &[99]), (24, &self.number.to_be_bytes())]), b"").await;
        let answer = self.pdu().await;
        assert_eq!((answer.bhs[0], answer.bhs[2]), (0x26, 0));
        assert_eq!(self.receive().await, None);
    }

    /// Collects data and status of a command.
    pub async fn finish(&mut self, itt: u32) -> Response {
        let mut response = Response { status: 0, data: Vec::new(), sense: Vec::new() };
        loop {
            let pdu = self.pdu().await;
            assert_eq!(field(&pdu, 16), itt, "{:02x?}", pdu.bhs);
            response.status = pdu.bhs[3];
            match pdu.bhs[0] {
                0x25 => {
                    assert_eq!(field(&pdu, 40) as usize, response.data.len(), "data comes in order");
                    response.data.extend_from_slice(&pdu.data);
                    if pdu.bhs[1] & 1 == 1 {
                        return response;
                    }
                }
                0x21 => {
                    response.sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    return response;
                }
                opcode => panic!("opcode {opcode:#x} belongs to no command"),
            }
        }
    }

    /// Runs TEST UNIT READY until no unit attention is left.
    pub async fn settle(&mut self) {
        for _ in 0..8 {
            let itt = self.command(0x80, &[0; 6], 0, b"").await;
            if self.finish(itt).await.status == 0 {
                return;
            }
        }
        panic!("the unit does not become ready");
    }

    /// Reads blocks of 512 bytes.
    pub async fn read(&mut self, lba: u8, blocks: u8) -> Vec<u8> {
        let itt = self.command(0xc0, &cdb(0x28, lba, blocks), u32::from(blocks) * 512, b"").await;
        let response = self.finish(itt).await;
        assert_eq!(response.status, 0, "{response:02x?}");
        response.data
    }

    /// Starts a write of all of `data` with as much as goes with the command.
    pub async fn begin_write(&mut self, lba: u8, data: &Bytes, immediate: usize) -> u32 {
        let blocks = (data.len() / 512) as u8;
        self.command(0xa0, &cdb(0x2a, lba, blocks), data.len() as u32, &data[..immediate]).await
    }
}

/// READ (10) or WRITE (10).
pub fn cdb(opcode: u8, lba: u8, blocks: u8) -> [u8; 10] {
    [opcode, 0, 0, 0, 0, lba, 0, 0, blocks, 0]
}
