//! Operations over several partitions: a participant's side, and the coordinator's decision. The protocol is described
//! in `curvefs_types` (`tx.rs`).

use curve_kv::KeyRange;
use curvefs_types::keys::{Key, tag};
use curvefs_types::{
    Attr, Decision, FsError, InodeId, NameOp, Part, PartitionId, Prepared, Reply, TxId, TxNumber, Vote, Wire,
};

use crate::fail::Step;
use crate::others::Others;
use crate::step::Change;
use crate::view::{PAGE, View, between};

/// Rows of old transactions that one request removes at most.
const FORGOTTEN_AT_ONCE: usize = 1024;

impl Change<'_, '_> {
    /// Checks, locks and keeps parts.
    pub fn prepare(&mut self, tx: TxId, floor: TxNumber, parts: &[Part]) -> Step<Reply> {
        self.raise_floor(tx.coordinator, floor)?;
        if tx.number < self.floor_of(tx.coordinator)? || self.has(&Key::Finished { tx })? {
            return Err(FsError::Forgotten.into());
        }
        if let Some(prepared) = self.row::<Prepared>(&Key::Prepared { tx })? {
            return Ok(Reply::Prepared { attrs: prepared.attrs });
        }
        let (made, attrs) = self.try_parts(parts)?;
        self.raise_floor(tx.coordinator, floor)?;
        // Numbers stay given even if nothing comes of them.
        self.header.next_serial += made.len() as u64;
        let locked: Vec<Key> =
            parts.iter().filter_map(lock_of).chain(made.iter().map(|i| inode_lock(*i))).collect();
        for key in &locked {
            self.put(key, &tx);
        }
        let prepared = Prepared { now_ns: self.now, parts: parts.to_vec(), made, attrs: attrs.clone() };
        self.put(&Key::Prepared { tx }, &prepared);
        Ok(Reply::Prepared { attrs })
    }

    /// Does parts, notes what comes of them, and undoes everything.
    fn try_parts(&mut self, parts: &[Part]) -> Step<(Vec<InodeId>, Vec<Attr>)> {
        let (mut made, mut attrs) = (Vec::new(), Vec::new());
        for part in parts {
            if let Some(key) = lock_of(part)
                && self.has(&key)?
            {
                return Err(FsError::Busy.into());
            }
            let number = match part {
                Part::MakeDir { .. } => {
                    let serial = self.header.next_serial + made.len() as u64;
                    Some(InodeId::in_slot(self.header.slot, serial).ok_or(FsError::NoSpace)?)
                }
                _ => None,
            };
            attrs.extend(self.do_part(part, number)?);
            made.extend(number);
        }
        self.rewind();
        Ok((made, attrs))
    }

    /// Does one part. `MakeDir` has been given its number.
    fn do_part(&mut self, part: &Part, number: Option<InodeId>) -> Step<Option<Attr>> {
        if let curvefs_types::PartTarget::Inode(inode) = part.target() {
            self.check_here(inode)?;
        }
        Ok(match part {
            Part::MakeDir { parent, new } => {
                let number = number.ok_or(FsError::Corrupt)?;
                Some(self.make_inode_as(number, *parent, new)?)
            }
            Part::RemoveDir { inode } => Some(self.remove_dir(*inode)?),
            Part::AddLink { inode, dir } => Some(self.add_link(*inode, *dir)?),
            Part::DropLink { inode, dir } => Some(self.drop_link(*inode, *dir)?),
            Part::Move { inode, from, to } => Some(self.move_inode(*inode, *from, *to)?),
            Part::RemoveName { dir, name, was } => {
                self.remove_name(*dir, name, *was)?;
                None
            }
            Part::ReplaceName { dir, name, was, becomes } => {
                self.replace_name(*dir, name, *was, *becomes)?;
                None
            }
            Part::LockTree => None,
        })
    }

    /// The coordinator's apply: the decision.
    pub fn decide(&mut self, tx: TxId, op: &NameOp, votes: &[Vote]) -> Step<Reply> {
        let key = Key::Decided { number: tx.number };
        let stale = tx.coordinator != self.header.partition || tx.number.term != self.term;
        if stale || self.has(&key)? {
            return Err(FsError::Busy.into());
        }
        self.others = Others::voted(votes)?;
        let reply = self.name_op(op)?;
        let participants = votes.iter().map(|vote| vote.partition).collect();
        self.put(&key, &Decision::Committed { participants });
        Ok(reply)
    }

    /// Does or drops what was prepared.
    pub fn finish_tx(&mut self, tx: TxId, floor: TxNumber, commit: bool) -> Step<Reply> {
        if let Some(prepared) = self.row::<Prepared>(&Key::Prepared { tx })? {
            self.end(tx, &prepared, commit)?;
        }
        self.raise_floor(tx.coordinator, floor)?;
        // What is below the floor is refused without a row of its own, which nobody would remove.
        if tx.number >= self.floor_of(tx.coordinator)? {
            self.mark(&Key::Finished { tx });
        }
        Ok(Reply::Done)
    }

