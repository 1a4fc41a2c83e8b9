//! Random commands against a unit and against an array of bytes.

use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::{collection, prop_assert_eq};
use tokio::runtime::Builder;

use crate::lab::{Initiator, cdb16, code, disk, read16, target, write16};

/// Blocks that the commands touch.
const SPACE: u64 = 24;

#[derive(Debug, Clone)]
enum Step {
    Read { lba: u64, count: u32 },
    Write { lba: u64, blocks: Vec<u8>, opcode: u8 },
    Or { lba: u64, blocks: Vec<u8> },
    Same { lba: u64, count: u32, byte: u8, unmap: bool, no_data: bool },
    Unmap { ranges: Vec<(u64, u32)> },
    Compare { lba: u64, expected: Vec<u8>, new: Vec<u8> },
    Verify { lba: u64, blocks: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let lba = || 0..SPACE - 8;
    let count = || 1u32..8;
    // Few values, so that comparisons succeed now and then.
    let blocks = || collection::vec(0u8..3, 1..8);
    prop_oneof![
        (lba(), count()).prop_map(|(lba, count)| Step::Read { lba, count }),
        (lba(), blocks(), any::<bool>()).prop_map(|(lba, blocks, verify)| Step::Write {
            lba,
            blocks,
            opcode: if verify { 0x8e } else { 0x8a }
        }),
        (lba(), blocks()).prop_map(|(lba, blocks)| Step::Or { lba, blocks }),
        (lba(), count(), 0u8..2, any::<bool>(), any::<bool>())
            .prop_map(|(lba, count, byte, unmap, no_data)| Step::Same { lba, count, byte, unmap, no_data }),
        collection::vec((lba(), 0u32..8), 0..4).prop_map(|ranges| Step::Unmap { ranges }),
        (lba(), collection::vec((0u8..2, 0u8..3), 1..3)).prop_map(|(lba, pairs)| {
            let (expected, new) = pairs.into_iter().unzip();
            Step::Compare { lba, expected, new }
        }),
        (lba(), collection::vec(0u8..2, 1..3)).prop_map(|(lba, blocks)| Step::Verify { lba, blocks }),
    ]
}

struct Model {
    block: usize,
    bytes: Vec<u8>,
}

impl Model {
    fn at(&mut self, lba: u64, count: usize) -> &mut [u8] {
        let from = lba as usize * self.block;
        &mut self.bytes[from..from + count * self.block]
    }

    fn fill(&self, blocks: &[u8]) -> Vec<u8> {
        blocks.iter().flat_map(|byte| std::iter::repeat_n(*byte, self.block)).collect()
    }

