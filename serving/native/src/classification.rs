//! The classification extension: the largest elements of an output as strings `value:index[:label]`.

use bytes::Bytes;

use crate::datatype::Datatype;
use crate::error::{Failure, Result};
use crate::signature::TensorSpec;
use crate::tensor::{Tensor, elements};

/// The `classes` largest elements of each row (of the whole tensor when its first dimension is no batch),
/// the largest first; of equal elements the one with the lower index.
pub fn classify(
    tensor: &Tensor,
    spec: &TensorSpec,
    labels: &[String],
    batched: bool,
    classes: usize,
) -> Result<Tensor> {
    let batch = match tensor.shape.split_first() {
        Some((&rows, _)) if batched => Some(rows),
        _ => None,
    };
    let row_shape = &tensor.shape[usize::from(batch.is_some())..];
    let row = elements(row_shape).unwrap_or(0);
    let classes = classes.min(row);
    let mut data = Vec::new();
    macro_rules! rows {
        ($type:ty, $compare:expr, $show:expr) => {{
            let (numbers, _) = tensor.data.as_chunks::<{ size_of::<$type>() }>();
            let numbers: Vec<$type> = numbers
                .iter()
                .map(|bytes| <$type>::from_le_bytes(*bytes))
                .collect();
            for row in numbers.chunks_exact(row.max(1)) {
                for index in largest(row, classes, $compare) {
                    append(&mut data, $show(row[index]), index, labels.get(index));
                }
            }
        }};
    }
    macro_rules! integers {
        ($type:ty) => {
            rows!($type, |a: &$type, b: &$type| a.cmp(b), |value: $type| {
                value.to_string()
            })
        };
    }
    macro_rules! floats {
        ($type:ty) => {
            rows!(
                $type,
                |a: &$type, b: &$type| a.total_cmp(b),
                |value: $type| {
                    format!("{value:.6}") // as C prints them
                }
            )
        };
    }
    match spec.datatype {
        Datatype::Uint8 => integers!(u8),
        Datatype::Uint16 => integers!(u16),
        Datatype::Uint32 => integers!(u32),
        Datatype::Uint64 => integers!(u64),
        Datatype::Int8 => integers!(i8),
        Datatype::Int16 => integers!(i16),
        Datatype::Int32 => integers!(i32),
        Datatype::Int64 => integers!(i64),
        Datatype::Fp32 => floats!(f32),
        Datatype::Fp64 => floats!(f64),
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            return Err(unsupported(spec));
        }
    }
    Ok(Tensor {
        shape: batch.into_iter().chain([classes as i64]).collect(),
        data: Bytes::from(data),
    })
}

/// Refuse classes of what cannot be classified, before the model is asked.
pub fn check(spec: &TensorSpec) -> Result<()> {
    match spec.datatype {
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            Err(unsupported(spec))
        }
        _ => Ok(()),
    }
}

fn unsupported(spec: &TensorSpec) -> Failure {
    Failure::invalid(format!(
        "output '{}' has datatype '{}', which cannot be classified",
        spec.name,
        spec.datatype.name()
    ))
}

fn largest<T>(
    row: &[T],
    count: usize,
    compare: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> Vec<usize> {
    let order = |a: &usize, b: &usize| compare(&row[*b], &row[*a]).then(a.cmp(b));
    let mut indices: Vec<usize> = (0..row.len()).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < indices.len() {
        indices.select_nth_unstable_by(count - 1, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

fn append(data: &mut Vec<u8>, value: String, index: usize, label: Option<&String>) {
    let text = match label {
        Some(label) if !label.is_empty() => format!("{value}:{index}:{label}"),
        _ => format!("{value}:{index}"),
    };
    data.extend_from_slice(&(text.len() as u32).to_le_bytes());
    data.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::bytes_elements;

    fn classified(
        shape: &[i64],
        numbers: &[f32],
        labels: &[&str],
        batched: bool,
        classes: usize,
    ) -> (Vec<i64>, Vec<String>) {
        let spec = TensorSpec {
            name: "y".into(),
            datatype: Datatype::Fp32,
            shape: vec![-1, -1],
            text: false,
        };
        let tensor = Tensor {
            shape: shape.to_vec(),
            data: numbers
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect(),
        };
        let labels: Vec<String> = labels.iter().map(|&label| label.into()).collect();
        let classes = classify(&tensor, &spec, &labels, batched, classes).unwrap();
        let strings = bytes_elements(&classes.data)
            .map(|element| String::from_utf8(element.to_vec()).unwrap())
            .collect();
        (classes.shape, strings)
    }

    #[test]
    fn each_row_of_a_batch_has_its_own_classes() {
        let (shape, strings) = classified(
            &[2, 3],
            &[1.0, 3.0, 2.0, -5.0, 0.5, 0.5],
            &["a", "b"],
            true,
            2,
        );
        assert_eq!(shape, [2, 2]);
        assert_eq!(
            strings,
            ["3.000000:1:b", "2.000000:2", "0.500000:1:b", "0.500000:2"]
        );
    }

    #[test]
    fn without_a_batch_the_tensor_is_one_row_and_no_more_classes_than_it_has() {
        let (shape, strings) = classified(&[1, 2], &[1.0, 3.0], &["", "b"], false, 100);
        assert_eq!(shape, [2]);
        assert_eq!(strings, ["3.000000:1:b", "1.000000:0"]);
    }

    #[test]
    fn strings_have_no_classes() {
        let spec = TensorSpec {
            name: "y".into(),
            datatype: Datatype::Bytes,
            shape: vec![-1],
            text: true,
        };
        assert!(check(&spec).unwrap_err().message.contains("'y'"));
    }
}