    fn end(&mut self, tx: TxId, prepared: &Prepared, commit: bool) -> Step<()> {
        let locked = prepared.parts.iter().filter_map(lock_of);
        for key in locked.chain(prepared.made.iter().map(|inode| inode_lock(*inode))).collect::<Vec<_>>() {
            self.delete(&key);
        }
        self.delete(&Key::Prepared { tx });
        if !commit {
            return Ok(());
        }
        let now = std::mem::replace(&mut self.now, prepared.now_ns);
        self.is_late = true;
        let mut made = prepared.made.iter().copied();
        for part in &prepared.parts {
            let number = if matches!(part, Part::MakeDir { .. }) { made.next() } else { None };
            self.do_part(part, number)?;
        }
        self.now = now;
        self.is_late = false;
        Ok(())
    }

    /// Numbers of a coordinator below are finished.
    fn floor_of(&self, coordinator: PartitionId) -> Step<TxNumber> {
        Ok(self.row(&Key::Floor { coordinator })?.unwrap_or_default())
    }

    /// Everything of a coordinator below the floor is finished: what is still prepared was aborted. Rows below the floor that is
    /// held are gone, so only those above it are looked at: a store is slow where much was deleted. Of very many, some stay
    /// for the next time, and the floor is held where it has come to.
    fn raise_floor(&mut self, coordinator: PartitionId, floor: TxNumber) -> Step<()> {
        let key = Key::Floor { coordinator };
        let held = self.row::<TxNumber>(&key)?;
        if held.is_some_and(|held| held >= floor) {
            return Ok(());
        }
        let at = |number| TxId { coordinator, number };
        let lowest = at(held.unwrap_or_default());
        let old = between(&Key::Finished { tx: lowest }, &Key::Finished { tx: at(floor) });
        let finished = self.page(&old, FORGOTTEN_AT_ONCE)?;
        let mut reached = floor;
        for (key, _) in &finished {
            if let Key::Finished { tx } = key
                && finished.len() == FORGOTTEN_AT_ONCE
            {
                reached = TxNumber { number: tx.number.number + 1, ..tx.number };
            }
            self.delete(key);
        }
        self.put(&key, &reached);
        let old = between(&Key::Prepared { tx: lowest }, &Key::Prepared { tx: at(reached) });
        loop {
            let page = self.page(&old, PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, row) in page {
                let Key::Prepared { tx } = key else { continue };
                self.end(tx, &Prepared::from_row(&row)?, false)?;
            }
        }
    }

    /// Tells a participant what was decided. What was not is not going to be.
    pub fn resolve(&mut self, tx: TxId) -> Step<Reply> {
        if tx.coordinator != self.header.partition {
            return Err(FsError::NotHere { partition: self.header.partition }.into());
        }
        self.drop_old_aborts()?;
        let key = Key::Decided { number: tx.number };
        let decision = match self.row::<Decision>(&key)? {
            Some(decision) => decision,
            None => {
                if tx.number.term >= self.term {
                    self.put(&key, &Decision::Aborted);
                }
                Decision::Aborted
            }
        };
        Ok(Reply::Resolved { decision })
    }

    /// All participants have finished these.
    pub fn forget(&mut self, numbers: &[TxNumber]) -> Step<Reply> {
        for number in numbers {
            let key = Key::Decided { number: *number };
            if matches!(self.row(&key)?, Some(Decision::Committed { .. })) {
                self.delete(&key);
            }
        }
        self.drop_old_aborts()?;
        Ok(Reply::Done)
    }

    /// No `Decide` of an older term can come any more.
    fn drop_old_aborts(&mut self) -> Step<()> {
        let now = TxNumber { term: self.term, number: 0 };
        let old = between(&Key::Decided { number: TxNumber::default() }, &Key::Decided { number: now });
        for (key, _) in self.page(&old, PAGE)? {
            if self.row::<Decision>(&key)? == Some(Decision::Aborted) {
                self.delete(&key);
            }
        }
        Ok(())
    }
}

fn inode_lock(inode: InodeId) -> Key {
    Key::InodeLock { inode }
}

/// What a part locks; `MakeDir` locks the number it is given.
fn lock_of(part: &Part) -> Option<Key> {
    match part {
        Part::MakeDir { .. } => None,
        Part::RemoveDir { inode } | Part::AddLink { inode, .. } | Part::DropLink { inode, .. } => {
            Some(inode_lock(*inode))
        }
        Part::Move { inode, .. } => Some(inode_lock(*inode)),
        Part::RemoveName { dir, name, .. } | Part::ReplaceName { dir, name, .. } => {
            Some(Key::NameLock { dir: *dir, name: name.clone() })
        }
        Part::LockTree => Some(Key::TreeLock {}),
    }
}

/// Transactions that are prepared.
pub(crate) fn prepared(view: &impl View, limit: usize) -> Step<Vec<TxId>> {
    let page = view.page(&KeyRange::prefix(Key::kind(tag::PREPARED)), limit)?;
    Ok(page
        .into_iter()
        .filter_map(|(key, _)| match key {
            Key::Prepared { tx } => Some(tx),
            _ => None,
        })
        .collect())
}
