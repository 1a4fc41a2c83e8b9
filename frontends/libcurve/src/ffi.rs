//! The C calls: pointers and numbers to values and back. The only unsafe code, and the border that no panic crosses.
//!
//! What every call takes on trust is C's usual contract, stated once here: a pointer is null, or points to what its type
//! says for as long as the call lasts (a request and its buffer: until its callback is called); strings end with a zero.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use curve_client::mds::Entry;
use libc::{off_t, size_t};

use crate::code::Code;
use crate::file::{Outcome, Request};
use crate::flags::Opening;
use crate::names::VolumeName;
use crate::process::{GLOBAL, Process, process};

const NAME_BYTES: usize = 256;
const BLOCK_BYTES: u32 = 4096;

/// `FileStatInfo`.
#[repr(C)]
pub struct FileStat {
    id: u64,
    parent: u64,
    kind: c_int,
    length: u64,
    created_us: u64,
    name: [c_char; NAME_BYTES],
    owner: [c_char; NAME_BYTES],
    status: c_int,
    stripe_unit: u64,
    stripe_count: u64,
    block_bytes: u32,
}

/// `C_UserInfo`.
#[repr(C)]
pub struct UserInfo {
    owner: [c_char; NAME_BYTES],
    password: [c_char; NAME_BYTES],
}

/// `DirInfo`. It and all it points to are from `malloc`, so that freeing needs no number that the program may have changed.
#[repr(C)]
pub struct DirInfo {
    path: *mut c_char,
    user: *mut UserInfo,
    len: u64,
    entries: *mut FileStat,
}

/// `CurveAioContext`.
#[repr(C)]
pub struct AioContext {
    offset: off_t,
    length: size_t,
    ret: c_int,
    op: c_int,
    callback: Option<unsafe extern "C" fn(*mut AioContext)>,
    buffer: *mut c_void,
}

const _: () = assert!(size_of::<FileStat>() == 584 && size_of::<AioContext>() == 40, "as C lays them out");

/// A request that is in flight: ours until its callback is called.
struct InFlight(*mut AioContext);

// SAFETY: between submission and callback nobody else uses the request, so it may move to the callback thread.
unsafe impl Send for InFlight {}

impl InFlight {
    /// Writes the result and calls back.
    fn finish(self, outcome: Outcome) {
        // SAFETY: the request is valid and ours until its callback is called, which is below.
        let context = unsafe { &mut *self.0 };
        context.ret = match outcome {
            Ok(parts) => {
                // SAFETY: `submit` has checked that the buffer of a read is not null; it holds `length` bytes.
                unsafe { scatter(&parts, context.buffer.cast(), context.length) };
                if context.op == Op::Discard as c_int { 0 } else { context.length as c_int }
            }
            Err(code) => code.negated(),
        };
        if let Some(callback) = context.callback {
            // SAFETY: the program's own function, given its own request.
            unsafe { callback(self.0) };
        }
    }
}

/// `LIBCURVE_OP`.
#[derive(Clone, Copy)]
enum Op {
    Read,
    Write,
    Discard,
}

/// For our threads: signals are the program's, and a connection that breaks is no SIGPIPE.
pub fn leave_signals_to_others() {
    // SAFETY: a set on the stack, initialised by `sigfillset`; the mask changes for this thread only. Faults stay
    // unblocked, as POSIX leaves it undefined what a blocked one does.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT] {
            libc::sigdelset(&mut set, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// Turns what happened into a number; a panic is `INTERNAL_ERROR`.
fn number(call: impl FnOnce() -> Result<c_int, Code>) -> c_int {
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Code::Internal));
    result.unwrap_or_else(Code::negated)
}

/// The same for calls that only succeed.
fn done(call: impl FnOnce(&'static Process) -> Result<(), Code>) -> c_int {
    number(|| call(process()?).map(|()| 0))
}

/// # Safety
/// Null, or a string that outlives the result.
unsafe fn text<'a>(string: *const c_char) -> Result<&'a str, Code> {
    // SAFETY: passed on to the caller.
    unsafe { optional(string) }?.ok_or(Code::Param)
}

/// # Safety
/// Null, or a string that outlives the result.
unsafe fn optional<'a>(string: *const c_char) -> Result<Option<&'a str>, Code> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and the caller says that it ends with a zero.
    unsafe { CStr::from_ptr(string) }.to_str().map(Some).map_err(|_| Code::Param)
}

/// # Safety
/// Null, or a string.
unsafe fn named(string: *const c_char) -> Result<VolumeName, Code> {
    // SAFETY: passed on to the caller.
    unsafe { text(string) }.map(VolumeName::parse)
}

