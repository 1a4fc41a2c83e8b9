//! Reads on the machine of the leader.

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockError};
use curve_client::mds::OpenMode;
use curve_client::{ClientConfig, Cluster, OpenOptions};
use curve_io::sim::{SimDisk, SimDiskConfig, SimMachine};
use curve_io::{Board, File, Machine, OpenMode as FileMode};

use crate::scripted::{BLOCK, Scripted, pattern};

#[tokio::test(start_paused = true)]
async fn on_the_machine_of_the_leader_the_bytes_are_taken_from_its_file() {
    let world = Scripted::default();
    let disk = SimDisk::new(SimDiskConfig::default());
    let file = disk.mount().open(Path::new("chunk"), FileMode::CreateNew).unwrap();
    world.with(|world| (world.leader, world.file) = (1, Some(file)));
    for (local_reads, calls) in [(true, [1, 1, 2]), (false, [1, 1, 1])] {
        let config = ClientConfig { local_reads, ..ClientConfig::default() };
        let mut cluster = Cluster::with_parts(config, Arc::new(world.clone()), Arc::new(world.clone()), 42);
        cluster.run_on(Arc::new(SimMachine::new(vec![disk.clone()])));
        let volume =
            cluster.open("/demo", OpenOptions { sectors: true, ..Default::default() }).await.unwrap();
        let data: Bytes = (0..4 * BLOCK).map(|i| (i / 100) as u8 + 1).collect::<Vec<u8>>().into();
        volume.write(4 * BLOCK as u64, vec![data.clone()]).await.unwrap();
        let read = async |changes| {
            world.with(|world| (world.changes, _) = (changes, world.calls.clear()));
            let bytes = volume.read(4 * BLOCK as u64 + 512, 8192).await.unwrap().concat();
            assert_eq!(bytes, data.slice(512..512 + 8192));
            world.with(|world| world.calls.len())
        };
        // What was changed is asked for again.
        assert_eq!([read(false).await, read(false).await, read(true).await], calls);
        volume.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_holds_a_volume_alone_reads_unasked_what_it_knows_while_the_leader_pledges_it() {
    for (mode, asks) in [(OpenMode::Exclusive, false), (OpenMode::Shared, true)] {
        let world = Scripted::default();
        let disk = SimDisk::new(SimDiskConfig::default());
        let file = disk.mount().open(Path::new("chunk"), FileMode::CreateNew).unwrap();
        let pledge = disk.mount().board().unwrap().pledge().unwrap();
        pledge.hold_always();
        world.with(|world| (world.leader, world.file, world.pledge) = (1, Some(file.clone()), Some(pledge)));
        let (parts, config) = ((Arc::new(world.clone()), Arc::new(world.clone())), ClientConfig::default());
        let mut cluster = Cluster::with_parts(config, parts.0, parts.1, 42);
        cluster.run_on(Arc::new(SimMachine::new(vec![disk])));
        let options = OpenOptions { mode, sectors: true, ..Default::default() };
        let volume = cluster.open("/demo", options).await.unwrap();
        let read = async |offset: u64, len: u32| {
            world.with(|world| world.calls.clear());
            let bytes = volume.read(offset, len).await.map(|parts| parts.concat());
            (bytes, world.with(|world| world.calls.len()))
        };
        let asked = usize::from(asks);
        volume.write(0, vec![pattern(1, 4)]).await.unwrap();
        let ones = vec![1; 4 * BLOCK];
        assert_eq!(read(0, 4096).await, (Ok(ones[..4096].to_vec()), 1), "nobody has said where it is");
        assert_eq!(read(0, 16384).await, (Ok(ones), asked), "what is around it was told, too");
        assert_eq!(read(8192 - 512, 1024).await, (Ok(vec![1; 1024]), asked));

        volume.write(4096, vec![pattern(2, 1)]).await.unwrap();
        let expected = [vec![1; BLOCK], vec![2; BLOCK], vec![1; BLOCK]].concat();
        assert_eq!(read(0, 12288).await, (Ok(expected), asked), "its own writes it knows");
        file.punch(0, 4096).unwrap();
        assert_eq!(read(0, 4096).await, (Ok(vec![1; BLOCK]), 2), "what is damaged is asked for");
        world.with(|world| {
            world.held_epoch = 2;
            world.pledge.as_ref().unwrap().change();
        });
        assert_eq!(read(8192, 4096).await.0, Err(BlockError::Fenced));
        assert_eq!(world.with(|world| world.calls.len()), 1, "it had to ask");
    }
}

/// A machine that knows which of the files that were opened on it are still open.
struct Watched(SimMachine, Mutex<Vec<Weak<dyn File>>>);

impl Watched {
    fn open_files(&self) -> usize {
        self.1.lock().unwrap().iter().filter(|file| file.strong_count() > 0).count()
    }
}

impl Machine for Watched {
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn open(&self, place: curve_io::FilePlace, path: &Path) -> std::io::Result<Arc<dyn File>> {
        let file = self.0.open(place, path)?;
        self.1.lock().unwrap().push(Arc::downgrade(&file));
        Ok(file)
    }

    fn board(&self, place: curve_io::FilePlace, path: &Path) -> std::io::Result<Arc<Board>> {
        self.0.board(place, path)
    }

    fn files_max(&self) -> usize {
        self.0.files_max()
    }
}

#[tokio::test(start_paused = true)]
async fn files_that_are_not_read_from_are_closed_also_by_who_was_shut_out() {
    for fenced in [false, true] {
        let world = Scripted::default();
        let disk = SimDisk::new(SimDiskConfig::default());
        let file = disk.mount().open(Path::new("chunk"), FileMode::CreateNew).unwrap();
        world.with(|world| (world.leader, world.file) = (1, Some(file)));
        let (parts, config) = ((Arc::new(world.clone()), Arc::new(world.clone())), ClientConfig::default());
        let mut cluster = Cluster::with_parts(config, parts.0, parts.1, 42);
        let machine = Arc::new(Watched(SimMachine::new(vec![disk]), Mutex::default()));
        cluster.run_on(machine.clone());
        let volume = cluster.open("/demo", OpenOptions::default()).await.unwrap();
        volume.write(0, vec![pattern(1, 1)]).await.unwrap();
        volume.read(0, 4096).await.unwrap();
        assert_eq!(machine.open_files(), 1);
        if fenced {
            world.with(|world| world.held_epoch = 2);
            assert_eq!(volume.read(0, 4096).await, Err(BlockError::Fenced));
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(machine.open_files(), 0, "fenced: {fenced}");
    }
}
