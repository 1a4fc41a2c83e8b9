//! The library's one instance in a process: its runtime, its clients and open files, its callback thread.
//!
//! Threads do not survive `fork`, and locks that they held stay locked. So the first use writes down the process id before
//! anything else, and every call compares it before it touches a lock: a child is refused, and its parent goes on.
//!
//! The table is shared between threads that we did not make, so it is a map behind a mutex and has no owning task. The
//! mutex is never held while anything is waited for.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use curve_blockdev::{BlockDevice, DeviceShape};
use curve_client::mds::Entry;
use curve_client::{ClientError, Cluster};
use curve_types::ClientId;
use futures::FutureExt;
use tokio::runtime::Runtime;

use crate::code::Code;
use crate::file::{File, Outcome, Request};
use crate::flags::Opening;
use crate::settings;

/// How long shutting somebody out may take.
const SHUT_OUT_MAX: Duration = Duration::from_secs(30);

/// The client that `Init` makes and the C calls use.
pub const GLOBAL: i32 = 0;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Table {
    clients: HashMap<i32, Arc<Cluster>>,
    files: HashMap<i32, Arc<File>>,
    last: i32,
}

impl Table {
    /// A number that is not in use.
    fn number(&mut self) -> i32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.files.contains_key(&self.last) && !self.clients.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

/// The instance. See the module.
pub struct Process {
    runtime: Runtime,
    table: Mutex<Table>,
    callbacks: Mutex<Sender<Job>>,
    callback_thread: ThreadId,
}

static OWNER: AtomicU32 = AtomicU32::new(0);
static INSTANCE: OnceLock<Result<Process, Code>> = OnceLock::new();

/// This process's instance, made at first use. A child of a process that has one gets `DISABLEIO`.
pub fn process() -> Result<&'static Process, Code> {
    let own = std::process::id();
    let owner = OWNER.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire);
    if owner.is_err_and(|owner| owner != own) {
        return Err(Code::DisableIo);
    }
    INSTANCE.get_or_init(Process::start).as_ref().map_err(|code| *code)
}

impl Process {
    fn start() -> Result<Self, Code> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("libcurve")
            .on_thread_start(crate::ffi::leave_signals_to_others)
            .enable_all()
            .build()
            .map_err(|_| Code::Internal)?;
        let (callbacks, jobs) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("libcurve-cb".into())
            .spawn(move || {
                crate::ffi::leave_signals_to_others();
                jobs.iter().for_each(|job| job());
            })
            .map_err(|_| Code::Internal)?;
        let callback_thread = thread.thread().id();
        Ok(Self { runtime, table: Mutex::default(), callbacks: Mutex::new(callbacks), callback_thread })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_callback(&self) -> bool {
        std::thread::current().id() == self.callback_thread
    }

    fn connect(&self, config: Option<&str>) -> Result<Arc<Cluster>, Code> {
        let config = settings::load(config)?;
        Ok(Arc::new(self.runtime.block_on(Cluster::connect(&config))?))
    }

    /// Makes the global client, unless there is one.
    pub fn init(&self, config: Option<&str>) -> Result<(), Code> {
        if self.table().clients.contains_key(&GLOBAL) {
            return Ok(());
        }
        let cluster = self.connect(config)?;
        self.table().clients.entry(GLOBAL).or_insert(cluster);
        Ok(())
    }

    /// Makes one more client.
    pub fn new_client(&self, config: Option<&str>) -> Result<i32, Code> {
        let cluster = self.connect(config)?;
        let mut table = self.table();
        let client = table.number();
        table.clients.insert(client, cluster);
        Ok(client)
    }

    /// Ends a client and gives up its files once nothing of them is in flight. One that is not there is no error.
    pub fn end_client(&self, client: i32) {
        let mut table = self.table();
        table.clients.remove(&client);
        let numbers: Vec<i32> =
            table.files.iter().filter(|(_, file)| file.client == client).map(|(fd, _)| *fd).collect();
        let files: Vec<_> = numbers.iter().filter_map(|fd| table.files.remove(fd)).collect();
        drop(table);
        for file in files {
            // There is nobody to tell; the lease then ends by itself.
            let _ = self.give_up(&file);
        }
    }

    fn give_up(&self, file: &File) -> Result<(), Code> {
        file.wait(self.in_callback());
        self.runtime.block_on(file.close())
    }

    fn cluster(&self, client: i32) -> Result<Arc<Cluster>, Code> {
        self.table().clients.get(&client).cloned().ok_or(Code::Failed)
    }

    fn file(&self, fd: i32) -> Result<Arc<File>, Code> {
        self.table().files.get(&fd).cloned().ok_or(Code::BadFd)
    }