/// Copies `parts` one after the other, at most `len` bytes.
///
/// # Safety
/// `into` has room for `len` bytes, unless `parts` is empty.
unsafe fn scatter(parts: &[Bytes], into: *mut u8, len: usize) {
    let mut at = 0;
    for part in parts {
        let now = part.len().min(len - at);
        // SAFETY: `at + now <= len`; a buffer of the program never overlaps ours.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), into.add(at), now) };
        at += now;
    }
}

/// Checks the numbers of an I/O, and copies what is to be written: the buffer is the program's again after a timeout.
///
/// # Safety
/// `buffer` is null or has `length` bytes.
unsafe fn request(op: Op, offset: off_t, length: size_t, buffer: *const c_void) -> Result<Request, Code> {
    let offset = u64::try_from(offset).map_err(|_| Code::Param)?;
    if matches!(op, Op::Discard) {
        return Ok(Request::Discard { offset, len: length as u64 });
    }
    // The result is an `int`, which must hold the length.
    let len = i32::try_from(length).map_err(|_| Code::Param)?;
    if buffer.is_null() {
        return Err(Code::Param);
    }
    Ok(match op {
        Op::Read => Request::Read { offset, len: len.unsigned_abs() },
        _ => {
            // SAFETY: not null, and the caller says that it has `length` bytes.
            let data = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) };
            Request::Write { offset, data: Bytes::copy_from_slice(data) }
        }
    })
}

/// # Safety
/// As [`request`].
unsafe fn perform(fd: c_int, op: Op, offset: off_t, length: size_t, buffer: *mut c_void) -> c_int {
    number(|| {
        let process = process()?;
        // SAFETY: passed on to the caller.
        let request = unsafe { request(op, offset, length, buffer) }?;
        let parts = process.perform(fd, request)?;
        // SAFETY: only a read has parts, and `request` has refused a null buffer.
        unsafe { scatter(&parts, buffer.cast(), length) };
        Ok(if matches!(op, Op::Discard) { 0 } else { length as c_int })
    })
}

/// # Safety
/// `context` is null, or valid with its buffer until its callback is called.
unsafe fn submit(fd: c_int, op: Op, context: *mut AioContext) -> c_int {
    done(|process| {
        // SAFETY: null or valid.
        let given = unsafe { context.as_mut() }.ok_or(Code::Param)?;
        given.op = op as c_int;
        // SAFETY: the context's buffer has its length.
        let request = unsafe { request(op, given.offset, given.length, given.buffer) }?;
        let in_flight = InFlight(context);
        process.submit(fd, request, move |outcome| in_flight.finish(outcome))
    })
}

/// An empty `FileStatInfo` with a name.
fn blank(name: &str) -> FileStat {
    let mut buffer = [0; NAME_BYTES];
    for (to, from) in buffer.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
        *to = from as c_char;
    }
    FileStat {
        id: 0,
        parent: 0,
        kind: 0,
        length: 0,
        created_us: 0,
        name: buffer,
        owner: [0; NAME_BYTES],
        status: 0,
        stripe_unit: 0,
        stripe_count: 0,
        block_bytes: BLOCK_BYTES,
    }
}

fn describe(entry: &Entry) -> FileStat {
    let mut stat = blank(&entry.name);
    if let Some(volume) = &entry.volume {
        stat.kind = 1;
        stat.id = volume.id.get();
        stat.length = volume.size;
        stat.created_us = volume.created_at_ms.saturating_mul(1000);
    }
    stat
}

/// # Safety
/// `into` is null or has room for one.
unsafe fn stat_into(process: &Process, client: c_int, path: &str, into: *mut FileStat) -> Result<(), Code> {
    if into.is_null() {
        return Err(Code::Param);
    }
    let stat = describe(&process.stat(client, path)?);
    // SAFETY: not null, with room for one.
    unsafe { into.write(stat) };
    Ok(())
}

/// Defines C calls whose body is a closure over the process that returns `Result<(), Code>`.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) |$process:ident| $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// See the module.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, unused_unsafe, reason = "the original's names; some bodies only pass numbers on")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
                // SAFETY: the module's contract, which the bodies pass on.
                done(|$process| unsafe { $body })
            }
        )*
    };
}

/// Defines C calls that return what their body does.
macro_rules! plain_calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// See the module.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, unused_unsafe, reason = "the original's names; some bodies only pass numbers on")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                // SAFETY: the module's contract, which the bodies pass on.
                unsafe { $body }
            }
        )*
    };
}

