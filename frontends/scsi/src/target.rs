//! A target device: its logical units, and the nexuses attached to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use crate::lun::{Lun, LunAddress};
use crate::nexus::Nexus;
use crate::sense::{AdditionalSense, Sense, SenseFormat};
use crate::status::{Response, Status};
use crate::task::{Aborter, Ended, Task, TaskState};
use crate::unit::LogicalUnit;

/// Unit attentions kept for one nexus and unit; the oldest goes first (SAM-5 5.14: the count is ours to choose).
const ATTENTIONS_MAX: usize = 16;

/// An iSCSI target: a name, logical units by number, and the nexuses attached now.
#[derive(Debug)]
pub struct TargetDevice {
    name: String,
    units: Mutex<BTreeMap<Lun, Arc<LogicalUnit>>>,
    attachments: Mutex<Vec<Weak<NexusUnits>>>,
}

/// No logical unit has the number: FUNCTION COMPLETE is not the answer, LUN DOES NOT EXIST is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchUnit;

impl TargetDevice {
    /// A target without units.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), units: Mutex::default(), attachments: Mutex::default() })
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives a unit a number; attached nexuses are told that the units changed. Returns the unit that had the number.
    pub fn insert(&self, lun: Lun, unit: Arc<LogicalUnit>) -> Option<Arc<LogicalUnit>> {
        let before = self.units.lock().expect("no panic under the lock").insert(lun, unit);
        self.luns_changed();
        before
    }

    /// Takes a unit away; attached nexuses are told that the units changed. Its running tasks run on.
    pub fn remove(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        let removed = self.units.lock().expect("no panic under the lock").remove(&lun);
        for attachment in self.attachments() {
            attachment.forget(lun);
        }
        self.luns_changed();
        removed
    }

    /// The unit with a number.
    pub fn unit(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        self.units.lock().expect("no panic under the lock").get(&lun).cloned()
    }

    /// All units by number.
    pub fn units(&self) -> Vec<(Lun, Arc<LogicalUnit>)> {
        let units = self.units.lock().expect("no panic under the lock");
        units.iter().map(|(lun, unit)| (*lun, unit.clone())).collect()
    }

    /// Begins an I_T nexus: a session logged in. The transport has ended an earlier one of the same name before.
    pub fn attach(self: &Arc<Self>, nexus: Nexus) -> Attachment {
        let units =
            Arc::new(NexusUnits { target: self.clone(), nexus: Arc::new(nexus), units: Mutex::default() });
        let mut attachments = self.attachments.lock().expect("no panic under the lock");
        attachments.retain(|known| known.strong_count() > 0);
        attachments.push(Arc::downgrade(&units));
        Attachment(units)
    }

    /// TARGET WARM RESET: a logical unit reset of every unit. Completes when no task of before can reach a device.
    pub async fn reset(&self) {
        for (_, unit) in self.units() {
            reset_unit(&unit).await;
        }
    }

    fn attachments(&self) -> Vec<Arc<NexusUnits>> {
        let attachments = self.attachments.lock().expect("no panic under the lock");
        attachments.iter().filter_map(Weak::upgrade).collect()
    }

    fn luns_changed(&self) {
        for attachment in self.attachments() {
            attachment.for_each(|unit| unit.raise(AdditionalSense::REPORTED_LUNS_DATA_HAS_CHANGED));
        }
    }
}

