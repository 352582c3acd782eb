//! A Python backend as the model's workers see it: numpy views on the requests' buffers go in, and what
//! it returns goes out without passing through another copy when it is large.

use std::ffi::{c_int, c_void};
use std::time::Instant;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::counters::Phases;
use crate::datatype::Datatype;
use crate::error::{Failure, Result};
use crate::model::Backend;
use crate::signature::{Signature, TensorSpec};
use crate::tensor::Tensor;

/// Outputs up to this size are copied, which is cheaper than keeping the array alive until it is sent.
const COPY_UP_TO: usize = 64 * 1024;

/// A request's bytes as a read-only Python buffer.
#[pyclass(frozen, module = "capstan_serving._native")]
pub struct Memory(Bytes);

#[pymethods]
impl Memory {
    /// # Safety
    /// Python calls it with a view to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let data = &slf.get().0;
        // SAFETY: the bytes live as long as the object, to which the view holds a reference, and the
        // view is read-only.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                data.as_ptr().cast_mut().cast::<c_void>(),
                data.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

/// What a backend executes: arrays by input name, and the names of the outputs it has to return, in
/// this order.
#[pyclass(frozen, get_all, module = "capstan_serving._native")]
pub struct Batch {
    inputs: Py<PyDict>,
    outputs: Py<PyTuple>,
}

#[pymethods]
impl Batch {
    #[new]
    fn new(inputs: Py<PyDict>, outputs: Py<PyTuple>) -> Self {
        Self { inputs, outputs }
    }
}

/// An input or output, with what Python needs of it prepared.
struct Slot {
    spec: TensorSpec,
    name: Py<PyString>,
    dtype: Py<PyAny>,
}

pub struct PythonBackend {
    execute: Py<PyAny>,
    doing: String,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    all_outputs: Py<PyTuple>,
    ndarray: Py<PyAny>,
    decode_strings: Py<PyAny>,
    encode_strings: Py<PyAny>,
    contiguous: Py<PyAny>,
}

impl PythonBackend {
    pub fn new(
        py: Python<'_>,
        model: &str,
        signature: &Signature,
        execute: Py<PyAny>,
    ) -> PyResult<Self> {
        let numpy = py.import("numpy")?;
        let strings = py.import("capstan_serving.strings")?;
        let slots = |specs: &[TensorSpec]| {
            specs
                .iter()
                .map(|spec| {
                    let dtype = numpy.call_method1("dtype", (numpy_name(spec.datatype),))?;
                    Ok(Slot {
                        spec: spec.clone(),
                        name: PyString::intern(py, &spec.name).unbind(),
                        dtype: dtype.unbind(),
                    })
                })
                .collect::<PyResult<Vec<_>>>()
        };
        let outputs = slots(&signature.outputs)?;
        Ok(Self {
            execute,
            doing: format!("inference with model '{}'", model.escape_default()),
            inputs: slots(&signature.inputs)?,
            all_outputs: PyTuple::new(py, outputs.iter().map(|slot| slot.name.bind(py)))?.unbind(),
            outputs,
            ndarray: numpy.getattr("ndarray")?.unbind(),
            decode_strings: strings.getattr("decode")?.unbind(),
            encode_strings: strings.getattr("encode")?.unbind(),
            contiguous: numpy.getattr("ascontiguousarray")?.unbind(),
        })
    }