calls! {
    /// Starts with a configuration file.
    Init(path: *const c_char) |process| { process.init(optional(path)?) }
    /// The same.
    GlobalInit(path: *const c_char) |process| { process.init(optional(path)?) }
    /// Closes a file once nothing of it is in flight.
    Close(fd: c_int) |process| { process.close(fd) }
    /// Makes a volume.
    Create(name: *const c_char, _user: *const UserInfo, size: size_t) |process| {
        let path = text(name)?;
        process.control(GLOBAL, async |cluster| {
            Ok(cluster.mds().create_volume(path, size as u64).await.map(drop)?)
        })
    }
    /// Renames a volume or a directory.
    Rename(_user: *const UserInfo, from: *const c_char, to: *const c_char) |process| {
        let (from, to) = (text(from)?, text(to)?);
        process.control(GLOBAL, async |cluster| Ok(cluster.mds().rename(from, to).await?))
    }
    /// Grows a volume.
    Extend(name: *const c_char, _user: *const UserInfo, size: u64) |process| {
        process.extend(GLOBAL, text(name)?, size)
    }
    /// Grows a volume.
    Extend4Qemu(name: *const c_char, size: i64) |process| {
        process.extend(GLOBAL, &named(name)?.path, u64::try_from(size).map_err(|_| Code::Param)?)
    }
    /// Deletes a volume.
    Unlink(name: *const c_char, _user: *const UserInfo) |process| {
        process.delete(GLOBAL, text(name)?, false)
    }
    /// Deletes a volume. There is no recycle bin, so it is `Unlink`.
    DeleteForce(name: *const c_char, _user: *const UserInfo) |process| {
        process.delete(GLOBAL, text(name)?, false)
    }
    /// Not supported: there is no recycle bin.
    Recover(_name: *const c_char, _user: *const UserInfo, _id: u64) |_process| { Err(Code::NotSupport) }
    /// Not supported: there are no owners.
    ChangeOwner(_name: *const c_char, _owner: *const c_char, _user: *const UserInfo) |_process| {
        Err(Code::NotSupport)
    }
    /// Describes a volume or a directory.
    StatFile(name: *const c_char, _user: *const UserInfo, into: *mut FileStat) |process| {
        stat_into(process, GLOBAL, text(name)?, into)
    }
    /// Describes a volume or a directory.
    StatFile4Qemu(name: *const c_char, into: *mut FileStat) |process| {
        stat_into(process, GLOBAL, &named(name)?.path, into)
    }
    /// Makes a directory.
    Mkdir(name: *const c_char, _user: *const UserInfo) |process| {
        let path = text(name)?;
        process.control(GLOBAL, async |cluster| Ok(cluster.mds().make_directory(path, false).await?))
    }
    /// Deletes an empty directory.
    Rmdir(name: *const c_char, _user: *const UserInfo) |process| {
        process.delete(GLOBAL, text(name)?, true)
    }
    /// Shuts out the other writers.
    IncreaseEpoch(name: *const c_char) |process| { process.shut_out_others(GLOBAL, &named(name)?.path) }
    /// Writes the cluster's name.
    GetClusterId(buffer: *mut c_char, len: c_int) |process| {
        let name = process.control(GLOBAL, async |cluster| Ok(cluster.mds().status().await?.cluster))?;
        if buffer.is_null() || usize::try_from(len).map_or(true, |len| len <= name.len()) {
            return Err(Code::Param);
        }
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), buffer, name.len());
        buffer.add(name.len()).write(0);
        Ok(())
    }
    /// Fills `dirSize` and `fileStat`.
    Listdir(directory: *mut DirInfo) |process| {
        let directory = directory.as_mut().ok_or(Code::Param)?;
        let path = text(directory.path)?;
        let listed = process.control(GLOBAL, async |cluster| Ok(cluster.mds().list(path).await?))?;
        let entries = libc::calloc(listed.len().max(1), size_of::<FileStat>()).cast::<FileStat>();
        if entries.is_null() {
            return Err(Code::Internal);
        }
        for (at, entry) in listed.iter().enumerate() {
            entries.add(at).write(describe(entry));
        }
        libc::free(directory.entries.cast());
        directory.entries = entries;
        directory.len = listed.len() as u64;
        Ok(())
    }
    /// Grows a volume.
    LibCurveClientExtend(client: c_int, name: *const c_char, size: i64) |process| {
        process.extend(client, &named(name)?.path, u64::try_from(size).map_err(|_| Code::Param)?)
    }
    /// Describes a volume or a directory.
    LibCurveClientStat(client: c_int, name: *const c_char, into: *mut FileStat) |process| {
        stat_into(process, client, &named(name)?.path, into)
    }
    /// Shuts out the other writers.
    LibCurveClientIncreaseEpoch(client: c_int, name: *const c_char) |process| {
        process.shut_out_others(client, &named(name)?.path)
    }
    /// Describes an open file, from what is known here.
    LibCurveStatFd(fd: c_int, into: *mut FileStat) |process| {
        if into.is_null() {
            return Err(Code::Param);
        }
        let (file, shape) = process.stat_open(fd)?;
        let mut stat = blank(file.path.rsplit('/').next().unwrap_or_default());
        stat.kind = 1;
        stat.id = file.volume.id().get();
        stat.length = shape.size;
        stat.block_bytes = shape.block_min;
        into.write(stat);
        Ok(())
    }
}

