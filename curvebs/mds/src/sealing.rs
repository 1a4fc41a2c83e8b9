//! Secrets at rest.
//!
//! A secret is sealed before it is logged: the Raft log, the state store, snapshots and backups of them have it sealed
//! only. It is unsealed by the leader, for those who need it: gateways (CHAP), mounts and metaservers (object stores).
//!
//! A sealed secret, with ChaCha20-Poly1305 (RFC 8439):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 4 | which key: the first bytes of its SHA-256 |
//! | 12 | nonce, random |
//! | … | ciphertext |
//! | 16 | tag, also over what the secret belongs to, so that it opens nothing in another place |
//!
//! **What it protects from**: somebody who gets a disk, a snapshot or a backup of an MDS without the key file. **What
//! not**: who may read the key file, or the memory of an MDS or of whoever is given secrets; and the network, over which
//! secrets go in the clear. Who can call the MDS can pose as a gateway or a mount.

use std::fmt;

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use thiserror::Error;

/// Bytes of a nonce; each is used once.
pub(crate) type SealingNonce = [u8; NONCE_LEN];

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// Bytes before the ciphertext.
pub(crate) const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_LEN;

/// Keys that seal secrets. The first seals; all of them unseal, so that a key can be replaced.
pub struct SealingKeys(Vec<Key>);

struct Key {
    id: [u8; ID_BYTES],
    key: LessSafeKey,
}

/// Why a key file has no keys. Says nothing of what is in it.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum BadKeyFile {
    /// No line.
    #[error("the file has no key; `openssl rand -hex 32` makes one")]
    Empty,
    /// A line that is none.
    #[error("line {0} is no key: 64 hexadecimal digits, as `openssl rand -hex 32` makes them")]
    Line(usize),
}

impl SealingKeys {
    /// Reads keys, one for each line.
    pub fn parse(text: &str) -> Result<Self, BadKeyFile> {
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let keys = lines.map(|(at, line)| Key::parse(line).ok_or(BadKeyFile::Line(at + 1)));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(BadKeyFile::Empty) } else { Ok(Self(keys)) }
    }

    /// Seals a secret that belongs to `bound`.
    pub(crate) fn seal(&self, secret: &[u8], bound: &[u8], nonce: SealingNonce) -> Bytes {
        let Key { id, key } = &self.0[0];
        let mut sealed = secret.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut sealed)
            .expect("a secret is far shorter than the cipher's limit");
        [&[VERSION][..], id, &nonce, &sealed].concat().into()
    }

    /// What was sealed; `None` if that was with a key that is not here, for something else, or is damaged.
    pub(crate) fn open(&self, sealed: &[u8], bound: &[u8]) -> Option<Bytes> {
        let (head, rest) = sealed.split_first_chunk::<HEAD_BYTES>()?;
        let (version, id, nonce) = (head[0], &head[1..=ID_BYTES], &head[1 + ID_BYTES..]);
        let Key { key, .. } = self.0.iter().find(|key| version == VERSION && key.id == id)?;
        let mut secret = rest.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = key.open_in_place(nonce, Aad::from(bound), &mut secret).ok()?;
        Some(Bytes::copy_from_slice(opened))
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        if line.len() != 2 * KEY_BYTES || !line.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&line[2 * at..2 * at + 2], 16).ok()?;
        }
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?);
        let id = *digest(&SHA256, &bytes).as_ref().first_chunk().expect("a digest is longer");
        Some(Self { id, key })
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_are_read_line_by_line() {
        assert_eq!(SealingKeys::parse("\n \n").err(), Some(BadKeyFile::Empty));
        for bad in ["abc".to_owned(), "g".repeat(64), "a".repeat(63), "ä".repeat(32)] {
            let text = format!("{}\n\n{bad}\n", "0".repeat(64));
            assert_eq!(SealingKeys::parse(&text).err(), Some(BadKeyFile::Line(3)), "{bad}");
        }
        assert_eq!(
            format!("{:?}", SealingKeys::parse(&["1".repeat(64), "2".repeat(64)].join("\n")).unwrap()),
            "SealingKeys(2)"
        );
    }
}
