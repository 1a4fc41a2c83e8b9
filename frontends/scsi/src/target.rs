//! A target device: its logical units, and the nexuses attached to it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, RwLock, Weak};

use crate::alua::PortGroup;
use crate::attention::Attentions;
use crate::cdb::Decoded;
use crate::copy::CopyLog;
use crate::execute::{DataOut, Job};
use crate::lun::{Lun, LunAddress};
use crate::luns;
use crate::nexus::Nexus;
use crate::reservations::{Action, Change, Registrant};
use crate::sense::{AdditionalSense, Sense};
use crate::status::Response;
use crate::task::{Aborter, Task, TaskState};
use crate::unit::LogicalUnit;

/// An iSCSI target: a name, logical units by number, and the nexuses attached now.
pub struct TargetDevice {
    name: String,
    units: RwLock<BTreeMap<Lun, Arc<LogicalUnit>>>,
    port_groups: RwLock<Arc<[PortGroup]>>,
    attachments: Mutex<Vec<Weak<NexusUnits>>>,
}

/// No logical unit has the number: a task management function answers LUN DOES NOT EXIST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchUnit;

impl TargetDevice {
    /// A target without units.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            units: RwLock::default(),
            port_groups: RwLock::new(Arc::new([])),
            attachments: Mutex::default(),
        })
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives a unit a number; attached nexuses are told that the units changed. Returns the unit that had the number.
    pub fn insert(&self, lun: Lun, unit: Arc<LogicalUnit>) -> Option<Arc<LogicalUnit>> {
        let before = self.units.write().expect("no panic under the lock").insert(lun, unit);
        self.forget(lun);
        before
    }

    /// Takes a unit away; attached nexuses are told that the units changed. Its running tasks run on.
    pub fn remove(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        let removed = self.units.write().expect("no panic under the lock").remove(&lun);
        self.forget(lun);
        removed
    }

    /// The unit with a number.
    pub fn unit(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        self.units.read().expect("no panic under the lock").get(&lun).cloned()
    }

    /// All units by number.
    pub fn units(&self) -> Vec<(Lun, Arc<LogicalUnit>)> {
        let units = self.units.read().expect("no panic under the lock");
        units.iter().map(|(lun, unit)| (*lun, unit.clone())).collect()
    }

    /// Says which ports the target has in all, on every gateway. Without this each nexus knows of its own port alone.
    pub fn set_port_groups(&self, groups: Vec<PortGroup>) {
        *self.port_groups.write().expect("no panic under the lock") = groups.into();
    }

    /// Begins an I_T nexus: a session logged in. The transport has [detached](Attachment::detach) an earlier one of the
    /// same nexus before.
    pub fn attach(self: &Arc<Self>, nexus: Nexus) -> Attachment {
        let units = Arc::new(NexusUnits {
            target: self.clone(),
            registrant: Arc::new(Registrant::from(&nexus)),
            nexus: Arc::new(nexus),
            units: Mutex::default(),
        });
        let mut attachments = self.attachments.lock().expect("no panic under the lock");
        attachments.retain(|known| known.strong_count() > 0);
        attachments.push(Arc::downgrade(&units));
        Attachment(units)
    }

    /// TARGET WARM RESET and COLD RESET: a logical unit reset of every unit. Completes when no task of before can reach a
    /// device.
    pub async fn reset(&self) {
        for (_, unit) in self.units() {
            unit.reset().await;
        }
    }

    /// Nexuses stop to know the unit that had a number, and hear that the numbers changed.
    fn forget(&self, lun: Lun) {
        let attachments: Vec<_> = {
            let attachments = self.attachments.lock().expect("no panic under the lock");
            attachments.iter().filter_map(Weak::upgrade).collect()
        };
        for attachment in attachments {
            attachment.units.lock().expect("no panic under the lock").remove(&lun);
            for unit in attachment.all() {
                unit.raise(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED);
            }
        }
    }
}

impl fmt::Debug for TargetDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetDevice").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An I_T nexus attached to a target.
///
/// A transport ends it with [`detach`](Attachment::detach). Dropping it is an I_T nexus loss as well, and does the same
/// without waiting for the tasks that run: those that have not started never will.
#[derive(Debug)]
pub struct Attachment(Arc<NexusUnits>);

impl Attachment {
    /// Who, and which way in.
    pub fn nexus(&self) -> &Nexus {
        &self.0.nexus
    }