plain_calls! {
    /// Waits for what is in flight and closes every file.
    UnInit() -> () {
        let _ = done(|process| {
            process.end_client(GLOBAL);
            Ok(())
        });
    }
    /// The same.
    GlobalUnInit() -> () { UnInit() }
    /// Opens a volume alone.
    Open(name: *const c_char, user: *const UserInfo) -> c_int { Open2(name, user, Opening::DEFAULT_FLAGS) }
    /// Opens a volume.
    Open2(name: *const c_char, _user: *const UserInfo, flags: c_int) -> c_int {
        number(|| process()?.open(GLOBAL, text(name)?, Opening::parse(flags, false)?, None))
    }
    /// Opens a volume alone.
    Open4Qemu(name: *const c_char) -> c_int {
        number(|| {
            let name = named(name)?;
            let opening = Opening::parse(Opening::DEFAULT_FLAGS, false)?;
            process()?.open(GLOBAL, &name.path, opening, name.config.as_deref())
        })
    }
    /// Reads.
    Read(fd: c_int, buffer: *mut c_char, offset: off_t, length: size_t) -> c_int {
        perform(fd, Op::Read, offset, length, buffer.cast())
    }
    /// Writes.
    Write(fd: c_int, buffer: *const c_char, offset: off_t, length: size_t) -> c_int {
        perform(fd, Op::Write, offset, length, buffer.cast_mut().cast())
    }
    /// Gives a range back.
    Discard(fd: c_int, offset: off_t, length: size_t) -> c_int {
        perform(fd, Op::Discard, offset, length, std::ptr::null_mut())
    }
    /// Begins a read.
    AioRead(fd: c_int, context: *mut AioContext) -> c_int { submit(fd, Op::Read, context) }
    /// Begins a write.
    AioWrite(fd: c_int, context: *mut AioContext) -> c_int { submit(fd, Op::Write, context) }
    /// Begins a discard.
    AioDiscard(fd: c_int, context: *mut AioContext) -> c_int { submit(fd, Op::Discard, context) }
    /// The name of an error.
    LibCurveErrorName(error: c_int) -> *const c_char { Code::of(error).unwrap_or(Code::Unknown).c_name().as_ptr() }
    /// Makes one more client.
    LibCurveClientNew(config: *const c_char) -> c_int { number(|| process()?.new_client(optional(config)?)) }
    /// Ends a client and closes its files.
    LibCurveClientEnd(client: c_int) -> () {
        let _ = done(|process| {
            process.end_client(client);
            Ok(())
        });
    }
    /// Opens a volume of a client.
    LibCurveClientOpen(
        client: c_int,
        name: *const c_char,
        config: *const c_char,
        flags: c_int,
        reopen: c_int
    ) -> c_int {
        number(|| {
            let name = named(name)?;
            let config = optional(config)?.filter(|config| !config.is_empty()).or(name.config.as_deref());
            process()?.open(client, &name.path, Opening::parse(flags, reopen != 0)?, config)
        })
    }
    /// A directory to list; null if there is none of that name.
    OpenDir(name: *const c_char, user: *const UserInfo) -> *mut DirInfo {
        let found = done(|process| match process.stat(GLOBAL, text(name)?)?.volume {
            Some(_) => Err(Code::Param),
            None => Ok(()),
        });
        if found < 0 {
            return std::ptr::null_mut();
        }
        let directory = libc::calloc(1, size_of::<DirInfo>()).cast::<DirInfo>();
        if let Some(new) = directory.as_mut() {
            new.path = libc::strdup(name);
            if !user.is_null() {
                new.user = libc::malloc(size_of::<UserInfo>()).cast();
                if !new.user.is_null() {
                    std::ptr::copy_nonoverlapping(user, new.user, 1);
                }
            }
        }
        directory
    }
    /// Frees what `OpenDir` returned.
    CloseDir(directory: *mut DirInfo) -> () {
        if let Some(old) = directory.as_mut() {
            libc::free(old.path.cast());
            libc::free(old.user.cast());
            libc::free(old.entries.cast());
            libc::free(directory.cast());
        }
    }
}
