//! CHAP (RFC 1994, RFC 7143 12.1.3): who may log in, and proof that we are who they think.
//!
//! ```text
//! I: AuthMethod=CHAP             T: AuthMethod=CHAP
//! I: CHAP_A=7,5                  T: CHAP_A=7  CHAP_I=<id>  CHAP_C=<challenge>
//! I: CHAP_N=<user> CHAP_R=<hash of id, secret, challenge>  [CHAP_I CHAP_C]     T: [CHAP_N CHAP_R]
//! ```

use std::fmt;

use md5::Md5;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::text::{TextWriter, binary, hex, number};

/// Bytes of a challenge of ours: as much as the longest digest.
pub const CHALLENGE_BYTES: usize = 32;
/// Bytes of a challenge that the initiator may send.
const THEIR_CHALLENGE_BYTES_MAX: usize = 1024;
/// Least bytes of a secret: 96 bits, as RFC 7143 9.2.1 asks.
pub const SECRET_BYTES_MIN: usize = 12;
/// Most bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 255;

/// A secret, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A secret or a pair of secrets that must not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadCredentials {
    /// Too short to withstand guessing, or too long.
    #[error("a CHAP secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one {0}")]
    SecretLength(usize),
    /// The same secret both ways lets anybody reflect our answers.
    #[error("the mutual secret must differ from the initiator's")]
    SameSecret,
    /// No name.
    #[error("a CHAP user name has 1 to 255 bytes")]
    User,
}

impl Secret {
    /// Takes a secret of acceptable length.
    pub fn new(secret: Vec<u8>) -> Result<Self, BadCredentials> {
        match secret.len() {
            SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(Self(secret)),
            len => Err(BadCredentials::SecretLength(len)),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A name and its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// CHAP_N.
    pub user: String,
    /// What is hashed.
    pub secret: Secret,
}

/// What an initiator has to know, and what we tell it if it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    incoming: Account,
    mutual: Option<Account>,
}

impl Credentials {
    /// Checks that the two go together.
    pub fn new(incoming: Account, mutual: Option<Account>) -> Result<Self, BadCredentials> {
        let users = [Some(&incoming), mutual.as_ref()];
        if users.into_iter().flatten().any(|account| !(1..=255).contains(&account.user.len())) {
            return Err(BadCredentials::User);
        }
        match &mutual {
            Some(mutual) if mutual.secret == incoming.secret => Err(BadCredentials::SameSecret),
            _ => Ok(Self { incoming, mutual }),
        }
    }
}

/// An identifier and a challenge, fresh random for each login: using one again would let an old answer in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// CHAP_I.
    pub id: u8,
    /// CHAP_C.
    pub bytes: [u8; CHALLENGE_BYTES],
}

/// Hash functions, under the numbers of IANA's registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Md5 = 5,
    Sha256 = 7,
}

impl Algorithm {
    /// The first of a list that we have.
    fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|code| match number(code) {
            Some(5) => Some(Self::Md5),
            Some(7) => Some(Self::Sha256),
            _ => None,
        })
    }

    fn hash(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let parts = [&[id], &secret.0[..], challenge].concat();
        match self {
            Self::Md5 => Md5::digest(&parts).to_vec(),
            Self::Sha256 => Sha256::digest(&parts).to_vec(),
        }
    }
}

/// Why the initiator is not let in. It is told no more than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ChapError {
    /// No hash function in common.
    #[error("no CHAP algorithm in common")]
    Algorithm,
    /// The keys do not follow the protocol.
    #[error("CHAP out of order")]
    Order,
    /// The name or the hash is wrong.
    #[error("wrong CHAP name or secret")]
    Denied,
    /// The initiator sends our own challenge back.
    #[error("our CHAP challenge was reflected")]
    Reflected,
    /// The initiator wants proof of who we are, and there is no secret for that.
    #[error("mutual CHAP is not set up")]
    NoMutual,
}

/// One authentication.
#[derive(Clone, Copy, Debug)]
pub struct Chap {
    challenge: Challenge,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Algorithm,
    Response(Algorithm),
    Done,
}