    fn view<'py>(
        &self,
        py: Python<'py>,
        slot: &Slot,
        tensor: Tensor,
    ) -> PyResult<Bound<'py, PyAny>> {
        let memory = Bound::new(py, Memory(tensor.data))?;
        let shape = PyTuple::new(py, tensor.shape)?;
        match slot.spec.datatype {
            Datatype::Bytes => self
                .decode_strings
                .bind(py)
                .call1((memory, shape, slot.spec.text)),
            _ => self
                .ndarray
                .bind(py)
                .call1((shape, slot.dtype.bind(py), memory)),
        }
    }

    fn names<'py>(&self, py: Python<'py>, outputs: &[usize]) -> PyResult<Bound<'py, PyTuple>> {
        if outputs.iter().copied().eq(0..self.outputs.len()) {
            return Ok(self.all_outputs.bind(py).clone());
        }
        PyTuple::new(
            py,
            outputs
                .iter()
                .map(|&output| self.outputs[output].name.bind(py)),
        )
    }

    fn tensor(&self, slot: &Slot, array: Bound<'_, PyAny>) -> PyResult<Tensor> {
        let py = array.py();
        let shape: Vec<i64> = array.getattr("shape")?.extract()?;
        if slot.spec.datatype == Datatype::Bytes {
            let data = self.encode_strings.bind(py).call1((array,))?;
            return Ok(Tensor {
                shape,
                data: Bytes::from(data.extract::<Vec<u8>>()?),
            });
        }
        let dtype = array.getattr("dtype")?;
        if !dtype.is(slot.dtype.bind(py)) && !dtype.eq(slot.dtype.bind(py))? {
            return Err(PyValueError::new_err(format!(
                "output '{}' came back as {dtype}, the signature says {}",
                slot.spec.name,
                slot.spec.datatype.name()
            )));
        }
        let mut array = array;
        if !array
            .getattr("flags")?
            .get_item("C_CONTIGUOUS")?
            .extract()?
        {
            array = self.contiguous.bind(py).call1((array,))?;
        }
        let (address, length) = contents(&array)?;
        // SAFETY: the array owns this memory, and nobody writes to it any more: the backend has handed it
        // over.
        let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, length) };
        let data = if length <= COPY_UP_TO {
            Bytes::copy_from_slice(bytes)
        } else {
            Bytes::from_owner(Kept {
                address,
                length,
                _array: array.unbind(),
            })
        };
        Ok(Tensor { shape, data })
    }

    fn run(
        &self,
        py: Python<'_>,
        inputs: Vec<Tensor>,
        outputs: &[usize],
    ) -> PyResult<(Vec<Tensor>, Phases)> {
        let start = Instant::now();
        let arrays = PyDict::new(py);
        for (slot, tensor) in self.inputs.iter().zip(inputs) {
            arrays.set_item(slot.name.bind(py), self.view(py, slot, tensor)?)?;
        }
        let batch = Batch {
            inputs: arrays.unbind(),
            outputs: self.names(py, outputs)?.unbind(),
        };
        let prepared = Instant::now();
        let results = self.execute.bind(py).call1((batch,))?;
        let executed = Instant::now();
        let results: Vec<Bound<'_, PyAny>> = results.try_iter()?.collect::<PyResult<_>>()?;
        if results.len() != outputs.len() {
            return Err(PyValueError::new_err(format!(
                "{} outputs came back, {} were asked for",
                results.len(),
                outputs.len()
            )));
        }
        let tensors = outputs
            .iter()
            .zip(results)
            .map(|(&output, array)| self.tensor(&self.outputs[output], array))
            .collect::<PyResult<_>>()?;
        let phases = Phases {
            input: prepared - start,
            infer: executed - prepared,
            output: executed.elapsed(),
        };
        Ok((tensors, phases))
    }
}

impl Backend for PythonBackend {
    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        super::enter(work);
    }

    fn execute(&self, inputs: Vec<Tensor>, outputs: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
        Python::attach(|py| {
            self.run(py, inputs, outputs)
                .map_err(|error| -> Failure { super::failure(py, error, &self.doing) })
        })
    }
}

/// Where a contiguous array's bytes lie, and how many they are. The buffer is given back at once: the
/// memory stays as long as the array does.
fn contents(array: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    let mut view = std::mem::MaybeUninit::<ffi::Py_buffer>::uninit();
    // SAFETY: the view is filled when 0 is returned, and released once.
    unsafe {
        if ffi::PyObject_GetBuffer(array.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE) != 0 {
            return Err(PyErr::fetch(array.py()));
        }
        let mut view = view.assume_init();
        let length = view.len as usize;
        let address = match length {
            0 => std::ptr::NonNull::<u8>::dangling().as_ptr() as usize,
            _ => view.buf as usize,
        };
        ffi::PyBuffer_Release(&mut view);
        Ok((address, length))
    }
}

/// An array that stays until the last of its bytes is sent. Dropping the reference needs no GIL here:
/// pyo3 then defers it to the next thread that holds it.
struct Kept {
    address: usize,
    length: usize,
    _array: Py<PyAny>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the array owns this memory and lives as long as `self`; nobody resizes or writes it.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.length) }
    }
}

/// The numpy type of a datatype. BF16 has none: its bits travel as UINT16; BYTES are objects.
fn numpy_name(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "?",
        Datatype::Uint8 => "u1",
        Datatype::Uint16 | Datatype::Bf16 => "<u2",
        Datatype::Uint32 => "<u4",
        Datatype::Uint64 => "<u8",
        Datatype::Int8 => "i1",
        Datatype::Int16 => "<i2",
        Datatype::Int32 => "<i4",
        Datatype::Int64 => "<i8",
        Datatype::Fp16 => "<f2",
        Datatype::Fp32 => "<f4",
        Datatype::Fp64 => "<f8",
        Datatype::Bytes => "O",
    }
}
