//! CHAP secrets at rest.
//!
//! A secret is sealed before it is logged: the Raft log, the state store, snapshots and backups of them have it sealed
//! only. It is unsealed by the leader, for gateways, which need it to check and to give answers.
//!
//! A sealed secret, with ChaCha20-Poly1305 (RFC 8439):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 4 | which key: the first bytes of its SHA-256 |
//! | 12 | nonce, random |
//! | … | ciphertext |
//! | 16 | tag, also over target, user and direction, so that a sealed secret opens nothing in another place |
//!
//! **What it protects from**: somebody who gets a disk, a snapshot or a backup of an MDS without the key file. **What
//! not**: who may read the key file, or the memory of an MDS or a gateway; and the network, over which secrets go in the
//! clear between the command line, MDSs and gateways. Who can call the MDS can pose as a gateway.

use std::fmt;

use bytes::Bytes;
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds_state::IscsiSealedRow;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use thiserror::Error;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + ID_BYTES + NONCE_LEN;
/// Bytes of a secret (RFC 7143 9.2.1 asks for 96 bits).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 12..=255;
const USER_BYTES: std::ops::RangeInclusive<usize> = 1..=255;

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

    fn seal(&self, secret: &[u8], bound: &[u8], nonce: [u8; NONCE_LEN]) -> Bytes {
        let Key { id, key } = &self.0[0];
        let mut sealed = secret.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut sealed)
            .expect("a secret is far shorter than the cipher's limit");
        [&[VERSION][..], id, &nonce, &sealed].concat().into()
    }

    fn open(&self, sealed: &[u8], bound: &[u8]) -> Option<Bytes> {
        let (head, rest) = sealed.split_first_chunk::<HEAD_BYTES>()?;
        let (version, id, nonce) = (head[0], &head[1..=ID_BYTES], &head[1 + ID_BYTES..]);
        let Key { key, .. } = self.0.iter().find(|key| version == VERSION && key.id == id)?;
        let mut secret = rest.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = key.open_in_place(nonce, Aad::from(bound), &mut secret).ok()?;
        Some(Bytes::copy_from_slice(opened))
    }

    /// The secrets of a target; `None` if they were sealed with a key that is not here, or are damaged.
    pub(crate) fn unseal_auth(&self, target: &str, row: &IscsiSealedRow) -> Option<pb::IscsiAuth> {
        let secret = self.open(&row.secret, &bound(target, "incoming", &row.user))?;
        let mutual_secret = match row.mutual_user.as_str() {
            "" => Bytes::new(),
            user => self.open(&row.mutual_secret, &bound(target, "mutual", user))?,
        };
        let (user, mutual_user) = (row.user.clone(), row.mutual_user.clone());
        Some(pb::IscsiAuth { user, secret, mutual_user, mutual_secret })
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

/// What a sealed secret belongs to.
fn bound(target: &str, direction: &str, user: &str) -> Vec<u8> {
    format!("curve iscsi\0{target}\0{direction}\0{user}").into_bytes()
}

/// Checks names and secrets of a target, whose name must be in its normal form, and seals them.
pub(crate) fn seal_auth(
    keys: Option<&SealingKeys>,
    target: &str,
    auth: &pb::IscsiAuth,
    nonces: [[u8; NONCE_LEN]; 2],
) -> Result<IscsiSealedRow, MdsError> {
    let target = super::names::node(target)?;
    let refuse = |why: &str| Err(MdsError::BadRequest { why: why.to_owned() });
    if !USER_BYTES.contains(&auth.user.len()) || auth.mutual_user.len() > *USER_BYTES.end() {
        return refuse("a CHAP user name has 1 to 255 bytes");
    }
    let mutual = !auth.mutual_user.is_empty();
    if !SECRET_BYTES.contains(&auth.secret.len())
        || mutual && !SECRET_BYTES.contains(&auth.mutual_secret.len())
    {
        return refuse("a CHAP secret has 12 to 255 bytes");
    }
    if mutual && auth.secret == auth.mutual_secret {
        return refuse(
            "the mutual secret must differ from the initiators': else our answers could be sent back",
        );
    }
    let why = "no MDS key is configured on the leader".to_owned();
    let keys = keys.ok_or(MdsError::NoSealingKey { why })?;
    let mutual_secret = match mutual {
        true => keys.seal(&auth.mutual_secret, &bound(&target, "mutual", &auth.mutual_user), nonces[1]),
        false => Bytes::new(),
    };
    Ok(IscsiSealedRow {
        user: auth.user.clone(),
        secret: keys.seal(&auth.secret, &bound(&target, "incoming", &auth.user), nonces[0]),
        mutual_user: auth.mutual_user.clone(),
        mutual_secret,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "iqn.x:a";

    fn keys(digits: &[&str]) -> SealingKeys {
        SealingKeys::parse(&digits.iter().map(|digit| digit.repeat(64) + "\n").collect::<String>()).unwrap()
    }

    fn auth(secret: &'static str, mutual_user: &str, mutual: &'static str) -> pb::IscsiAuth {
        pb::IscsiAuth {
            user: "alice".into(),
            secret: secret.into(),
            mutual_user: mutual_user.into(),
            mutual_secret: mutual.into(),
        }
    }

    fn seal(auth: &pb::IscsiAuth) -> Result<IscsiSealedRow, MdsError> {
        seal_auth(Some(&keys(&["a"])), TARGET, auth, [[1; NONCE_LEN], [2; NONCE_LEN]])
    }

    #[test]
    fn what_is_sealed_comes_back_and_only_in_its_place() {
        let plain = auth("a-long-secret", "gate", "another-secret");
        let sealed = seal(&plain).unwrap();
        for secret in [&sealed.secret, &sealed.mutual_secret] {
            assert!(!secret.windows(6).any(|window| window == b"secret"), "{secret:?}");
        }
        assert_eq!(keys(&["a"]).unseal_auth(TARGET, &sealed), Some(plain.clone()));
        assert_eq!(keys(&["b", "a"]).unseal_auth(TARGET, &sealed), Some(plain), "an older key unseals");
        assert_eq!(keys(&["b"]).unseal_auth(TARGET, &sealed), None);
        assert_eq!(keys(&["a"]).unseal_auth("iqn.x:b", &sealed), None, "another target");
        let swapped = IscsiSealedRow { secret: sealed.mutual_secret.clone(), ..sealed.clone() };
        assert_eq!(keys(&["a"]).unseal_auth(TARGET, &swapped), None, "the other direction");
        let renamed = IscsiSealedRow { user: "bob".into(), ..sealed.clone() };
        assert_eq!(keys(&["a"]).unseal_auth(TARGET, &renamed), None, "another user");
        for at in 0..sealed.secret.len() {
            let mut damaged = sealed.secret.to_vec();
            damaged[at] ^= 1;
            let row = IscsiSealedRow { secret: damaged.into(), ..sealed.clone() };
            assert_eq!(keys(&["a"]).unseal_auth(TARGET, &row), None, "byte {at}");
            let short = IscsiSealedRow { secret: sealed.secret.slice(..at), ..sealed.clone() };
            assert_eq!(keys(&["a"]).unseal_auth(TARGET, &short), None, "{at} bytes");
        }
    }

    #[test]
    fn a_sealed_secret_is_byte_for_byte() {
        let sealed = seal(&auth("a-long-secret", "", "")).unwrap().secret;
        assert_eq!(sealed.len(), HEAD_BYTES + 13 + 16);
        assert_eq!(sealed[0], 1);
        assert_eq!(sealed[1..5], digest(&SHA256, &[0xaa; 32]).as_ref()[..4]);
        assert_eq!(sealed[5..17], [1; 12]);
    }

    #[test]
    fn bad_secrets_and_a_missing_key_are_refused() {
        for (secret, mutual_user, mutual) in [
            ("short", "", ""),
            ("long-enough-secret", "m", "short"),
            ("long-enough-secret", "m", "long-enough-secret"),
        ] {
            assert!(
                matches!(seal(&auth(secret, mutual_user, mutual)), Err(MdsError::BadRequest { .. })),
                "{secret}"
            );
        }
        let refused = seal_auth(None, TARGET, &auth("long-enough-secret", "", ""), [[0; NONCE_LEN]; 2]);
        assert!(matches!(refused, Err(MdsError::NoSealingKey { .. })));
    }

    #[test]
    fn key_files_are_read_line_by_line() {
        assert_eq!(SealingKeys::parse("\n \n").err(), Some(BadKeyFile::Empty));
        for bad in ["abc".to_owned(), "g".repeat(64), "a".repeat(63), "ä".repeat(32)] {
            let text = format!("{}\n\n{bad}\n", "0".repeat(64));
            assert_eq!(SealingKeys::parse(&text).err(), Some(BadKeyFile::Line(3)), "{bad}");
        }
        assert_eq!(format!("{:?}", keys(&["1", "2"])), "SealingKeys(2)");
    }
}