    /// Applies a step and says how the command must end: `None` for GOOD, else the offset of the miscompare.
    async fn apply(&mut self, initiator: &Initiator, step: &Step) -> Result<(), String> {
        match step {
            Step::Read { lba, count } => {
                let found = initiator.good(&read16(*lba, *count), &[]).await;
                check(found == self.at(*lba, *count as usize), "read")
            }
            Step::Write { lba, blocks, opcode } => {
                let data = self.fill(blocks);
                let cdb = cdb16(*opcode, 0, *lba, blocks.len() as u32);
                initiator.good(&cdb, &data).await;
                self.at(*lba, blocks.len()).copy_from_slice(&data);
                Ok(())
            }
            Step::Or { lba, blocks } => {
                let data = self.fill(blocks);
                initiator.good(&cdb16(0x8b, 0, *lba, blocks.len() as u32), &data).await;
                self.at(*lba, blocks.len()).iter_mut().zip(data).for_each(|(byte, bits)| *byte |= bits);
                Ok(())
            }
            Step::Same { lba, count, byte, unmap, no_data } => {
                let flags = u8::from(*unmap) << 3 | u8::from(*no_data);
                let data = if *no_data { vec![] } else { self.fill(&[*byte]) };
                initiator.good(&cdb16(0x93, flags, *lba, *count), &data).await;
                let byte = if *no_data { 0 } else { *byte };
                self.at(*lba, *count as usize).fill(byte);
                Ok(())
            }
            Step::Unmap { ranges } => {
                let len = 16 * ranges.len() as u16;
                let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
                for (lba, count) in ranges {
                    list.extend(lba.to_be_bytes());
                    list.extend(count.to_be_bytes());
                    list.extend([0; 4]);
                    self.at(*lba, *count as usize).fill(0);
                }
                let [high, low] = (list.len() as u16).to_be_bytes();
                initiator.good(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], &list).await;
                Ok(())
            }
            Step::Compare { lba, expected, new } => {
                let (expected, new) = (self.fill(expected), self.fill(new));
                let mut cdb = cdb16(0x89, 0, *lba, 0);
                cdb[13] = (new.len() / self.block) as u8;
                let response = initiator.send(&cdb, &[expected.clone(), new.clone()].concat()).await;
                let found = self.at(*lba, cdb[13].into());
                let differs = found.iter().zip(&expected).position(|(x, y)| x != y);
                if differs.is_none() {
                    found.copy_from_slice(&new);
                }
                check(miscompare(&response) == differs, "compare and write")
            }
            Step::Verify { lba, blocks } => {
                let data = self.fill(blocks);
                let response = initiator.send(&cdb16(0x8f, 2, *lba, blocks.len() as u32), &data).await;
                let found = self.at(*lba, blocks.len());
                let differs = found.iter().zip(&data).position(|(x, y)| x != y);
                check(miscompare(&response) == differs, "verify")
            }
        }
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what} differs from the model")) }
}

/// The offset of a miscompare; `None` for GOOD.
fn miscompare(response: &curve_scsi::Response) -> Option<usize> {
    code(response).map(|code| {
        assert_eq!(code, (0xe, 0x1d, 0));
        u32::from_be_bytes([response.sense[3], response.sense[4], response.sense[5], response.sense[6]])
            as usize
    })
}

proptest! {
    #[test]
    fn commands_do_to_a_unit_what_they_do_to_an_array(
        steps in collection::vec(step(), 1..40),
        large in any::<bool>(),
    ) {
        let block_bytes = if large { 4096 } else { 512 };
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let outcome: Result<(), String> = runtime.block_on(async {
            let target = target(&[&disk(1, block_bytes)]);
            let initiator = Initiator::login(&target, 1).await;
            let block = block_bytes as usize;
            let mut model = Model { block, bytes: vec![0; SPACE as usize * block] };
            for step in &steps {
                model.apply(&initiator, step).await.map_err(|what| format!("{what}: {step:?}"))?;
            }
            let all = initiator.good(&read16(0, SPACE as u32), &[]).await;
            check(all == model.bytes, "what is left")
        });
        prop_assert_eq!(outcome, Ok(()));
    }

    /// Any CDB with any data: an answer, and no panic.
    #[test]
    fn garbage_is_answered(cdb in collection::vec(any::<u8>(), 0..20), data in collection::vec(any::<u8>(), 0..4000)) {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let target = target(&[&disk(1, 512)]);
            let initiator = Initiator::login(&target, 1).await;
            initiator.send(&cdb, &data).await;
            // And with each operation code in turn, so that decoding gets that far.
            for spec in curve_scsi::opcodes::COMMANDS {
                let mut cdb = cdb.clone();
                cdb.resize(spec.usage.len().max(cdb.len()), 0);
                cdb[0] = spec.opcode();
                let action = spec.service_action.unwrap_or(u16::from(cdb[1])) as u8;
                cdb[1] = if spec.service_action.is_some() { cdb[1] & 0xe0 | action & 0x1f } else { cdb[1] };
                initiator.send(&cdb, &data).await;
            }
            initiator.send(&write16(0, 1), &data).await;
        });
    }
}