    /// The target.
    pub fn target(&self) -> &Arc<TargetDevice> {
        &self.0.target
    }

    /// Takes a command into the task set. `cdb` is the whole CDB, with an additional header segment's part; bytes beyond
    /// the length that its operation code gives are not looked at.
    pub fn task(&self, lun: LunAddress, cdb: &[u8]) -> Task {
        let state = Arc::new(TaskState::default());
        let units = self.0.clone();
        let destination = match lun {
            LunAddress::Unit(lun) => match units.unit(lun) {
                Some(unit) => {
                    unit.enter(&state);
                    Destination::Unit { units, unit }
                }
                None => Destination::Absent(units),
            },
            LunAddress::ReportLuns => Destination::ReportLuns(units),
            LunAddress::Unknown => Destination::Absent(units),
        };
        Task::new(cdb, destination, state)
    }

    /// ABORT TASK SET: aborts this nexus's tasks on a unit. Completes when none can reach the device any more.
    pub async fn abort_task_set(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        self.addressed(lun)?.abort_tasks(Aborter::OwnNexus).await;
        Ok(())
    }

    /// CLEAR TASK SET: aborts every nexus's tasks on a unit; others that had any get a unit attention. Completes when none
    /// can reach the device any more.
    pub async fn clear_task_set(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        let own = self.addressed(lun)?;
        for nexus in own.unit.nexuses() {
            if Arc::ptr_eq(&nexus, &own) {
                nexus.abort_tasks(Aborter::OwnNexus).await;
            } else if nexus.abort_tasks(Aborter::OtherNexus).await {
                nexus.raise(AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
            }
        }
        Ok(())
    }

    /// LOGICAL UNIT RESET: see [`LogicalUnit::reset`].
    pub async fn reset_unit(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        self.addressed(lun)?.unit.reset().await;
        Ok(())
    }

    /// Ends the nexus in order: aborts all its tasks, completes when none can reach a device any more, and ends its
    /// RESERVE(6)s.
    pub async fn detach(self) {
        for nexus in self.0.all() {
            nexus.abort_tasks(Aborter::OwnNexus).await;
            nexus.end_reserve6().await;
        }
    }

    fn addressed(&self, lun: LunAddress) -> Result<Arc<UnitNexus>, NoSuchUnit> {
        match lun {
            LunAddress::Unit(lun) => self.0.unit(lun).ok_or(NoSuchUnit),
            LunAddress::ReportLuns | LunAddress::Unknown => Err(NoSuchUnit),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        for nexus in self.0.all() {
            nexus.mark_aborted(Aborter::OwnNexus);
            if nexus.holds_reserve6()
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(async move { nexus.end_reserve6().await });
            }
        }
    }
}

/// A nexus and the units that it has addressed.
#[derive(Debug)]
pub(crate) struct NexusUnits {
    target: Arc<TargetDevice>,
    nexus: Arc<Nexus>,
    registrant: Arc<Registrant>,
    units: Mutex<HashMap<Lun, Arc<UnitNexus>>>,
}

impl NexusUnits {
    pub(crate) fn target(&self) -> &TargetDevice {
        &self.target
    }

    /// The ports of the target in their groups.
    pub(crate) fn port_groups(&self) -> Arc<[PortGroup]> {
        let groups = self.target.port_groups.read().expect("no panic under the lock").clone();
        if !groups.is_empty() {
            return groups;
        }
        let port = &self.nexus.target_port;
        let own = PortGroup {
            id: port.portal_group,
            state: crate::alua::AccessState::default(),
            preferred: false,
            ports: vec![port.relative_id],
        };
        Arc::new([own])
    }

    /// The group of a port; the portal group's number where it is in none.
    pub(crate) fn port_group_of(&self, port: u16) -> u16 {
        let groups = self.port_groups();
        let found = groups.iter().find(|group| group.ports.contains(&port));
        found.map_or(self.nexus.target_port.portal_group, |group| group.id)
    }

