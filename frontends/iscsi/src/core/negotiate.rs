//! Operational keys (RFC 7143 chapter 13): what is offered, what is answered, what results.
//!
//! | key | kind | ours |
//! |---|---|---|
//! | HeaderDigest, DataDigest | first of the offer that we have | CRC32C, None |
//! | MaxConnections | lower | 1 |
//! | InitialR2T | Yes if either says so | No |
//! | ImmediateData | Yes if both say so | Yes |
//! | MaxRecvDataSegmentLength | each declares its own | 256 KiB |
//! | MaxBurstLength | lower | 1 MiB |
//! | FirstBurstLength | lower | 256 KiB |
//! | DefaultTime2Wait | higher | 0 |
//! | DefaultTime2Retain | lower | 0: nothing outlives its connection |
//! | MaxOutstandingR2T | lower | 8 |
//! | DataPDUInOrder, DataSequenceInOrder | Yes if either says so | Yes |
//! | ErrorRecoveryLevel | lower | 0 |
//! | iSCSIProtocolLevel | lower | 1 |
//! | TaskReporting | first of the offer that we have | RFC3720, ResponseFence |
//! | IFMarker, OFMarker (obsolete) | | No |
//! | IFMarkInt, OFMarkInt (obsolete) | | Reject |
//! | any other | | NotUnderstood |

use thiserror::Error;

use super::digest::Digests;
use super::text::{TextWriter, number};
use super::wire::LOGIN_DATA_BYTES_MAX;

/// Longest data segment that we take.
pub const RECV_DATA_BYTES_MAX: u32 = 256 << 10;
/// Longest run of data that one R2T asks for, and of Data-In without a final bit.
pub const BURST_BYTES_MAX: u32 = 1 << 20;
/// Most data that a command may bring unasked.
pub const FIRST_BURST_BYTES_MAX: u32 = 256 << 10;
/// R2Ts of one task at a time.
pub const OUTSTANDING_R2T_MAX: u32 = 8;

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionKind {
    /// SCSI.
    #[default]
    Normal,
    /// Asking which targets there are.
    Discovery,
}

/// What was agreed on. Begins with the defaults of the standard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionParams {
    /// Digests, once in full feature phase.
    pub digests: Digests,
    /// Whether unsolicited Data-Out is forbidden.
    pub initial_r2t: bool,
    /// Whether a command may bring data.
    pub immediate_data: bool,
    /// Longest data segment that the initiator takes.
    pub send_data_max: u32,
    /// Longest run of solicited data.
    pub burst_max: u32,
    /// Most unsolicited data of a command.
    pub first_burst_max: u32,
    /// R2Ts of one task at a time.
    pub outstanding_r2t: u32,
}

impl Default for SessionParams {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            send_data_max: LOGIN_DATA_BYTES_MAX,
            burst_max: 256 << 10,
            first_burst_max: 64 << 10,
            outstanding_r2t: 1,
        }
    }
}

