//! The commands of the kernel's NBD driver. Source: `linux/nbd-netlink.h`, `drivers/block/nbd.c`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use thiserror::Error;

use super::genl::{Answer, Request, find, next_answer};

/// The controller, which knows the numbers of the families.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
/// Within `SOCKETS` an item for each, within an item its file descriptor.
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// How long the driver may take for a command. Disconnecting waits for what is under way.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The shortest `TIMEOUT` there is, in seconds. That there is one is what counts: see [`Driver::expect_another`].
const SHORT_TIMEOUT_S: u64 = 1;
/// "For ever", in seconds that the kernel can still multiply by its clock's rate.
const FOR_EVER_S: u64 = 1 << 31;

/// Why the driver does not do what it was asked.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The module is not there.
    #[error(
        "the kernel has no NBD driver here; run `modprobe nbd`, or use `curve-nbd serve`, which needs none"
    )]
    Missing,
    /// Not root.
    #[error("only root may attach block devices")]
    NotPermitted,
    /// The device is somebody's.
    #[error("the device is in use; choose another --device, or none to take a free one")]
    Busy,
    /// There is no such device, or nothing is attached to it.
    #[error("nothing is attached to this device")]
    NotAttached,
    /// The old socket is not known to be dead yet.
    #[error("the driver still has a living connection")]
    Alive,
    /// Anything else.
    #[error("the kernel's NBD driver: {0}")]
    System(#[from] io::Error),
}

fn refused(errno: i32) -> DriverError {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(errno) {
        Errno::PERM | Errno::ACCESS => DriverError::NotPermitted,
        Errno::BUSY => DriverError::Busy,
        Errno::NODEV | Errno::NOTCONN => DriverError::NotAttached,
        Errno::NOSPC => DriverError::Alive,
        other => DriverError::System(other.into()),
    }
}

fn reconfigure_refused(errno: i32) -> DriverError {
    match refused(errno) {
        // What it says to somebody who reconfigures what is not attached.
        DriverError::System(error) if error.kind() == io::ErrorKind::InvalidInput => DriverError::NotAttached,
        other => other,
    }
}

/// What the driver is to know of a device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Bytes.
    pub size: u64,
    /// Smallest unit that may be addressed.
    pub block: u32,
    /// `NBD_FLAG_…` of the protocol.
    pub flags: u16,
    /// How long requests wait while there is no connection; `None`: for ever.
    pub dead_timeout: Option<Duration>,
    /// Shown in sysfs; who reattaches must give the same.
    pub backend: String,
}

