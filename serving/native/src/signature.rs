//! What a model takes and gives, and the checks of a request against it. Every error names the tensor.

use bytes::Bytes;

use crate::datatype::Datatype;
use crate::error::{Failure, Result, shown};
use crate::tensor::{Tensor, aligned, bytes_elements, bytes_length, elements};

/// One input or output. A dimension of -1 may be of any size.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<i64>,
    /// BYTES elements that must be UTF-8, because the backend's strings are.
    pub text: bool,
}

/// A model's inputs and outputs, in its own order.
#[derive(Clone, Debug)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Rows that may be put together in one execution; `None` when the first dimension is no batch.
    pub max_batch: Option<usize>,
    /// A request that has more rows is refused, because the model's configuration says so, rather than executed
    /// alone.
    pub limited: bool,
    /// The names of an output's elements, for classification; shorter, or none, where they have none.
    pub labels: Vec<Vec<String>>,
}

impl Signature {
    pub fn output(&self, name: &str) -> Result<usize> {
        position(&self.outputs, name).ok_or_else(|| {
            Failure::invalid(format!(
                "unexpected inference output '{}'; the model's outputs are {}",
                shown(name),
                names(&self.outputs)
            ))
        })
    }
}

impl Signature {
    /// How many bytes of a request have to be looked at: its text, and the elements that are checked one by one.
    pub fn work(&self, whole: usize, text: usize) -> usize {
        let checked = |spec: &TensorSpec| matches!(spec.datatype, Datatype::Bytes | Datatype::Bool);
        match self.inputs.iter().any(checked) {
            true => whole,
            false => text,
        }
    }
}

impl TensorSpec {
    /// The number of elements of a request's tensor, after its datatype and shape were found right.
    pub fn check(&self, datatype: &str, shape: &[i64]) -> Result<usize> {
        if datatype != self.datatype.name() {
            return Err(Failure::invalid(format!(
                "input '{}' has datatype '{}', the model expects '{}'",
                self.name,
                shown(datatype),
                self.datatype.name()
            )));
        }
        let fits = shape.len() == self.shape.len()
            && shape
                .iter()
                .zip(&self.shape)
                .all(|(&given, &wanted)| given > 0 && (wanted == -1 || given == wanted));
        if !fits {
            return Err(Failure::invalid(format!(
                "input '{}' has shape {shape:?}, the model expects {:?} (-1 stands for any size above 0)",
                self.name, self.shape
            )));
        }
        elements(shape)
            .filter(|count| {
                count
                    .checked_mul(self.datatype.size().unwrap_or(4))
                    .is_some_and(|size| isize::try_from(size).is_ok())
            })
            .ok_or_else(|| {
                Failure::invalid(format!(
                    "input '{}' has shape {shape:?}, which is too large",
                    self.name
                ))
            })
    }

    /// Check that `size` bytes can be what `count` elements take, before anything of that size is allocated.
    pub fn check_size(&self, size: usize, count: usize) -> Result<()> {
        let needed = match self.datatype.size() {
            Some(each) => each * count,
            None if size >= 4 * count => size,
            None => 4 * count,
        };
        if size == needed {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "input '{}' has {size} bytes of data, its shape and datatype need {needed}",
            self.name
        )))
    }

    /// Check that the bytes are what `count` elements take.
    pub fn check_data(&self, data: &[u8], count: usize) -> Result<()> {
        let Some(size) = self.datatype.size() else {
            return self.check_strings(data, count);
        };
        if data.len() != count * size {
            return Err(Failure::invalid(format!(
                "input '{}' has {} bytes of data, its shape and datatype need {}",
                self.name,
                data.len(),
                count * size
            )));
        }
        if self.datatype == Datatype::Bool && data.iter().any(|&byte| byte > 1) {
            return Err(Failure::invalid(format!(
                "input '{}' holds a BOOL that is neither 0 nor 1",
                self.name
            )));
        }
        Ok(())
    }

    fn check_strings(&self, data: &[u8], count: usize) -> Result<()> {
        if bytes_length(data, count) != Some(data.len()) {
            return Err(Failure::invalid(format!(
                "input '{}' does not hold exactly the {count} BYTES elements of its shape, each after its 4-byte length",
                self.name
            )));
        }
        if self.text && bytes_elements(data).any(|element| std::str::from_utf8(element).is_err()) {
            return Err(Failure::invalid(format!(
                "input '{}' holds a string that is not UTF-8",
                self.name
            )));
        }
        Ok(())
    }

    /// The shape of a raw request, which says none: the one unknown dimension follows from the size of
    /// its data (a leading one is taken as 1 when there is another).
    pub fn shape_of_raw(&self, size: usize) -> Result<Vec<i64>> {
        let mut shape = self.shape.clone();
        let Some(element_size) = self.datatype.size() else {
            shape.fill(1); // the data is the one element
            return Ok(shape);
        };
        let unknown = shape.iter().filter(|&&dimension| dimension == -1).count();
        if unknown > 1 && shape[0] == -1 {
            shape[0] = 1;
        }
        let mut open: Vec<&mut i64> = Vec::new();
        let mut known = element_size;
        for dimension in &mut shape {
            match usize::try_from(*dimension) {
                Ok(number) => known = known.saturating_mul(number),
                Err(_) => open.push(dimension),
            }
        }
        match open.as_mut_slice() {
            [] => Ok(shape),
            [dimension] if size.is_multiple_of(known.max(1)) => {
                **dimension = i64::try_from(size / known.max(1)).unwrap_or(i64::MAX);
                Ok(shape)
            }
            [_] => Err(Failure::invalid(format!(
                "input '{}' has {size} bytes of raw data, which is no multiple of the {known} that its shape {:?} needs",
                self.name, self.shape
            ))),
            _ => Err(Failure::invalid(format!(
                "a raw request cannot say the shape of input '{}', {:?}, which has several unknown dimensions",
                self.name, self.shape
            ))),
        }
    }
}

