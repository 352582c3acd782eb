//! What becomes of a model's outputs before a protocol writes them: classes instead of numbers, or a place
//! in shared memory.

use crate::classification;
use crate::datatype::Datatype;
use crate::error::Result;
use crate::request::Wanted;
use crate::signature::Signature;
use crate::tensor::Tensor;

/// An output as the caller gets it.
pub struct Output<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub tensor: Tensor,
    pub carrier: Carrier,
}

/// How an output's data travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Json,
    Binary,
    /// They lie there already.
    SharedMemory,
}

/// How many bytes of outputs have to be looked at, rather than passed on or copied as they are.
pub fn work(wanted: &[Wanted], tensors: &[Tensor]) -> usize {
    wanted
        .iter()
        .zip(tensors)
        .filter(|(wanted, _)| wanted.classes > 0 || !(wanted.binary || wanted.slot.is_some()))
        .map(|(_, tensor)| tensor.data.len())
        .sum()
}

/// Finish outputs, which are in the order of `wanted`.
pub fn outputs<'a>(
    signature: &'a Signature,
    wanted: &[Wanted],
    tensors: Vec<Tensor>,
) -> Result<Vec<Output<'a>>> {
    let mut outputs = Vec::with_capacity(tensors.len());
    for (wanted, mut tensor) in wanted.iter().zip(tensors) {
        let spec = &signature.outputs[wanted.output];
        let mut datatype = spec.datatype;
        if wanted.classes > 0 {
            let labels = signature
                .labels
                .get(wanted.output)
                .map_or(&[][..], Vec::as_slice);
            let batched = signature.max_batch.is_some();
            tensor = classification::classify(&tensor, spec, labels, batched, wanted.classes)?;
            datatype = Datatype::Bytes;
        }
        let carrier = match &wanted.slot {
            Some(slot) => {
                slot.write(&spec.name, &tensor.data)?;
                Carrier::SharedMemory
            }
            None if wanted.binary => Carrier::Binary,
            None => Carrier::Json,
        };
        outputs.push(Output {
            name: &spec.name,
            datatype,
            tensor,
            carrier,
        });
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::shm::Regions;

    #[test]
    fn what_is_copied_or_passed_on_is_no_work() {
        let name = format!("capstan-reply-{}", std::process::id());
        let path = format!("/dev/shm/{name}");
        std::fs::write(&path, [0; 8]).unwrap();
        let regions = Regions::new(true, 8);
        regions.register("r", &name, 0, 8).unwrap();
        std::fs::remove_file(path).unwrap();
        let slot = || Some(regions.slot("y", "r", 0, 8).unwrap());
        for (binary, classes, slot, bytes) in [
            (true, 0, None, 0),
            (false, 0, slot(), 0),
            (false, 0, None, 8),
            (true, 1, None, 8),
            (false, 1, slot(), 8),
        ] {
            let wanted = Wanted {
                output: 0,
                binary,
                classes,
                slot,
            };
            let tensor = Tensor {
                shape: vec![8],
                data: Bytes::from_static(&[0; 8]),
            };
            assert_eq!(work(&[wanted], &[tensor]), bytes, "{binary} {classes}");
        }
    }
}