    /// Opens a volume; `config` names another cluster than the client's.
    pub fn open(&self, client: i32, path: &str, opening: Opening, config: Option<&str>) -> Result<i32, Code> {
        let own = self.cluster(client)?;
        let cluster = match config.filter(|config| !config.is_empty()) {
            Some(config) => self.connect(Some(config))?,
            None => own,
        };
        let volume = self.runtime.block_on(cluster.open(path, opening.0))?;
        let file = Arc::new(File::new(client, path.to_owned(), volume, cluster, opening.0));
        let mut table = self.table();
        if !table.clients.contains_key(&client) {
            drop(table);
            self.give_up(&file)?;
            return Err(Code::Failed);
        }
        let fd = table.number();
        table.files.insert(fd, file);
        Ok(fd)
    }

    /// Gives a file up once nothing of it is in flight.
    pub fn close(&self, fd: i32) -> Result<(), Code> {
        let file = self.table().files.remove(&fd).ok_or(Code::BadFd)?;
        self.give_up(&file)
    }

    /// Does an I/O and waits for it.
    pub fn perform(&self, fd: i32, request: Request) -> Outcome {
        let (file, flight) = self.begin(fd, &request)?;
        // On our thread: a write to a connection that broke would raise SIGPIPE on the caller's.
        let running = self.runtime.spawn(async move { file.run(request).await });
        let outcome = self.runtime.block_on(running).unwrap_or(Err(Code::Internal));
        drop(flight);
        outcome
    }

    /// Begins an I/O; `done` is called on the callback thread, unless this returns an error.
    pub fn submit(
        &self,
        fd: i32,
        request: Request,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<(), Code> {
        let (file, mut flight) = self.begin(fd, &request)?;
        let callbacks = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.runtime.spawn(async move {
            let outcome = AssertUnwindSafe(file.run(request)).catch_unwind().await;
            flight.answered();
            let job = Box::new(move || {
                done(outcome.unwrap_or(Err(Code::Internal)));
                drop(flight);
            });
            callbacks.send(job).expect("the callback thread never ends");
        });
        Ok(())
    }

    /// Counts an I/O as in flight. Under the table's lock, so that a close before or after it sees it or refuses it.
    fn begin(&self, fd: i32, request: &Request) -> Result<(Arc<File>, crate::file::Flight), Code> {
        let table = self.table();
        let file = Arc::clone(table.files.get(&fd).ok_or(Code::BadFd)?);
        file.check(request)?;
        let flight = file.begin();
        Ok((file, flight))
    }

    /// Makes a control call.
    pub fn control<T>(
        &self,
        client: i32,
        call: impl AsyncFnOnce(&Cluster) -> Result<T, ClientError>,
    ) -> Result<T, Code> {
        let cluster = self.cluster(client)?;
        Ok(self.runtime.block_on(call(&cluster))?)
    }

    /// What a path names.
    pub fn stat(&self, client: i32, path: &str) -> Result<Entry, Code> {
        self.control(client, async |cluster| Ok(cluster.mds().stat(path).await?))
    }

    /// What an open file is.
    pub fn stat_open(&self, fd: i32) -> Result<(Arc<File>, DeviceShape), Code> {
        let file = self.file(fd)?;
        let shape = file.volume.shape();
        Ok((file, shape))
    }

    /// Grows a volume.
    pub fn extend(&self, client: i32, path: &str, size: u64) -> Result<(), Code> {
        let resized =
            self.control(client, async |cluster| Ok(cluster.mds().resize(path, size).await.map(drop)?));
        if resized != Err(Code::Length) {
            return resized;
        }
        let volume = self.stat(client, path)?.volume;
        Err(if volume.is_some_and(|volume| size < volume.size) { Code::NoShrink } else { Code::Length })
    }

    /// Deletes a volume, or an empty directory; never one for the other.
    pub fn delete(&self, client: i32, path: &str, directory: bool) -> Result<(), Code> {
        self.control(client, async |cluster| {
            if cluster.mds().stat(path).await?.volume.is_none() != directory {
                return Ok(Err(Code::Param));
            }
            cluster.mds().delete(path).await?;
            Ok(Ok(()))
        })?
    }

    /// Shuts out everybody else who may write: when this returns, nothing of theirs lands any more.
    pub fn shut_out_others(&self, client: i32, path: &str) -> Result<(), Code> {
        let own: Vec<ClientId> = self.table().files.values().map(|file| file.volume.client()).collect();
        self.control(client, async |cluster| {
            let holders = cluster.mds().stat(path).await?.holders;
            let others = holders
                .iter()
                .filter(|holder| holder.mode.writes() && !own.contains(&holder.client))
                .map(|holder| holder.client)
                .collect::<Vec<_>>();
            if !others.is_empty() {
                cluster.mds().break_sessions(path, &others, SHUT_OUT_MAX).await?;
            }
            Ok(())
        })
    }
}