/// Collects a request's inputs in the model's order, whatever order they came in.
pub struct Inputs<'a> {
    specs: &'a [TensorSpec],
    slots: Vec<Option<Tensor>>,
}

impl<'a> Inputs<'a> {
    pub fn new(signature: &'a Signature) -> Self {
        Self {
            specs: &signature.inputs,
            slots: vec![None; signature.inputs.len()],
        }
    }

    /// Take one input; `data` is asked for its bytes once its datatype and shape are known to be right.
    pub fn put(
        &mut self,
        name: &str,
        datatype: &str,
        shape: Vec<i64>,
        data: impl FnOnce(&TensorSpec, usize) -> Result<Bytes>,
    ) -> Result<()> {
        let index = position(self.specs, name).ok_or_else(|| {
            Failure::invalid(format!(
                "unexpected inference input '{}'; the model's inputs are {}",
                shown(name),
                names(self.specs)
            ))
        })?;
        let spec = &self.specs[index];
        if self.slots[index].is_some() {
            return Err(Failure::invalid(format!("input '{name}' is given twice")));
        }
        let count = spec.check(datatype, &shape)?;
        let data = data(spec, count)?;
        spec.check_data(&data, count)?;
        self.slots[index] = Some(Tensor {
            shape,
            data: aligned(data, spec.datatype),
        });
        Ok(())
    }

    /// All inputs, in the model's order.
    pub fn finish(self, signature: &Signature) -> Result<Vec<Tensor>> {
        let mut inputs = Vec::with_capacity(self.slots.len());
        for (spec, slot) in self.specs.iter().zip(self.slots) {
            inputs.push(slot.ok_or_else(|| {
                Failure::invalid(format!(
                    "expected {} inputs, input '{}' is missing",
                    self.specs.len(),
                    spec.name
                ))
            })?);
        }
        if signature.max_batch.is_some() {
            let rows = inputs[0].shape[0];
            if let Some(odd) = inputs.iter().position(|input| input.shape[0] != rows) {
                return Err(Failure::invalid(format!(
                    "input '{}' has batch size {}, input '{}' has {rows}",
                    self.specs[odd].name, inputs[odd].shape[0], self.specs[0].name
                )));
            }
        }
        Ok(inputs)
    }
}

fn position(specs: &[TensorSpec], name: &str) -> Option<usize> {
    specs.iter().position(|spec| spec.name == name)
}

fn names(specs: &[TensorSpec]) -> String {
    let quoted: Vec<String> = specs
        .iter()
        .map(|spec| format!("'{}'", spec.name))
        .collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec {
            name: "x".into(),
            datatype,
            shape: shape.to_vec(),
            text: true,
        }
    }

    #[test]
    fn hostile_shapes_are_refused_before_anything_is_allocated() {
        let any = spec(Datatype::Fp64, &[-1, -1]);
        for shape in [
            vec![0, 1],
            vec![-1, 1],
            vec![i64::MIN, 1],
            vec![1],
            vec![1, 1, 1],
            vec![i64::MAX, 2],
            vec![1 << 31, 1 << 31],
        ] {
            let failure = any.check("FP64", &shape).unwrap_err();
            assert!(failure.message.contains("'x'"), "{failure}");
        }
        assert_eq!(any.check("FP64", &[2, 3]), Ok(6));
        assert!(any.check("FP32", &[2, 3]).is_err());
    }

    #[test]
    fn strings_must_be_complete_and_utf8() {
        let strings = spec(Datatype::Bytes, &[-1]);
        assert!(strings.check_data(b"\x02\0\0\0\xc3\xa9", 1).is_ok());
        assert!(strings.check_data(b"\x02\0\0\0\xc3\x28", 1).is_err());
        assert!(strings.check_data(b"\x02\0\0\0\xc3\xa9!", 1).is_err());
        assert!(strings.check_data(b"\x03\0\0\0\xc3\xa9", 1).is_err());
    }

    #[test]
    fn raw_shapes() {
        assert_eq!(
            spec(Datatype::Fp32, &[-1, 4]).shape_of_raw(32),
            Ok(vec![2, 4])
        );
        assert_eq!(
            spec(Datatype::Fp32, &[-1, -1]).shape_of_raw(32),
            Ok(vec![1, 8])
        );
        assert_eq!(
            spec(Datatype::Fp32, &[2, 4]).shape_of_raw(7),
            Ok(vec![2, 4])
        );
        assert!(spec(Datatype::Fp32, &[-1, 4]).shape_of_raw(7).is_err());
        assert!(spec(Datatype::Fp32, &[3, -1, -1]).shape_of_raw(24).is_err());
        assert_eq!(
            spec(Datatype::Bytes, &[-1, 1]).shape_of_raw(7),
            Ok(vec![1, 1])
        );
    }

    proptest! {
        #[test]
        fn no_shape_panics(shape in prop::collection::vec(any::<i64>(), 0..5), size in any::<usize>()) {
            let _ = spec(Datatype::Fp32, &[-1, -1]).check("FP32", &shape);
            let _ = spec(Datatype::Fp32, &shape).shape_of_raw(size);
        }
    }
}
