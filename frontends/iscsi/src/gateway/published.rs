//! The MDS's targets as login sees them. Pure.

use crate::core::{Access, Account, Credentials, NodeName, Portal, Secret, TargetEntry};
use curve_client::mds::{IscsiAccess, IscsiAuth, IscsiGateway, IscsiTarget};
use curve_scsi::{AccessState, PortGroup};

/// What login asks for; `None` for a target whose name this version does not take.
pub fn entry(target: &IscsiTarget, unguessable: &Credentials) -> Option<TargetEntry> {
    let access = match &target.access {
        IscsiAccess::Any => Access::All,
        IscsiAccess::Listed(names) => {
            Access::Only(names.iter().filter_map(|name| NodeName::new(name)).collect())
        }
    };
    let credentials =
        target.auth.as_ref().map(|auth| credentials(auth).unwrap_or_else(|| unguessable.clone()));
    Some(TargetEntry { name: NodeName::new(&target.name)?, alias: None, access, credentials })
}

/// Whether nobody can log in, since the secrets are not to be had.
pub fn is_locked(target: &IscsiTarget) -> bool {
    target.auth.as_ref().is_some_and(|auth| credentials(auth).is_none())
}

fn credentials(auth: &IscsiAuth) -> Option<Credentials> {
    let secrets = auth.secrets.as_ref()?;
    let account = |user: &str, secret: &[u8]| {
        Some(Account { user: user.to_owned(), secret: Secret::new(secret.to_vec()).ok()? })
    };
    let mutual = match (&auth.mutual_user, &secrets.mutual) {
        (Some(user), Some(secret)) => Some(account(user, secret)?),
        _ => None,
    };
    Credentials::new(account(&auth.user, &secrets.incoming)?, mutual).ok()
}

/// What an initiator that insists on CHAP in discovery is asked for: the secret, if there is only one.
pub fn discovery(entries: &[TargetEntry]) -> Option<Credentials> {
    let mut all = entries.iter().filter_map(|entry| entry.credentials.as_ref());
    let first = all.next()?;
    all.all(|other| other == first).then(|| first.clone())
}

/// Portals of all gateways that serve, this one's first: a connection is to the first group.
pub fn portals(own: &[Portal], number: u16, gateways: &[IscsiGateway]) -> Vec<Portal> {
    let others = gateways.iter().filter(|gateway| gateway.number != number && !gateway.stopped);
    let others = others.flat_map(|gateway| {
        let portal = |address: &String| Portal { address: Some(address.clone()), group: gateway.number };
        gateway.addresses.iter().map(portal)
    });
    own.iter().cloned().chain(others).collect()
}

/// The port groups of every target: one for each gateway, with its one port.
pub fn port_groups(gateways: &[IscsiGateway]) -> Vec<PortGroup> {
    let group = |gateway: &IscsiGateway| PortGroup {
        id: gateway.number,
        state: if gateway.stopped { AccessState::Unavailable } else { AccessState::ActiveOptimized },
        preferred: false,
        ports: vec![gateway.number],
    };
    gateways.iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use curve_client::mds::IscsiSecrets;

    use super::*;

    fn target(access: IscsiAccess, auth: Option<IscsiAuth>) -> IscsiTarget {
        IscsiTarget { name: "iqn.x:y".into(), luns: Vec::new(), access, auth, created_at_ms: 0 }
    }

    fn auth(secret: Option<&'static str>) -> IscsiAuth {
        let secrets = secret.map(|secret| IscsiSecrets { incoming: secret.into(), mutual: None });
        IscsiAuth { user: "u".into(), mutual_user: None, secrets }
    }

    fn unguessable() -> Credentials {
        credentials(&auth(Some("nobody-knows-this"))).expect("good credentials")
    }

    #[test]
    fn a_target_whose_secrets_are_locked_lets_nobody_in() {
        let open = entry(&target(IscsiAccess::Any, None), &unguessable()).expect("a good name");
        assert_eq!((open.access, open.credentials), (Access::All, None));
        for secret in [None, Some("short")] {
            let locked = target(IscsiAccess::Any, Some(auth(secret)));
            assert!(is_locked(&locked));
            assert_eq!(entry(&locked, &unguessable()).expect("a good name").credentials, Some(unguessable()));
        }
        let guarded = target(IscsiAccess::Listed(vec!["iqn.i:a".into()]), Some(auth(Some("a-long-secret"))));
        let guarded_entry = entry(&guarded, &unguessable()).expect("a good name");
        assert!(!is_locked(&guarded) && guarded_entry.credentials != Some(unguessable()));
        assert_eq!(guarded_entry.access, Access::Only([NodeName::new("iqn.i:a").expect("good")].into()));
        assert_eq!(discovery(&[guarded_entry.clone(), guarded_entry.clone()]), guarded_entry.credentials);
    }

    #[test]
    fn portals_and_groups_are_those_of_all_gateways() {
        let gateway = |number: u16, stopped| IscsiGateway {
            number,
            name: format!("gw-{number}"),
            addresses: vec![format!("gw-{number}:3260")],
            host: "h".into(),
            process: 1,
            stopped,
            lease_left: Duration::ZERO,
        };
        let gateways = [gateway(1, false), gateway(2, false), gateway(3, true)];
        let own = [Portal { address: None, group: 2 }];
        let expected = [own[0].clone(), Portal { address: Some("gw-1:3260".into()), group: 1 }];
        assert_eq!(portals(&own, 2, &gateways), expected);
        let groups = port_groups(&gateways);
        assert_eq!(groups.iter().map(|group| group.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(groups[2].state, AccessState::Unavailable);
    }
}