    /// Every port of the target, this nexus's among them.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let groups = self.port_groups();
        let mut ports: Vec<u16> = groups.iter().flat_map(|group| group.ports.iter().copied()).collect();
        ports.push(self.nexus.target_port.relative_id);
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// This nexus on the unit with a number.
    pub(crate) fn unit(&self, lun: Lun) -> Option<Arc<UnitNexus>> {
        let mut units = self.units.lock().expect("no panic under the lock");
        if let Some(unit) = units.get(&lun) {
            return Some(unit.clone());
        }
        let unit = Arc::new(UnitNexus {
            unit: self.target.unit(lun)?,
            nexus: self.nexus.clone(),
            attentions: Attentions::of_new_nexus(),
            copies: CopyLog::default(),
            registrant: self.registrant.clone(),
            tasks: Mutex::default(),
        });
        unit.unit.join(&unit);
        units.insert(lun, unit.clone());
        Some(unit)
    }

    fn all(&self) -> Vec<Arc<UnitNexus>> {
        self.units.lock().expect("no panic under the lock").values().cloned().collect()
    }
}

/// What one nexus has on one unit: its task set and its pending unit attentions.
#[derive(Debug)]
pub(crate) struct UnitNexus {
    pub(crate) unit: Arc<LogicalUnit>,
    pub(crate) nexus: Arc<Nexus>,
    pub(crate) attentions: Attentions,
    pub(crate) copies: CopyLog,
    registrant: Arc<Registrant>,
    tasks: Mutex<Vec<Arc<TaskState>>>,
}

impl UnitNexus {
    /// The nexus as reservations know it.
    pub(crate) fn registrant(&self) -> &Registrant {
        &self.registrant
    }

    /// Establishes a unit attention.
    pub(crate) fn raise(&self, code: AdditionalSense) {
        self.attentions.raise(code);
    }

    /// Takes a task into the task set. A copy is in the sets of all its units.
    pub(crate) fn enter(&self, task: &Arc<TaskState>) {
        self.tasks.lock().expect("no panic under the lock").push(task.clone());
    }

    pub(crate) fn leave(&self, task: &Arc<TaskState>) {
        let mut tasks = self.tasks.lock().expect("no panic under the lock");
        if let Some(at) = tasks.iter().position(|known| Arc::ptr_eq(known, task)) {
            tasks.swap_remove(at);
        }
    }

    fn mark_aborted(&self, aborter: Aborter) -> Vec<Arc<TaskState>> {
        let tasks = self.tasks.lock().expect("no panic under the lock").clone();
        tasks.into_iter().filter(|task| task.abort(aborter)).collect()
    }

    /// Aborts the tasks that are here now and waits until none can reach the device. Says whether there were any.
    pub(crate) async fn abort_tasks(&self, aborter: Aborter) -> bool {
        let tasks = self.mark_aborted(aborter);
        for task in &tasks {
            task.gone().await;
        }
        !tasks.is_empty()
    }

    /// Waits until the tasks that execute now cannot reach the device any more.
    pub(crate) async fn drain(&self) {
        let tasks = self.tasks.lock().expect("no panic under the lock").clone();
        for task in tasks {
            task.gone().await;
        }
    }

    fn holds_reserve6(&self) -> bool {
        self.unit.reservations().view().legacy_holder() == Some(self.registrant())
    }

    async fn end_reserve6(&self) {
        if self.holds_reserve6() {
            let change = Change { by: self.registrant().clone(), action: Action::NexusLost };
            self.unit.end_reserve6(change).await;
        }
    }
}

/// Where a task goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To a logical unit.
    Unit { units: Arc<NexusUnits>, unit: Arc<UnitNexus> },
    /// To the REPORT LUNS well known unit.
    ReportLuns(Arc<NexusUnits>),
    /// Nowhere.
    Absent(Arc<NexusUnits>),
}

impl Destination {
    pub(crate) fn block_bytes(&self) -> Option<u32> {
        match self {
            Destination::Unit { unit, .. } => Some(unit.unit.block_bytes()),
            Destination::ReportLuns(_) | Destination::Absent(_) => None,
        }
    }

    pub(crate) async fn execute(
        &self,
        decoded: Result<Decoded, Sense>,
        state: &Arc<TaskState>,
        data_out: DataOut,
    ) -> Response {
        match self {
            Destination::Unit { units, unit } => Job::new(units, unit, state, data_out).run(decoded).await,
            Destination::ReportLuns(units) => luns::without_unit(&units.target, decoded, true),
            Destination::Absent(units) => luns::without_unit(&units.target, decoded, false),
        }
    }

    pub(crate) fn leave(&self, state: &Arc<TaskState>) {
        if let Destination::Unit { unit, .. } = self {
            unit.leave(state);
        }
    }
}
