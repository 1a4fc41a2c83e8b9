//! Text requests in full feature phase: SendTargets, and the few keys that may change there.

use bytes::Bytes;

use super::text::{TextAssembler, TextError};
use super::wire::TAG_NONE;

/// One negotiation that takes several PDUs: the initiator's text comes in parts, or ours goes out in parts.
#[derive(Debug)]
pub struct Exchange {
    itt: u32,
    ttt: u32,
    assembler: TextAssembler,
    /// What is still to be sent.
    answer: Bytes,
}

/// What a text request leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The initiator has more to say.
    GoOn,
    /// The initiator has said all of this.
    Read(Vec<u8>),
    /// Our answer goes on.
    SendMore,
}

impl Exchange {
    /// A negotiation that goes on under the tag `ttt`, which must not be [`TAG_NONE`].
    pub fn new(itt: u32, ttt: u32) -> Self {
        assert_ne!(ttt, TAG_NONE, "an exchange that goes on needs a tag");
        Self { itt, ttt, assembler: TextAssembler::default(), answer: Bytes::new() }
    }

    /// Whether a request belongs to it.
    pub fn is(&self, itt: u32, ttt: u32) -> bool {
        (self.itt, self.ttt) == (itt, ttt)
    }

    /// Its tag.
    pub fn ttt(&self) -> u32 {
        self.ttt
    }

    /// Takes the text of a request.
    pub fn receive(&mut self, text: &[u8], more: bool) -> Result<Turn, TextError> {
        if !self.answer.is_empty() && text.is_empty() && !more {
            return Ok(Turn::SendMore);
        }
        Ok(match self.assembler.push(text, more)? {
            Some(text) => Turn::Read(text),
            None => Turn::GoOn,
        })
    }

    /// Sets what is to be sent.
    pub fn answer(&mut self, text: Vec<u8>) {
        self.answer = text.into();
    }

    /// The next part of at most `max` bytes, and whether there is more after it.
    pub fn part(&mut self, max: u32) -> (Bytes, bool) {
        let part = self.answer.split_to(self.answer.len().min(max as usize));
        (part, !self.answer.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_and_go_in_parts() {
        let mut exchange = Exchange::new(1, 2);
        assert!(exchange.is(1, 2) && !exchange.is(1, 3) && !exchange.is(2, 2));
        assert_eq!(exchange.receive(b"Send", true), Ok(Turn::GoOn));
        assert_eq!(exchange.receive(b"Targets=All\0", false), Ok(Turn::Read(b"SendTargets=All\0".to_vec())));
        exchange.answer(b"0123456789".to_vec());
        assert_eq!(exchange.part(4), (Bytes::from_static(b"0123"), true));
        assert_eq!(exchange.receive(b"", false), Ok(Turn::SendMore));
        assert_eq!(exchange.part(4), (Bytes::from_static(b"4567"), true));
        assert_eq!(exchange.part(4), (Bytes::from_static(b"89"), false));
        assert_eq!(exchange.receive(b"", false), Ok(Turn::Read(vec![])));
    }
}