/// An I_T nexus attached to a target. Dropping it is an I_T nexus loss: tasks that have not started never will.
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
        let destination = match lun {
            LunAddress::Unit(lun) => match self.0.unit(lun) {
                Some(unit) => {
                    unit.enter(&state);
                    Destination::Unit(unit)
                }
                None => Destination::Absent(self.0.clone()),
            },
            LunAddress::ReportLuns => Destination::ReportLuns(self.0.clone()),
            LunAddress::Unknown => Destination::Absent(self.0.clone()),
        };
        Task::new(cdb.to_vec(), destination, state)
    }

    /// ABORT TASK SET: aborts this nexus's tasks on a unit. Completes when none can reach the device any more.
    pub async fn abort_task_set(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        self.addressed(lun)?.abort_tasks(Aborter::OwnNexus).await;
        Ok(())
    }

    /// CLEAR TASK SET: aborts every nexus's tasks on a unit; the others get a unit attention. Completes when none can reach
    /// the device any more.
    pub async fn clear_task_set(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        let own = self.addressed(lun)?;
        for unit in own.unit.nexuses() {
            if Arc::ptr_eq(&unit, &own) {
                unit.abort_tasks(Aborter::OwnNexus).await;
            } else if unit.abort_tasks(Aborter::OtherNexus).await {
                unit.raise(AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
            }
        }
        Ok(())
    }

    /// LOGICAL UNIT RESET: aborts every nexus's tasks on a unit, drops an untransferable reservation, takes mode parameters
    /// back, and tells every nexus. Completes when none of the tasks can reach the device any more.
    pub async fn reset_unit(&self, lun: LunAddress) -> Result<(), NoSuchUnit> {
        reset_unit(&self.addressed(lun)?.unit).await;
        Ok(())
    }

    /// Ends the nexus in order: aborts all its tasks and completes when none can reach a device any more.
    pub async fn detach(self) {
        for unit in self.0.all() {
            unit.abort_tasks(Aborter::OwnNexus).await;
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
        for unit in self.0.all() {
            unit.mark_aborted(Aborter::OwnNexus);
        }
    }
}

/// A nexus and the units that it has addressed.
#[derive(Debug)]
pub(crate) struct NexusUnits {
    target: Arc<TargetDevice>,
    nexus: Arc<Nexus>,
    units: Mutex<HashMap<Lun, Arc<UnitNexus>>>,
}

impl NexusUnits {
    fn unit(&self, lun: Lun) -> Option<Arc<UnitNexus>> {
        let mut units = self.units.lock().expect("no panic under the lock");
        if let Some(unit) = units.get(&lun) {
            return Some(unit.clone());
        }
        let unit = Arc::new(UnitNexus::new(self.target.unit(lun)?, self.nexus.clone()));
        unit.unit.join(&unit);
        units.insert(lun, unit.clone());
        Some(unit)
    }

    fn all(&self) -> Vec<Arc<UnitNexus>> {
        self.units.lock().expect("no panic under the lock").values().cloned().collect()
    }

    fn for_each(&self, act: impl Fn(&UnitNexus)) {
        self.all().iter().for_each(|unit| act(unit));
    }

    fn forget(&self, lun: Lun) {
        self.units.lock().expect("no panic under the lock").remove(&lun);
    }
}

/// What one nexus has on one unit: its task set and its pending unit attentions.
#[derive(Debug)]
pub(crate) struct UnitNexus {
    pub(crate) unit: Arc<LogicalUnit>,
    #[expect(dead_code, reason = "reservations will ask")]
    pub(crate) nexus: Arc<Nexus>,
    attentions: Mutex<VecDeque<AdditionalSense>>,
    tasks: Mutex<Vec<Arc<TaskState>>>,
}

impl UnitNexus {
    fn new(unit: Arc<LogicalUnit>, nexus: Arc<Nexus>) -> Self {
        let attentions = Mutex::new(VecDeque::from([AdditionalSense::POWER_ON_OR_RESET]));
        Self { unit, nexus, attentions, tasks: Mutex::default() }
    }

    /// Establishes a unit attention; one that is pending already is not doubled.
    pub(crate) fn raise(&self, attention: AdditionalSense) {
        let mut attentions = self.attentions.lock().expect("no panic under the lock");
        if !attentions.contains(&attention) {
            if attentions.len() == ATTENTIONS_MAX {
                attentions.pop_front();
            }
            attentions.push_back(attention);
        }
    }

    fn enter(&self, task: &Arc<TaskState>) {
        self.tasks.lock().expect("no panic under the lock").push(task.clone());
    }

    fn leave(&self, task: &Arc<TaskState>) {
        self.tasks.lock().expect("no panic under the lock").retain(|known| !Arc::ptr_eq(known, task));
    }

    fn mark_aborted(&self, aborter: Aborter) -> Vec<Arc<TaskState>> {
        let tasks = self.tasks.lock().expect("no panic under the lock").clone();
        tasks.into_iter().filter(|task| task.abort(aborter)).collect()
    }

    /// Aborts the tasks that are here now and waits until none can reach the device. Says whether there were any.
    async fn abort_tasks(&self, aborter: Aborter) -> bool {
        let tasks = self.mark_aborted(aborter);
        for task in &tasks {
            task.gone().await;
        }
        !tasks.is_empty()
    }
}

async fn reset_unit(unit: &Arc<LogicalUnit>) {
    for nexus in unit.nexuses() {
        nexus.abort_tasks(Aborter::OwnNexus).await;
        nexus.raise(AdditionalSense::BUS_DEVICE_RESET);
    }
}

/// Where a task goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To a logical unit.
    Unit(Arc<UnitNexus>),
    /// To the REPORT LUNS well known unit.
    #[expect(dead_code, reason = "REPORT LUNS will list them")]
    ReportLuns(Arc<NexusUnits>),
    /// Nowhere.
    #[expect(dead_code, reason = "REPORT LUNS will list them")]
    Absent(Arc<NexusUnits>),
}

impl Destination {
    pub(crate) fn data_out_len(&self, _cdb: &[u8]) -> u64 {
        0
    }

    pub(crate) async fn execute(&self, cdb: &[u8], data_out: Vec<Bytes>) -> Response {
        match self {
            Destination::Unit(unit) => unit.unit.execute(unit, cdb, data_out).await,
            Destination::ReportLuns(_) | Destination::Absent(_) => {
                let sense = Sense::illegal(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
                Response::check(&sense, SenseFormat::Fixed)
            }
        }
    }

    pub(crate) fn leave(&self, state: &Arc<TaskState>) {
        if let Destination::Unit(unit) = self {
            unit.leave(state);
        }
    }

    /// What the initiator hears of an aborted task.
    pub(crate) fn aborted_answer(&self, by_another: bool) -> Ended {
        if by_another { Ended::Completed(Response::status(Status::TaskAborted)) } else { Ended::Aborted }
    }
}
