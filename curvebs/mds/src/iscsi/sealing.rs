//! CHAP secrets at rest: each is sealed for its target, user and direction.

use bytes::Bytes;
use curve_proto::MdsError;
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds_state::IscsiSealedRow;

use crate::sealing::{SealingKeys, SealingNonce};

/// Bytes of a secret (RFC 7143 9.2.1 asks for 96 bits).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 12..=255;
const USER_BYTES: std::ops::RangeInclusive<usize> = 1..=255;

impl SealingKeys {
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

/// What a sealed secret belongs to.
fn bound(target: &str, direction: &str, user: &str) -> Vec<u8> {
    format!("curve iscsi\0{target}\0{direction}\0{user}").into_bytes()
}

/// Checks names and secrets of a target, whose name must be in its normal form, and seals them.
pub(crate) fn seal_auth(
    keys: Option<&SealingKeys>,
    target: &str,
    auth: &pb::IscsiAuth,
    nonces: [SealingNonce; 2],
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
    use ring::digest::{SHA256, digest};

    use super::*;
    use crate::sealing::HEAD_BYTES;

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
        seal_auth(Some(&keys(&["a"])), TARGET, auth, [[1; 12], [2; 12]])
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
        let refused = seal_auth(None, TARGET, &auth("long-enough-secret", "", ""), [[0; 12]; 2]);
        assert!(matches!(refused, Err(MdsError::NoSealingKey { .. })));
    }
}