/// The CHAP keys of one text.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChapKeys<'a> {
    /// CHAP_A
    pub algorithms: Option<&'a str>,
    /// CHAP_N
    pub name: Option<&'a str>,
    /// CHAP_R
    pub response: Option<&'a str>,
    /// CHAP_I
    pub id: Option<&'a str>,
    /// CHAP_C
    pub challenge: Option<&'a str>,
}

impl<'a> ChapKeys<'a> {
    /// Takes a pair if it is one of CHAP's. A key that comes twice is not taken.
    pub fn take(&mut self, key: &str, value: &'a str) -> bool {
        let slot = match key {
            "CHAP_A" => &mut self.algorithms,
            "CHAP_N" => &mut self.name,
            "CHAP_R" => &mut self.response,
            "CHAP_I" => &mut self.id,
            "CHAP_C" => &mut self.challenge,
            _ => return false,
        };
        slot.replace(value).is_none()
    }

    fn is_empty(&self) -> bool {
        [self.algorithms, self.name, self.response, self.id, self.challenge].iter().all(Option::is_none)
    }
}

impl Chap {
    /// An authentication with a challenge that was never used before.
    pub fn new(challenge: Challenge) -> Self {
        Self { challenge, state: State::Algorithm }
    }

    /// Whether the initiator has shown that it knows the secret.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the keys of one text and answers them.
    pub fn advance(
        &mut self,
        keys: ChapKeys<'_>,
        credentials: &Credentials,
        out: &mut TextWriter,
    ) -> Result<(), ChapError> {
        match (self.state, keys) {
            // The initiator waits for us to begin or to go on, which we do with each answer.
            (_, keys) if keys.is_empty() => Ok(()),
            (State::Algorithm, ChapKeys { algorithms: Some(list), name: None, response: None, .. }) => {
                let algorithm = Algorithm::choose(list).ok_or(ChapError::Algorithm)?;
                self.state = State::Response(algorithm);
                out.pair("CHAP_A", &(algorithm as u8).to_string());
                out.pair("CHAP_I", &self.challenge.id.to_string());
                out.pair("CHAP_C", &hex(&self.challenge.bytes));
                Ok(())
            }
            (
                State::Response(algorithm),
                ChapKeys { algorithms: None, name: Some(name), response: Some(response), .. },
            ) => {
                self.verify(algorithm, name, response, credentials)?;
                self.prove(algorithm, keys, credentials, out)?;
                self.state = State::Done;
                Ok(())
            }
            _ => Err(ChapError::Order),
        }
    }

    fn verify(
        &self,
        algorithm: Algorithm,
        name: &str,
        response: &str,
        credentials: &Credentials,
    ) -> Result<(), ChapError> {
        let Account { user, secret } = &credentials.incoming;
        let expected = algorithm.hash(self.challenge.id, secret, &self.challenge.bytes);
        let response = binary(response, expected.len()).unwrap_or_default();
        // Both are looked at whatever the other says, so that time tells nothing about names.
        let known = same(name.as_bytes(), user.as_bytes());
        let right = same(&response, &expected);
        if known & right { Ok(()) } else { Err(ChapError::Denied) }
    }

    /// Answers the initiator's own challenge, if there is one.
    fn prove(
        &self,
        algorithm: Algorithm,
        keys: ChapKeys<'_>,
        credentials: &Credentials,
        out: &mut TextWriter,
    ) -> Result<(), ChapError> {
        let (id, challenge) = match (keys.id, keys.challenge) {
            (None, None) => return Ok(()),
            (Some(id), Some(challenge)) => (id, challenge),
            _ => return Err(ChapError::Order),
        };
        let id = number(id).and_then(|id| u8::try_from(id).ok()).ok_or(ChapError::Order)?;
        let challenge = binary(challenge, THEIR_CHALLENGE_BYTES_MAX).ok_or(ChapError::Order)?;
        if challenge == self.challenge.bytes {
            return Err(ChapError::Reflected);
        }
        let mutual = credentials.mutual.as_ref().ok_or(ChapError::NoMutual)?;
        out.pair("CHAP_N", &mutual.user);
        out.pair("CHAP_R", &hex(&algorithm.hash(id, &mutual.secret, &challenge)));
        Ok(())
    }
}

/// Compares in a time that depends on the lengths only.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |diff, (left, right)| diff | (left ^ right)) == 0
}

#[cfg(test)]
mod tests;
