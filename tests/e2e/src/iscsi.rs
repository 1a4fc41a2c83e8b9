//! Gateways of a cluster, and an initiator in a few lines: what libiscsi's tools cannot do (persistent reservations, two
//! nexuses at a time).

use std::io::{BufRead, BufReader, IoSlice};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use curve_harness::{Playground, binary};
use curve_iscsi::core::{Bhs, Digests, Outbox, Pdu, PduDecoder, PduEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No command may take longer.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// A `curve-iscsi serve --gateway` process, killed when this is dropped.
pub struct Gateway {
    child: Child,
    /// `host:port`.
    pub portal: String,
}

impl Gateway {
    /// Starts a gateway on a free port and waits until it serves.
    pub async fn start(playground: &Playground, name: &str) -> Self {
        Self::start_at(playground, name, "127.0.0.1:0", &[]).await
    }

    /// Starts a gateway on this address, with more arguments, and waits until it serves.
    pub async fn start_at(playground: &Playground, name: &str, listen: &str, more: &[&str]) -> Self {
        let mut child = Command::new(binary("curve-iscsi"))
            .args(["serve", "--gateway", name, "--listen", listen])
            .args(more)
            .arg("--config")
            .arg(playground.config())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curve-iscsi starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let first = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next());
        let line = first.await.expect("no panic").expect("it says that it is ready").expect("text");
        let portal = line.strip_prefix("ready iscsi://").expect("the line of a portal").to_owned();
        Self { child, portal }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the gateway runs");
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("the gateway runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM; waits and gives the exit code.
    pub async fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// SAM status: 0 GOOD, 2 CHECK CONDITION, 0x18 RESERVATION CONFLICT.
    pub status: u8,
    /// Data-in.
    pub data: Vec<u8>,
    /// Sense data.
    pub sense: Vec<u8>,
}

impl Answer {
    /// Sense key, code and qualifier.
    pub fn code(&self) -> Option<(u8, u8, u8)> {
        (self.status == 2).then(|| (self.sense[2] & 0xf, self.sense[12], self.sense[13]))
    }
}

/// RESERVATION CONFLICT.
pub const CONFLICT: u8 = 0x18;

/// One session on unit 0 of a target.
pub struct Initiator {
    stream: TcpStream,
    input: BytesMut,
    decoder: PduDecoder,
    next_itt: u32,
    number: u32,
}

fn bhs(fields: &[(usize, &[u8])]) -> Bhs {
    let mut bhs = [0; 48];
    for (at, field) in fields {
        bhs[*at..*at + field.len()].copy_from_slice(field);
    }
    bhs
}

impl Initiator {
    /// Logs in without CHAP; gives the status of the login if it is refused.
    pub async fn login(portal: &str, name: &str, target: &str) -> Result<Self, u16> {
        let stream = TcpStream::connect(portal).await.expect("the gateway listens");
        let decoder = PduDecoder::new(Digests::default(), (1 << 24) - 1);
        let mut this = Self { stream, input: BytesMut::new(), decoder, next_itt: 1, number: 1 };
        let text = format!("InitiatorName={name}\0TargetName={target}\0SessionType=Normal\0");
        let request = bhs(&[(0, &[0x43, 0x87]), (8, &[0x40, 0, 0, 0, 0, 1]), (24, &1u32.to_be_bytes())]);
        this.send(&request, text.as_bytes()).await;
        let answer = this.receive().await.expect("a login is answered");
        match u16::from_be_bytes([answer.bhs[36], answer.bhs[37]]) {
            0 => Ok(this),
            status => Err(status),
        }
    }

    /// Logs in and takes the first unit attentions.
    pub async fn ready(portal: &str, name: &str, target: &str) -> Self {
        let mut this = Self::login(portal, name, target).await.expect("it is let in");
        for _ in 0..8 {
            if this.command(&[0; 6], b"", 0).await.status == 0 {
                return this;
            }
        }
        panic!("the unit does not become ready");
    }

    async fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let (mut out, mut bhs) = (Outbox::default(), *bhs);
        PduEncoder { digests: Digests::default() }.push_copied(&mut out, &mut bhs, data);
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = out.slices(&mut slices);
        let wire: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        // A gateway that is gone shows in the answer that does not come.
        let _ = self.stream.write_all(&wire).await;
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

    /// A command, its data-out (which goes along with it) and the data-in that is expected. `None` if the connection ends.
    pub async fn try_command(&mut self, cdb: &[u8], data_out: &[u8], expected: u32) -> Option<Answer> {
        let (itt, number) = (self.next_itt, self.number);
        (self.next_itt, self.number) = (itt + 1, number + 1);
        let (direction, len) = match (data_out.len() as u32, expected) {
            (0, 0) => (0, 0),
            (0, expected) => (0x40, expected),
            (len, _) => (0x20, len),
        };
        let request = bhs(&[
            (0, &[0x01, 0x80 | direction | 1]),
            (16, &itt.to_be_bytes()),
            (20, &len.to_be_bytes()),
            (24, &number.to_be_bytes()),
            (32, cdb),
        ]);
        self.send(&request, data_out).await;
        timeout(COMMAND_MAX, self.finish()).await.expect("a command is answered in time")
    }

    async fn finish(&mut self) -> Option<Answer> {
        let mut answer = Answer { status: 0, data: Vec::new(), sense: Vec::new() };
        loop {
            let pdu = self.receive().await?;
            match pdu.bhs[0] {
                // A ping that wants an answer.
                0x20 if pdu.bhs[20..24] != [0xff; 4] => {
                    let number = self.number.to_be_bytes();
                    let pong =
                        bhs(&[(0, &[0x40, 0x80]), (16, &[0xff; 4]), (20, &pdu.bhs[20..24]), (24, &number)]);
                    self.send(&pong, b"").await;
                }
                0x25 => {
                    answer.data.extend_from_slice(&pdu.data);
                    if pdu.bhs[1] & 1 == 1 {
                        answer.status = pdu.bhs[3];
                        return Some(answer);
                    }
                }
                0x21 => {
                    answer.status = pdu.bhs[3];
                    answer.sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    return Some(answer);
                }
                _ => {}
            }
        }
    }

    /// The same on a connection that must go on.
    pub async fn command(&mut self, cdb: &[u8], data_out: &[u8], expected: u32) -> Answer {
        self.try_command(cdb, data_out, expected).await.expect("the connection goes on")
    }

    /// A command that must end with GOOD; unit attentions before it are taken.
    pub async fn good(&mut self, cdb: &[u8], data_out: &[u8], expected: u32) -> Vec<u8> {
        for _ in 0..8 {
            let answer = self.command(cdb, data_out, expected).await;
            match answer.code() {
                Some((6, ..)) => {}
                _ => {
                    assert_eq!(answer.status, 0, "{cdb:02x?}: {answer:02x?}");
                    return answer.data;
                }
            }
        }
        panic!("unit attentions do not end");
    }

    /// PERSISTENT RESERVE OUT. Unit attentions before it are taken.
    pub async fn reserve_out(
        &mut self,
        action: u8,
        kind: u8,
        key: u64,
        service_key: u64,
        aptpl: bool,
    ) -> Answer {
        let mut list = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
        list.extend([0, 0, 0, 0, u8::from(aptpl), 0, 0, 0]);
        loop {
            let answer = self.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list, 0).await;
            if !matches!(answer.code(), Some((6, ..))) {
                return answer;
            }
        }
    }

    /// The registered keys, by PERSISTENT RESERVE IN.
    pub async fn keys(&mut self) -> Vec<u64> {
        let data = self.good(&[0x5e, 0, 0, 0, 0, 0, 0, 2, 0, 0], b"", 512).await;
        data[8..].chunks_exact(8).map(|key| u64::from_be_bytes(key.try_into().expect("8 bytes"))).collect()
    }

    /// Key and type of the reservation.
    pub async fn reservation(&mut self) -> Option<(u64, u8)> {
        let data = self.good(&[0x5e, 1, 0, 0, 0, 0, 0, 2, 0, 0], b"", 512).await;
        let rest = data.get(8..24)?;
        Some((u64::from_be_bytes(rest[..8].try_into().expect("8 bytes")), rest[13]))
    }

    /// Writes a block of 512 bytes.
    pub async fn write(&mut self, lba: u8, byte: u8) -> Answer {
        self.command(&[0x2a, 0, 0, 0, 0, lba, 0, 0, 1, 0], &[byte; 512], 0).await
    }

    /// COMPARE AND WRITE of a block of 512 bytes; where they differed, or `None` if it was written.
    pub async fn compare_and_write(&mut self, lba: u8, expected: &[u8], data: &[u8]) -> Option<u32> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[9], cdb[13]) = (0x89, lba, 1);
        loop {
            let answer = self.command(&cdb, &[expected, data].concat(), 0).await;
            match (answer.status, answer.code()) {
                (0, _) => return None,
                (_, Some((6, ..))) => {}
                // MISCOMPARE DURING VERIFY OPERATION; the information field has the offset.
                (_, Some((0xe, 0x1d, 0))) => {
                    return Some(u32::from_be_bytes(answer.sense[3..7].try_into().expect("4 bytes")));
                }
                _ => panic!("{answer:02x?}"),
            }
        }
    }

    /// Reads a block of 512 bytes, all of which must be alike.
    pub async fn read(&mut self, lba: u8) -> u8 {
        let data = self.good(&[0x28, 0, 0, 0, 0, lba, 0, 0, 1, 0], b"", 512).await;
        assert!(data.len() == 512 && data.iter().all(|byte| *byte == data[0]), "a torn block");
        data[0]
    }
}