/// The initiator offers a key twice, which the standard forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("key {0} is offered twice")]
pub struct OfferedTwice(pub &'static str);

/// The operational negotiation of one login.
#[derive(Debug)]
pub struct Negotiation {
    kind: SessionKind,
    params: SessionParams,
    /// One bit for each row of [`KEYS`].
    seen: u32,
    declared: bool,
}

/// A known key, and whether it means nothing in a discovery session.
const KEYS: [(&str, Rule, bool); 19] = [
    ("HeaderDigest", Rule::Digest, false),
    ("DataDigest", Rule::Digest, false),
    ("MaxConnections", Rule::Lower { min: 1, max: 65535, ours: 1 }, true),
    ("InitialR2T", Rule::Or { ours: false }, true),
    ("ImmediateData", Rule::And { ours: true }, true),
    ("MaxRecvDataSegmentLength", Rule::Declared { min: 512, max: (1 << 24) - 1 }, false),
    ("MaxBurstLength", Rule::Lower { min: 512, max: (1 << 24) - 1, ours: BURST_BYTES_MAX }, true),
    ("FirstBurstLength", Rule::Lower { min: 512, max: (1 << 24) - 1, ours: FIRST_BURST_BYTES_MAX }, true),
    ("DefaultTime2Wait", Rule::Higher { max: 3600, ours: 0 }, false),
    ("DefaultTime2Retain", Rule::Lower { min: 0, max: 3600, ours: 0 }, false),
    ("MaxOutstandingR2T", Rule::Lower { min: 1, max: 65535, ours: OUTSTANDING_R2T_MAX }, true),
    ("DataPDUInOrder", Rule::Or { ours: true }, true),
    ("DataSequenceInOrder", Rule::Or { ours: true }, true),
    ("ErrorRecoveryLevel", Rule::Lower { min: 0, max: 2, ours: 0 }, false),
    ("iSCSIProtocolLevel", Rule::Lower { min: 0, max: 31, ours: 1 }, true),
    ("TaskReporting", Rule::Reporting, true),
    ("IFMarker", Rule::Always("No"), false),
    ("OFMarker", Rule::Always("No"), false),
    ("IFMarkInt", Rule::Always("Reject"), false),
];
const OFMARKINT: &str = "OFMarkInt";

/// How an offer becomes a result.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Digest,
    Reporting,
    Or { ours: bool },
    And { ours: bool },
    Lower { min: u32, max: u32, ours: u32 },
    Higher { max: u32, ours: u32 },
    Declared { min: u32, max: u32 },
    Always(&'static str),
}

/// What a key amounts to.
enum Verdict {
    Answer(String),
    Silence,
    Reject,
}

impl Negotiation {
    /// A negotiation in which nothing was offered yet.
    pub fn new(kind: SessionKind) -> Self {
        Self { kind, params: SessionParams::default(), seen: 0, declared: false }
    }

    /// The result so far.
    pub fn params(&self) -> SessionParams {
        let mut params = self.params;
        params.first_burst_max = params.first_burst_max.min(params.burst_max);
        params
    }

    /// Says what we declare without being asked; once.
    pub fn declare(&mut self, out: &mut TextWriter) {
        if !std::mem::replace(&mut self.declared, true) {
            out.pair("MaxRecvDataSegmentLength", &RECV_DATA_BYTES_MAX.to_string());
        }
    }

    /// Answers an offer.
    pub fn offer(&mut self, key: &str, value: &str, out: &mut TextWriter) -> Result<(), OfferedTwice> {
        let Some(row) = KEYS.iter().position(|(name, ..)| *name == key) else {
            out.pair(key, if key == OFMARKINT { "Reject" } else { "NotUnderstood" });
            return Ok(());
        };
        let (name, rule, normal_only) = KEYS[row];
        if self.seen & 1 << row != 0 {
            return Err(OfferedTwice(name));
        }
        self.seen |= 1 << row;
        if normal_only && self.kind == SessionKind::Discovery {
            out.pair(key, "Irrelevant");
            return Ok(());
        }
        match self.judge(name, rule, value) {
            Verdict::Answer(answer) => out.pair(key, &answer),
            Verdict::Silence => {}
            Verdict::Reject => out.pair(key, "Reject"),
        }
        Ok(())
    }

    fn judge(&mut self, name: &'static str, rule: Rule, value: &str) -> Verdict {
        match rule {
            Rule::Always(answer) => Verdict::Answer(answer.to_owned()),
            Rule::Digest => self.choose(name, value, &["CRC32C", "None"]),
            Rule::Reporting => self.choose(name, value, &["ResponseFence", "RFC3720"]),
            Rule::Or { ours } | Rule::And { ours } => {
                let Some(theirs) = boolean(value) else { return Verdict::Reject };
                let result = if matches!(rule, Rule::Or { .. }) { ours || theirs } else { ours && theirs };
                self.set(name, u32::from(result));
                Verdict::Answer(if result { "Yes" } else { "No" }.to_owned())
            }
            Rule::Lower { min, max, ours } => match bounded(value, min, max) {
                Some(theirs) => self.result(name, theirs.min(ours)),
                None => Verdict::Reject,
            },
            Rule::Higher { max, ours } => match bounded(value, 0, max) {
                Some(theirs) => self.result(name, theirs.max(ours)),
                None => Verdict::Reject,
            },
            Rule::Declared { min, max } => match bounded(value, min, max) {
                Some(theirs) => {
                    self.set(name, theirs);
                    Verdict::Silence
                }
                None => Verdict::Reject,
            },
        }
    }

    fn result(&mut self, name: &'static str, result: u32) -> Verdict {
        self.set(name, result);
        Verdict::Answer(result.to_string())
    }

    /// The first of the offered values that we have: the initiator's wish comes first.
    fn choose(&mut self, name: &'static str, value: &str, have: &[&str]) -> Verdict {
        let Some(chosen) = value.split(',').find(|offered| have.contains(offered)) else {
            return Verdict::Reject;
        };
        self.set(name, u32::from(chosen == "CRC32C"));
        Verdict::Answer(chosen.to_owned())
    }

    fn set(&mut self, name: &'static str, result: u32) {
        let params = &mut self.params;
        match name {
            "HeaderDigest" => params.digests.header = result == 1,
            "DataDigest" => params.digests.data = result == 1,
            "InitialR2T" => params.initial_r2t = result == 1,
            "ImmediateData" => params.immediate_data = result == 1,
            "MaxRecvDataSegmentLength" => params.send_data_max = result,
            "MaxBurstLength" => params.burst_max = result,
            "FirstBurstLength" => params.first_burst_max = result,
            "MaxOutstandingR2T" => params.outstanding_r2t = result,
            // The others have one value that we live with, whatever was offered.
            _ => {}
        }
    }
}

/// The new value of a MaxRecvDataSegmentLength that is declared in full feature phase.
pub fn declared_length(value: &str) -> Option<u32> {
    bounded(value, 512, (1 << 24) - 1)
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn bounded(value: &str, min: u32, max: u32) -> Option<u32> {
    let value = u32::try_from(number(value)?).ok()?;
    (min..=max).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(kind: SessionKind, offers: &[(&str, &str)]) -> (SessionParams, String) {
        let mut negotiation = Negotiation::new(kind);
        let mut out = TextWriter::default();
        for (key, value) in offers {
            negotiation.offer(key, value, &mut out).expect("no key is offered twice");
        }
        (negotiation.params(), String::from_utf8(out.into_bytes()).unwrap().replace('\0', " "))
    }

    #[test]
    fn every_key_has_its_answer() {
        for (key, value, answer) in [
            ("HeaderDigest", "None", "None"),
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "None,CRC32C", "None"),
            ("DataDigest", "X-new,CRC32C", "CRC32C"),
            ("DataDigest", "X-new", "Reject"),
            ("MaxConnections", "8", "1"),
            ("MaxConnections", "0", "Reject"),
            ("InitialR2T", "Yes", "Yes"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "yes", "Reject"),
            ("ImmediateData", "Yes", "Yes"),
            ("ImmediateData", "No", "No"),
            ("MaxBurstLength", "16776192", "1048576"),
            ("MaxBurstLength", "0x10000", "65536"),
            ("MaxBurstLength", "511", "Reject"),
            ("MaxBurstLength", "16777216", "Reject"),
            ("FirstBurstLength", "262144", "262144"),
            ("FirstBurstLength", "16777215", "262144"),
            ("FirstBurstLength", "512", "512"),
            ("DefaultTime2Wait", "2", "2"),
            ("DefaultTime2Wait", "0", "0"),
            ("DefaultTime2Wait", "3601", "Reject"),
            ("DefaultTime2Retain", "20", "0"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxOutstandingR2T", "65535", "8"),
            ("MaxOutstandingR2T", "0", "Reject"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "No", "Yes"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("ErrorRecoveryLevel", "3", "Reject"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("iSCSIProtocolLevel", "0", "0"),
            ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "ResponseFence"),
            ("TaskReporting", "RFC3720", "RFC3720"),
            ("IFMarker", "Yes", "No"),
            ("OFMarker", "No", "No"),
            ("IFMarkInt", "2048~8192", "Reject"),
            ("OFMarkInt", "2048~8192", "Reject"),
            ("X-com.example.Key", "1", "NotUnderstood"),
            ("Nonsense", "", "NotUnderstood"),
        ] {
            let (_, text) = negotiate(SessionKind::Normal, &[(key, value)]);
            assert_eq!(text, format!("{key}={answer} "), "{key}={value}");
        }
    }

    #[test]
    fn what_results() {
        let (params, text) = negotiate(
            SessionKind::Normal,
            &[
                ("HeaderDigest", "CRC32C"),
                ("DataDigest", "CRC32C"),
                ("InitialR2T", "No"),
                ("ImmediateData", "No"),
                ("MaxRecvDataSegmentLength", "65536"),
                ("MaxBurstLength", "8192"),
                ("FirstBurstLength", "65536"),
                ("MaxOutstandingR2T", "4"),
            ],
        );
        let digests = Digests { header: true, data: true };
        let expected = SessionParams {
            digests,
            initial_r2t: false,
            immediate_data: false,
            send_data_max: 65536,
            burst_max: 8192,
            // Cannot be more than a burst.
            first_burst_max: 8192,
            outstanding_r2t: 4,
        };
        assert_eq!(params, expected);
        assert!(!text.contains("MaxRecv"), "a declaration needs no answer: {text}");
        assert_eq!(negotiate(SessionKind::Normal, &[]).0, SessionParams::default());
        // What was rejected keeps its default.
        let refused = [("MaxBurstLength", "1"), ("MaxRecvDataSegmentLength", "1"), ("HeaderDigest", "")];
        assert_eq!(negotiate(SessionKind::Normal, &refused).0, SessionParams::default());
    }

    #[test]
    fn discovery_has_fewer_keys() {
        let offers = [("MaxBurstLength", "512"), ("InitialR2T", "No"), ("HeaderDigest", "CRC32C")];
        let (params, text) = negotiate(SessionKind::Discovery, &offers);
        assert_eq!(text, "MaxBurstLength=Irrelevant InitialR2T=Irrelevant HeaderDigest=CRC32C ");
        assert!(params.initial_r2t && params.digests.header);
    }

    #[test]
    fn a_key_is_offered_once() {
        let mut negotiation = Negotiation::new(SessionKind::Normal);
        let mut out = TextWriter::default();
        assert_eq!(negotiation.offer("InitialR2T", "No", &mut out), Ok(()));
        assert_eq!(negotiation.offer("InitialR2T", "No", &mut out), Err(OfferedTwice("InitialR2T")));
        negotiation.declare(&mut out);
        negotiation.declare(&mut out);
        assert_eq!(out.as_bytes(), b"InitialR2T=No\0MaxRecvDataSegmentLength=262144\0");
    }
}