/// The driver.
pub struct Driver {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Driver {
    /// Finds it.
    pub fn open() -> Result<Self, DriverError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::GENERIC))
            .map_err(io::Error::from)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(io::Error::from)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_MAX)).map_err(io::Error::from)?;
        let mut driver = Self { socket, family: 0, sequence: 0 };
        let mut request = driver.request_to(CONTROLLER, GET_FAMILY);
        request.attribute(FAMILY_NAME, b"nbd\0");
        match driver.ask(request, FAMILY_ID)? {
            Ok(found) => {
                driver.family = found.and_then(|id| id.try_into().ok().map(u16::from_ne_bytes)).unwrap_or(0);
            }
            Err(_) => return Err(DriverError::Missing),
        }
        if driver.family == 0 { Err(DriverError::Missing) } else { Ok(driver) }
    }

    /// Attaches a device, a free one if no number is given, and says which it is. The driver keeps its own reference to
    /// the socket.
    pub fn connect(
        &mut self,
        index: Option<u32>,
        device: &Device,
        socket: BorrowedFd<'_>,
    ) -> Result<u32, DriverError> {
        let mut request = self.request_to(self.family, CONNECT);
        if let Some(index) = index {
            request.attribute(INDEX, &index.to_ne_bytes());
        }
        describe(&mut request, device, Some(socket));
        let found = self.ask(request, INDEX)?.map_err(refused)?;
        let found = found.and_then(|index| index.try_into().ok()).map(u32::from_ne_bytes);
        found.or(index).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData).into())
    }

    /// Has the driver take what was under way on a dead socket back as soon as its timer looks at it, so that it goes on at
    /// the moment in which [`Driver::reconnect`] gives the next socket. Without this the driver only notes that there is no
    /// answer, and looks again after a time ([`super::sysfs::IO_TIMEOUT`]) and a second. The process that held the socket
    /// must be on its way out: a living socket would be given up, too.
    pub fn expect_another(&mut self, index: u32, backend: &str) -> Result<(), DriverError> {
        let mut request = self.request_to(self.family, RECONFIGURE);
        request.attribute(INDEX, &index.to_ne_bytes()).attribute(TIMEOUT, &SHORT_TIMEOUT_S.to_ne_bytes());
        request.attribute(BACKEND_IDENTIFIER, &[backend.as_bytes(), b"\0"].concat());
        self.ask(request, INDEX)?.map(drop).map_err(reconfigure_refused)
    }

    /// Gives an attached device a new socket in place of one that is dead.
    pub fn reconnect(
        &mut self,
        index: u32,
        device: &Device,
        socket: BorrowedFd<'_>,
    ) -> Result<(), DriverError> {
        self.reconfigure(index, device, Some(socket))
    }

    /// Tells the driver of a new size.
    pub fn resize(&mut self, index: u32, device: &Device) -> Result<(), DriverError> {
        self.reconfigure(index, device, None)
    }

    fn reconfigure(
        &mut self,
        index: u32,
        device: &Device,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<(), DriverError> {
        let mut request = self.request_to(self.family, RECONFIGURE);
        request.attribute(INDEX, &index.to_ne_bytes());
        describe(&mut request, device, socket);
        self.ask(request, INDEX)?.map(drop).map_err(reconfigure_refused)
    }

    /// Detaches a device. Requests that wait fail.
    pub fn disconnect(&mut self, index: u32) -> Result<(), DriverError> {
        let mut request = self.request_to(self.family, DISCONNECT);
        request.attribute(INDEX, &index.to_ne_bytes());
        self.ask(request, INDEX)?.map(drop).map_err(refused)
    }

    fn request_to(&mut self, family: u16, command: u8) -> Request {
        self.sequence += 1;
        Request::new(family, command, self.sequence)
    }

    /// Sends a request and waits for its outcome: the attribute `wanted` of what was found, or an errno.
    fn ask(&mut self, request: Request, wanted: u16) -> io::Result<Result<Option<Vec<u8>>, i32>> {
        send(&self.socket, &request.finish(), SendFlags::empty())?;
        let mut value = None;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (len, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut datagram = &buffer[..len];
            while let Some(answer) = next_answer(&mut datagram)? {
                match answer {
                    Answer::Outcome { sequence, errno } if sequence == self.sequence => {
                        return Ok(if errno == 0 { Ok(value) } else { Err(errno) });
                    }
                    Answer::Found { sequence, attributes } if sequence == self.sequence => {
                        value = find(attributes, wanted)?.map(<[u8]>::to_vec).or(value);
                    }
                    // Of an earlier request that was given up.
                    _ => {}
                }
            }
        }
    }
}

fn describe(request: &mut Request, device: &Device, socket: Option<BorrowedFd<'_>>) {
    let dead_timeout = device.dead_timeout.map_or(FOR_EVER_S, |timeout| timeout.as_secs().max(1));
    request
        .attribute(SIZE_BYTES, &device.size.to_ne_bytes())
        .attribute(BLOCK_SIZE_BYTES, &u64::from(device.block).to_ne_bytes())
        .attribute(TIMEOUT, &0u64.to_ne_bytes())
        .attribute(SERVER_FLAGS, &u64::from(device.flags).to_ne_bytes())
        .attribute(DEAD_CONN_TIMEOUT, &dead_timeout.to_ne_bytes());
    let backend = [device.backend.as_bytes(), b"\0"].concat();
    request.attribute(BACKEND_IDENTIFIER, &backend);
    if let Some(socket) = socket {
        let fd = socket.as_raw_fd() as u32;
        request.nested(SOCKETS, |sockets| {
            sockets.nested(SOCK_ITEM, |item| {
                item.attribute(SOCK_FD, &fd.to_ne_bytes());
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_driver_is_told_what_to_do() {
        match Driver::open() {
            Ok(_) => println!("this machine has the driver"),
            Err(error) => assert!(error.to_string().contains("modprobe nbd"), "{error}"),
        }
    }
}
